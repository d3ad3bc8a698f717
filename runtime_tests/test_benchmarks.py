"""benchmarks/: what is timed there computes what it says."""

from collections import Counter

import pytest
import torch
from operators import operator_times
from rotation_variants import FUSED, LLAMA, VARIANTS, WIDTHS, case

from edge_hadanorm.bench.case import Case
from edge_hadanorm.bench.contenders import edge_program


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in (FUSED, LLAMA)])
@torch.no_grad()
def test_every_rotation_gives_the_same_product(name, width):
    y = VARIANTS[name].module(width)(case(width).x)
    assert (y - case(width).exact).norm() < 1e-5 * case(width).exact.norm()


@pytest.mark.slow
def test_the_operators_of_a_step_are_timed_by_kind(tmp_path):
    file, inputs = edge_program(Case(blocks=1, tokens=16), tmp_path, "hadanorm-folded-w8a8")
    times, whole = operator_times(file.read_bytes(), "denoise", inputs)
    assert isinstance(times, Counter)
    assert 0 < times.total() < 1.5 * whole
    assert any("QC8W" in operator for operator in times)
    assert any("Softmax" in operator for operator in times)
    assert not any("layer_norm" in operator for operator in times)
