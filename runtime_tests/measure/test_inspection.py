"""inspection.py: what `inspect` says of a model, a checkpoint and a bundle are its facts, and nothing else is said."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from edge_hadanorm import bundle, checkpoint, files
from edge_hadanorm.bundle import peak_memory
from edge_hadanorm.errors import UserError
from edge_hadanorm.measure.inspection import describe, describe_checkpoint, tensor_table
from edge_hadanorm.method.cost import linear_cost
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.tables import table
from runtime_tests.support import manifests

INSPECT = "from edge_hadanorm.cli import main; main()"
RECIPE = "hadanorm-balanced-w4a8"


def cells(text: str) -> list[list[str]]:
    """The cells of every line, which two spaces and more divide."""
    return [re.split(r" {2,}", line) for line in text.splitlines()]


def assert_tidy(text: str) -> None:
    lines = text.splitlines()
    assert all(line == line.rstrip() and line.isprintable() for line in lines)
    assert not any(a == b == "" for a, b in pairwise(lines))
    assert not re.search("warning|error|traceback|failed|None|nan", text, re.IGNORECASE)


# A float model.


def test_a_pipeline_is_its_sizes_its_linears_and_its_words(tiny_pipeline, model):
    text = describe(tiny_pipeline)
    assert_tidy(text)
    head = text.splitlines()[0]
    total = sum(p.numel() for p in model.denoiser.parameters())
    assert f"float model {tiny_pipeline}: PixArtTransformer2DModel, {total:,} parameters, 131,072 quantizable" == head
    assert text.splitlines()[1] == "sampling: 8 steps of DPMSolverMultistepScheduler, guidance 1.5"
    rows = cells(text)
    assert ["linear", "shape"] in rows
    assert [row[0] for row in rows if row[0].startswith("blocks.")] == model.denoiser.quantizable()
    for row in (["blocks.0.attn1.qkv", "192x64"], ["blocks.1.attn2.kv", "128x64"], ["blocks.1.ff.down", "64x256"]):
        assert row in rows
    words = text.splitlines()[-1]
    assert words.startswith("prompts: at most 8 of 13 words: ")
    assert set(words.partition("words: ")[2].split(", ")) == {"red", "green", "blue", "pale", "dark", *"abcdefgh"}


def test_a_transformer_alone_has_no_words(tiny_pipeline):
    text = describe(tiny_pipeline / "transformer")
    assert_tidy(text)
    assert "131,072 quantizable" in text
    assert "prompts" not in text
    assert "sampling" not in text


# A checkpoint.

BLOCK = f"H{Recipe.block}"
FOLDING = {
    "attn1.qkv": ["mean, scale into modulation", f"token mean, {BLOCK}"],
    "attn1.out": ["mean, scale, H32 into values", "-"],
    "attn2.q": ["-", f"mean, scale, {BLOCK}"],
    "attn2.kv": ["-", f"token mean, scale, {BLOCK}"],
    "attn2.out": ["mean, scale, H32 into values", "-"],
    "ff.up": ["mean, scale into modulation", f"token mean, {BLOCK}"],
    "ff.down": ["-", f"mean, scale, {BLOCK}"],
}

INTO = {"attn1.qkv": "modulation", "attn1.out": "values", "attn2.out": "values", "ff.up": "modulation"}


@pytest.mark.parametrize(
    ("recipe", "grids", "scale", "folding"),
    [
        ("hadanorm-balanced-w4a8", "w4a8 per token", "balanced 0.5", FOLDING),
        ("hadanorm-balanced-w4a8-g32", "w4a8 g32 per token", "balanced 0.5", FOLDING),
        ("rtn-w8a8-static", "w8a8 per tensor", "-", {name: ["-", "-"] for name in FOLDING}),
        (
            "svdquant-r32-w4a8",
            "w4a8 per token + rank 32",
            "smoothquant 0.5",
            {name: [f"scale into {into}", "-"] if (into := INTO.get(name)) else ["-", "scale"] for name in FOLDING},
        ),
    ],
)
def test_a_checkpoint_is_the_folding_and_grids_of_every_linear(tiny_checkpoint, recipe, grids, scale, folding):
    folder = tiny_checkpoint(recipe)
    text, saved = describe(folder), checkpoint.load(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert_tidy(text)
    assert text.startswith(f"checkpoint {recipe} of {saved.source} (PixArtTransformer2DModel)\n")
    rows = cells(text)
    header = ["linear", "shape", "grids", "scale", "folded offline", "online", "online cost %", "SQNR dB"]
    assert header in rows
    own = [row for row in rows if row[0].startswith("blocks.")]
    assert [row[0] for row in own] == [
        name for name, _ in saved.denoiser.named_modules() if name in saved.denoiser.quantizable()
    ]
    for name, shape, *columns, cost, sqnr in own:
        assert shape == "x".join(map(str, saved.denoiser.get_submodule(name).codes.shape))
        assert columns == [grids, scale, *folding[name.split(".", 2)[2]]]
        assert int(cost) == round(100 * linear_cost(saved.denoiser.get_submodule(name)))
        assert float(sqnr) == round(metrics["layers"][name], 1)
    assert f"denoiser SQNR {metrics['denoiser_sqnr_db']:.1f} dB" in text
    assert f"{metrics['image_psnr_db']:.1f} dB PSNR" in text
    assert f"quantized: 131,072 parameters, {metrics['bits']['quantized_bytes'] / 1e6:.2f} MB" in text
    assert "of 13 words: " in text
    assert text.splitlines()[3] == "sampling: 4 steps of DPMSolverMultistepScheduler, guidance 1.5"


def test_a_checkpoint_says_how_it_samples(tiny_checkpoint):
    saved = checkpoint.load(tiny_checkpoint(RECIPE))
    asked = saved.pipeline.with_defaults(2, 0.5, "blue c", 0.25)
    text = describe_checkpoint(dataclasses.replace(saved, pipeline=asked), {})
    assert_tidy(text)
    assert text.splitlines()[2] == (
        "sampling: 2 steps of DPMSolverMultistepScheduler, share of noise 0.25, guidance 0.5, negative prompt 'blue c'"
    )
    assert "sampling" not in describe_checkpoint(dataclasses.replace(saved, pipeline=None), {})


def test_a_checkpoint_that_was_not_measured_has_no_metrics(tiny_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint(RECIPE), folder)
    (folder / "metrics.json").unlink()
    text = describe(folder)
    assert_tidy(text)
    assert "dB PSNR" not in text
    assert all(row[-1] == "-" for row in cells(text) if row[0].startswith("blocks."))


# A bundle.


@pytest.mark.slow
def test_a_bundle_is_its_programs_and_what_they_delegate(tiny_bundle):
    loaded = tiny_bundle(RECIPE)
    text = describe(loaded.folder)
    assert_tidy(text)
    lines, rows = text.splitlines(), cells(text)
    size = sum(p.stat().st_size for p in loaded.folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    count = sum(p.is_file() for p in loaded.folder.rglob("*")) - 1
    assert lines[0] == f"bundle {RECIPE} for xnnpack (PixArtTransformer2DModel), pictures of 8x8"
    assert lines[1] == f"{count} files, {size / 1e6:.1f} MB, all verified"
    needed = [peak_memory(loaded.manifest, packed_in_file=packed) / 1e6 for packed in (False, True)]
    assert lines[2] == "a picture needs {:.0f} MB of memory, {:.0f} with packed weights in a file".format(*needed)
    assert lines[3] == "sampling: 4 steps, guidance 1.5; plans of 1 to 50 steps"
    assert lines[4] == "golden sample: 'red a', seed 0, at least 30.0 dB"
    assert ["program", "method", "delegate calls", "integer linears", "float linears", "outside the delegate"] in rows
    assert [row for row in rows if row[0] == "denoiser.pte"] == [
        ["denoiser.pte", "prepare", "1", "2", "2", "nothing"],
        # Among the float linears are two products for each of five layer norms.
        ["denoiser.pte", "denoise", "1", "12", "14", "nothing"],
    ]
    assert any(row[:2] == ["text_encoder.pte", "encode"] for row in rows)
    for program in loaded.programs.values():
        for method, signature in program["methods"].items():
            for way in ("inputs", "outputs"):
                for tensor in signature[way]:
                    shape = "x".join(map(str, tensor["shape"]))
                    assert [method, way, tensor["name"], tensor["dtype"], shape] in rows


@pytest.mark.slow
def test_the_command_says_that_and_nothing_else(tiny_bundle):
    folder = tiny_bundle(RECIPE).folder
    command = [sys.executable, "-c", INSPECT, "inspect", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == describe(folder) + "\n"
    assert ended.stderr == ""


@pytest.mark.slow
def test_a_bundle_of_another_writer_has_no_account(tiny_bundle, tmp_path):
    """delegation is no part of the schema."""
    given = tiny_bundle(RECIPE)
    folder = tmp_path / "bundle"
    shutil.copytree(given.folder, folder)
    manifest = files.read_json(folder / "manifest.json", "manifest")
    for program in manifest["programs"].values():
        for method in program["methods"].values():
            del method["delegation"]
    bundle.write_manifest(folder, manifest)
    assert ["denoiser.pte", "denoise", "?", "?", "?", "?"] in cells(describe(folder))


@pytest.mark.parametrize(
    ("names", "default", "negative", "line"),
    [
        (["8", "20", "4"], "8", "blurry", "8 steps, guidance 4.5, negative prompt 'blurry'; plans of 4 to 20 steps"),
        (["8"], "8", "", "8 steps, guidance 4.5; plans of 8 steps"),
        (["8", "fast", "4"], "fast", "", "plan 'fast' of 3 steps, guidance 4.5; plans of 4 to 8 steps, 'fast'"),
        (["fast"], "fast", "", "plan 'fast' of 3 steps, guidance 4.5; plans of 'fast'"),
    ],
)
def test_a_bundle_says_how_it_samples(tmp_path, names, default, negative, line):
    manifest = manifests.example() | {"golden": None}
    plans = {name: manifests.plan(int(name) if name.isdecimal() else 3) for name in names}
    manifest["sampling"] |= {"plan": default, "negative": negative, "plans": plans}
    text = describe(manifests.make(tmp_path / "bundle", manifest))
    assert_tidy(text)
    assert f"sampling: {line}" in text.splitlines()


def test_a_bundle_of_a_transformer_alone_samples_nothing(tmp_path):
    manifest = manifests.example() | {"prompt": None, "sampling": None, "golden": None}
    del manifest["programs"]["text_encoder"]
    assert "sampling" not in describe(manifests.make(tmp_path / "bundle", manifest))


# Anything else.


@pytest.mark.parametrize("name", ["empty", "nosuch", "text.txt", "other"])
def test_another_path_is_a_mistake_that_names_it(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
        describe(Path(tmp_path / name))


# Tables.


def test_a_column_is_as_wide_as_its_widest_cell_and_numbers_stand_right():
    text = table(("name", "count", "note"), [("a", 5, "first"), ("longer", 1234, ""), ("b", "-", "third")])
    assert text.splitlines() == [
        "name    count  note",
        "a           5  first",
        "longer   1234",
        "b           -  third",
    ]


def test_a_table_may_be_empty():
    assert table(("a", "b"), []) == "a  b"


def test_of_many_tensors_a_row_says_how_many_are_left_out():
    tensors = [{"name": f"t.{i}", "dtype": "float32", "shape": [2, i]} for i in range(9)]
    methods = {"prepare": {"inputs": tensors[:6], "outputs": tensors}}
    names = [" ".join(line.split()[2:]) for line in tensor_table({"denoiser": {"methods": methods}}).splitlines()]
    assert names[1:7] == [f"t.{i} float32 2x{i}" for i in range(6)]
    assert names[7:] == ["t.0 float32 2x0", "t.1 float32 2x1", "t.2 float32 2x2", "... 5 more", "t.8 float32 2x8"]
