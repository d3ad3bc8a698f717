"""native/: what a program needs of memory, loaded in each way, and what is said where there is less."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_hadanorm.bundle import program_bytes
from edge_hadanorm.exporters.xnnpack.program import export
from edge_hadanorm.exporters.xnnpack.target import lower
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import named
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.pipelines.drawing import Wish
from runtime_tests.device import programs
from runtime_tests.device.machine import HOST, Machine, RunnerError
from runtime_tests.device.script import write_script
from runtime_tests.support.helpers import randn

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


def test_packed_weights_in_a_file_are_no_private_memory(program, x, tmp_path):
    """Neither in the run that packs them nor in the next one, which does not; a file that was cut off is made anew."""
    expected, little = HOST.run(program, "forward", [x]).output(), limited(BESIDES)
    packed = tmp_path / f"{program.name}.packed"
    for kept in (0, 1, 0.5):
        if kept:
            os.truncate(packed, int(kept * packed.stat().st_size))
        assert np.array_equal(little.run(program, "forward", [x], cache=tmp_path).output(), expected)
        assert packed.stat().st_size == pytest.approx(program.stat().st_size, rel=0.05)
    with pytest.raises(RunnerError, match="not enough memory"):
        limited(MEGABYTE).run(program, "forward", [x], cache=tmp_path)


def test_a_picture_of_the_reference_model_needs_what_is_documented(host, tmp_path):
    """Its programs so many times, and 16 MB; with less it says that there is not enough.

    With packed weights in a file 5 MB are enough to read them again.
    """
    made = programs.reference_bundle("hadanorm-w4a8")
    script = write_script(tmp_path, made, Wish(made.golden["prompt"], made.plan(1), 1.5, 0))
    size = program_bytes(made.manifest)
    for copies, less, options in ((1, 10, {"load": "mmap"}), (2, 10, {"load": "file"}), (0, 4, {"cache": tmp_path})):
        limited(copies * size + BESIDES).call(["generate", script], **options)
        with pytest.raises(RunnerError, match="not enough memory") as failed:
            limited(copies * size + less * MEGABYTE).call(["generate", script], **options)
        assert failed.value.status == OUT_OF_MEMORY


def test_a_phone_that_cannot_hold_both_maps_the_program(program, x):
    between = limited(COPIES["mmap"] * program.stat().st_size + BESIDES)
    assert between.run(program, "forward", [x], load="mmap").output().size == x.size
    with pytest.raises(RunnerError, match="not enough memory"):
        between.run(program, "forward", [x], load="file")
