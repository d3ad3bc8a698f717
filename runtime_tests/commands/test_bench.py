"""The benchmark's bookkeeping; its times are nobody's assertion."""

import pytest
import torch

from edge_hadanorm import bench, console
from edge_hadanorm.bench import contenders
from edge_hadanorm.bench.case import Case
from edge_hadanorm.cli import cli

KEYS = ["name", "threads", "tokens", "blocks", "median_ms", "min_ms", "max_ms", "rel_error", "size_mb"]
TINY = Case(blocks=1, tokens=16)


def test_results_have_the_documented_fields(tmp_path):
    ((result,),) = bench.run([TINY], [1], ["torch-fp32"], tmp_path, rounds=3)
    assert list(result) == KEYS
    assert result["name"] == "torch-fp32"
    assert result["rel_error"] == 0
    assert result["min_ms"] <= result["median_ms"] <= result["max_ms"]
    assert result["size_mb"] == pytest.approx(sum(p.numel() for p in TINY.transformer.parameters()) * 4e-6, rel=1e-3)


def test_a_peer_that_is_not_installed_is_left_out_by_name(tmp_path, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'peer'", name="peer")

    lines = []
    monkeypatch.setitem(contenders.BUILDERS, "torch-compile", missing)
    (results,) = bench.run([TINY], [1], ["torch-compile", "torch-fp32"], tmp_path, rounds=1, status=lines.append)
    assert [result["name"] for result in results] == ["torch-fp32"]
    assert len(lines) == 1
    assert "torch-compile" in lines[0]
    assert "peer is not installed" in lines[0]


def test_table_and_chart_show_every_result():
    results = [dict(zip(KEYS, (name, 1, 256, 2, 3.0, 2.0, 4.0, 0.0, 5.0), strict=True)) for name in bench.BUILDERS]
    assert all(name in bench.as_table(results) for name in bench.BUILDERS)
    (axis,) = bench.chart(results).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(bench.BUILDERS)


def test_unknown_names_are_answered_with_the_list(monkeypatch):
    lines = []
    monkeypatch.setattr(console, "say", lines.append)
    status = console.run(lambda: cli.main(["bench", "--names", "torch-fp32,fastest"], standalone_mode=False))
    assert status == console.MISTAKE
    assert "'fastest'" in lines[0]
    assert "edge-rtn-w8a8" in lines[0]


@pytest.mark.slow
def test_programs_are_exported_once_and_predict_what_torch_predicts(tmp_path):
    names = ["executorch-8da8w", "edge-hadanorm-balanced-w8a8"]
    (results,) = bench.run([TINY], [1], names, tmp_path, rounds=1)
    assert [result["name"] for result in results] == names
    assert max(result["rel_error"] for result in results) < 0.01
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.pte")}
    assert len(stamps) == 2
    list(bench.run([TINY], [1], names, tmp_path, rounds=1))
    assert stamps == {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.pte")}
    assert torch.get_num_threads() == 1
