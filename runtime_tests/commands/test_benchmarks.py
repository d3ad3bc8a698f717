"""benchmarks/: what is timed there computes what it says."""

from collections import Counter

import pytest
import torch

from edge_hadanorm.bench.case import Case
from edge_hadanorm.bench.contenders import edge_program
from runtime_tests.benchmarks import coreml
from runtime_tests.benchmarks.operators import operator_times
from runtime_tests.benchmarks.quality import KINDS, METHODS, by_kind, never_worse, tables
from runtime_tests.benchmarks.rotation_variants import FUSED, LLAMA, VARIANTS, WIDTHS, case


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in (FUSED, LLAMA)])
@torch.no_grad()
def test_every_rotation_gives_the_same_product(name, width):
    y = VARIANTS[name].module(width)(case(width).x)
    assert (y - case(width).exact).norm() < 1e-5 * case(width).exact.norm()


def made_up(denoiser_db: float, **layers: float) -> dict:
    """A result of the quality benchmark."""
    return {
        "denoiser_sqnr_db": denoiser_db,
        "image_psnr_db": denoiser_db + 10,
        "layers": {
            f"blocks.0.{name}": layers.get(name.replace(".", "_"), 20.0) for names in KINDS.values() for name in names
        },
        "stored_bits": 4.1,
        "quantize_seconds": 1.0,
    }


def test_linears_are_averaged_by_kind():
    kinds = by_kind(made_up(20.0, attn2_q=26.0, ff_down=10.0)["layers"])
    assert kinds == {
        "attention in": 20,
        "attention out": 20,
        "cross-attention": 22,
        "feed-forward in": 20,
        "feed-forward out": 10,
    }


def test_a_linear_is_worse_where_another_method_is_better_by_more_than_the_tolerance():
    results = {"rtn": made_up(20.0, ff_up=25.0, attn1_out=20.1), "hadanorm-auto": made_up(30.0)}
    assert never_worse(results, "hadanorm-auto", METHODS) == pytest.approx(6 / 7)


def test_tables_name_every_method_and_what_ours_gains():
    results = {f"reference {method}-w4a8": made_up(20.0 + i) for i, method in enumerate(METHODS)}
    text = tables(results)
    assert all(f"| `{method}` |" in text for method in METHODS)
    gain = METHODS.index("hadanorm-auto") - METHODS.index("vidit-q")
    assert f"| `hadanorm-auto` over the best of other authors without a branch |  | {gain:+.1f} |" in text
    assert "stress" not in text


def test_a_table_of_packages_has_a_row_for_each():
    row = {
        "recipe": "rtn-w8a8-static",
        "target": "iOS17",
        "bytes": 12_345_678,
        "operators": 90,
        "seconds": 12.3,
        "simulated_psnr_db": 45.678,
        "package_psnr_db": 45.5,
        "step_error": {"fp32": 1.2e-6, "fp16": 0.004},
    }
    lines = coreml.table([row, row | {"recipe": "rtn-w4a8-static"}]).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| `rtn-w8a8-static` | iOS17 | 12.3 | 90 | 12 | 45.68 | 45.50 | 1.2e-06 | 4.0e-03 |"
    assert lines[3].startswith("| `rtn-w4a8-static` |")


@pytest.mark.slow
def test_the_operators_of_a_step_are_timed_by_kind(tmp_path):
    file, inputs = edge_program(Case(blocks=1, tokens=16), tmp_path, "hadanorm-folded-w8a8")
    times, whole = operator_times(file.read_bytes(), "denoise", inputs)
    assert isinstance(times, Counter)
    assert 0 < times.total() < 1.5 * whole
    assert any("QC8W" in operator for operator in times)
    assert any("Softmax" in operator for operator in times)
    assert not any("layer_norm" in operator for operator in times)
