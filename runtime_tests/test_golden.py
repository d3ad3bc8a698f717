"""What an earlier version wrote: its checkpoint is read, measured, exported and drawn with, its bundle is refused.

golden/checkpoint is of a tiny random PixArt, `hadanorm-auto-w4a8`, in checkpoint format 4, from before there were
negative prompts; the pictures are of "a red cat", seed 3, 4 steps, by either backend of the bundle that was made of it
then. golden/manifest-2.json is that bundle's manifest, of schema 2, with two of its sampler tables.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edge_hadanorm
from edge_hadanorm import bundle
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.pipelines.drawing import TorchRunner, Wish, picture
from edge_hadanorm.pipelines.pictures import to_pixels
from runtime_tests.support import tiny_pipelines
from runtime_tests.support.helpers import assert_answered, randn

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINT = GOLDEN / "checkpoint"
# Of the codes of all linears, as they are kept in memory.
CODES = "8eeddebc8bff7b7787895e75a0fee3aa80e6a3d21616b12d7f9cde6fe7fcdcd2"
# Sums are in another order than they were, and another processor may have its own, by which a code falls to the other
# side now and then.
LEAST_DB = 45


@pytest.fixture(scope="module")
def saved():
    return edge_hadanorm.load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return edge_hadanorm.export(CHECKPOINT, tmp_path_factory.mktemp("golden") / "bundle")


def expected(backend: str) -> torch.Tensor:
    """The picture of the bundle of then, uint8 [H, W, 3]."""
    with Image.open(GOLDEN / f"{backend}.png") as image:
        return torch.from_numpy(np.array(image))


def test_the_checkpoint_has_the_same_codes(saved):
    linears = {name: m for name, m in saved.denoiser.named_modules() if isinstance(m, QuantizedLinear)}
    digest = hashlib.sha256()
    for name in sorted(linears):
        digest.update(name.encode() + linears[name].codes.numpy().tobytes())
    assert digest.hexdigest() == CODES
    assert saved.recipe.name == "hadanorm-auto-w4a8"
    assert saved.metrics["bits"]["weight"] == 4


# What it says of sampling by leaving it out.
SINCE = {"negative": "", "eta": 0.0}


def test_its_defaults_are_what_they_were_and_nothing_is_unwanted(saved):
    written = json.loads((CHECKPOINT / "config.json").read_text())["sampling"]
    assert written == {"kind": "PixArtSigmaPipeline", "steps": 20, "guidance": 4.5, "prefix": ""}
    assert saved.pipeline.settings == written | SINCE


def test_saved_again_it_is_the_same_files_but_for_what_has_a_name_since(saved, tmp_path):
    edge_hadanorm.save(saved, tmp_path / "again")
    names = {path.relative_to(CHECKPOINT) for path in CHECKPOINT.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()} == names
    config = json.loads((CHECKPOINT / "config.json").read_text())
    config["sampling"] |= SINCE
    assert json.loads((tmp_path / "again/config.json").read_text()) == config
    for name in names - {Path("config.json")}:
        assert (tmp_path / "again" / name).read_bytes() == (CHECKPOINT / name).read_bytes(), name


def test_it_is_measured(saved, tmp_path):
    """Its float model is made by seed, and has the weights that it had."""
    inputs = {
        "hidden_states": randn(2, 4, 8, 8, dtype=torch.float32),
        "encoder_hidden_states": randn(2, 7, 48, seed=1, dtype=torch.float32),
        "encoder_attention_mask": torch.ones(2, 7),
        "timestep": torch.tensor([900.0, 300.0]),
    }
    reference = tiny_pipelines.save("pixart", tmp_path / "pipeline")
    metrics = edge_hadanorm.evaluate(saved, inputs=inputs, reference=str(reference))
    assert metrics["bits"] == saved.metrics["bits"]
    assert metrics["denoiser_sqnr_db"] > 20


def test_its_picture_is_what_it_was(saved):
    pipeline = saved.pipeline
    wish = Wish("a red cat", pipeline.plan(4), pipeline.guidance, 3, pipeline.negative)
    drawn = to_pixels(picture(TorchRunner(saved.denoiser, pipeline), wish))
    assert psnr_db(drawn.permute(1, 2, 0), expected("simulation")) >= LEAST_DB


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["simulation", "executorch"])
def test_a_bundle_of_it_draws_what_that_of_then_drew(exported, backend):
    drawn = edge_hadanorm.generate(exported, "a red cat", seed=3, steps=4, backend=backend).image
    assert psnr_db(torch.from_numpy(np.array(drawn)), expected(backend)) >= LEAST_DB


@pytest.mark.slow
def test_a_bundle_of_it_has_its_defaults(exported):
    sampling = exported.manifest["sampling"]
    assert {name: sampling[name] for name in ("plan", "guidance", "negative")} == {
        "plan": "20",
        "guidance": 4.5,
        "negative": "",
    }
    assert exported.manifest["schema"] == bundle.SCHEMA


def test_its_bundle_is_refused_with_the_way_out(run, tmp_path):
    """Its programs take two sequences at a time, which no loop gives them any more."""
    shutil.copy(GOLDEN / "manifest-2.json", tmp_path / "manifest.json")
    status, shown = run(f"generate {tmp_path} 'a red cat' --out {tmp_path / 'x.png'}")
    assert_answered(
        status, shown, [str(tmp_path / "manifest.json"), "older", "schema 2", "export the checkpoint again"]
    )
    assert not (tmp_path / "x.png").exists()
