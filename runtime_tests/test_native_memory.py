"""native/: what a program needs of memory, loaded from a file or mapped, and what is said where there is less."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_hadanorm.export.program import export
from edge_hadanorm.export.xnnpack import lower
from edge_hadanorm.linear import QuantizedLinear
from edge_hadanorm.recipe import named
from edge_hadanorm.transform import FeatureTransform
from helpers import randn
from native.machine import HOST, Machine, RunnerError

pytestmark = pytest.mark.slow

WIDTH, LINEARS = 2048, 6
MEGABYTE = 1_000_000
OUT_OF_MEMORY = 7
# As runner.cpp says: copies of the program in private memory, and what there is besides.
COPIES, BESIDES = {"mmap": 1, "file": 2}, 16 * MEGABYTE


@pytest.fixture(scope="module")
def program(host, tmp_path_factory) -> Path:
    """25 MB of 8-bit weights."""
    codes = torch.randint(-127, 128, (WIDTH, WIDTH), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    scale, recipe = torch.full((WIDTH, 1), 1e-3), named("rtn-w8a8")
    linears = [QuantizedLinear(recipe, FeatureTransform(), codes.roll(i, 0), scale, None) for i in range(LINEARS)]
    lowered, _ = lower({"forward": export(nn.Sequential(*linears), (torch.zeros(1, 16, WIDTH),))})
    file = tmp_path_factory.mktemp("memory") / "program.pte"
    file.write_bytes(lowered.buffer)
    assert file.stat().st_size == pytest.approx(LINEARS * WIDTH**2, rel=0.01)
    return file


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return randn(1, 16, WIDTH, dtype=torch.float32).numpy()


def limited(size: int) -> Machine:
    """This machine with so many bytes of private memory."""
    return dataclasses.replace(HOST, prefix=("prlimit", f"--data={size}"))


@pytest.mark.parametrize("load", COPIES)
def test_the_peak_is_twice_the_program_and_a_little(program, x, load):
    """Weights are packed into memory of their own beside the program, which was mapped or read."""
    ran = HOST.run(program, "forward", [x], load=load)
    peak, size = 1024 * ran.report["peak_rss_kib"], program.stat().st_size
    assert 1.9 * size < peak < 2 * size + BESIDES


@pytest.mark.parametrize("load", COPIES)
def test_a_limit_of_memory_is_kept_or_said(program, x, load):
    """Enough memory gives the same output; less ends with a status of its own and one line."""
    size = program.stat().st_size
    expected = HOST.run(program, "forward", [x], load=load).output()
    enough = limited(COPIES[load] * size + BESIDES).run(program, "forward", [x], load=load)
    assert np.array_equal(enough.output(), expected)
    for copies in (COPIES[load], COPIES[load] - 0.5):
        with pytest.raises(RunnerError, match="not enough memory") as failed:
            limited(int(copies * size)).run(program, "forward", [x], load=load)
        assert failed.value.status == OUT_OF_MEMORY
        assert len(failed.value.line.splitlines()) == 1


def test_a_phone_that_cannot_hold_both_maps_the_program(program, x):
    between = limited(COPIES["mmap"] * program.stat().st_size + BESIDES)
    assert between.run(program, "forward", [x], load="mmap").output().size == x.size
    with pytest.raises(RunnerError, match="not enough memory"):
        between.run(program, "forward", [x], load="file")
