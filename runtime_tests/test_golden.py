"""A bundle that an earlier version wrote, with its checkpoint: read, saved and drawn with as on the day it was made.

golden/bundle is of a tiny random PixArt, `hadanorm-auto-w4a8`, in manifest schema 2 and checkpoint format 4; the
pictures are of "a red cat", seed 3, 4 steps, by either backend.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edge_hadanorm
from edge_hadanorm import bundle
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.method.linear import QuantizedLinear

GOLDEN = Path(__file__).parent / "golden"
# Of the codes of all linears, as they are kept in memory.
CODES = "8eeddebc8bff7b7787895e75a0fee3aa80e6a3d21616b12d7f9cde6fe7fcdcd2"
# Another processor may order a sum in another way, by which a code falls to the other side now and then.
LEAST_DB = 40


def test_the_checkpoint_in_it_has_the_same_codes():
    saved = edge_hadanorm.load_checkpoint(GOLDEN / "bundle")
    linears = {name: m for name, m in saved.denoiser.named_modules() if isinstance(m, QuantizedLinear)}
    digest = hashlib.sha256()
    for name in sorted(linears):
        digest.update(name.encode() + linears[name].codes.numpy().tobytes())
    assert digest.hexdigest() == CODES
    assert saved.recipe.name == "hadanorm-auto-w4a8"
    assert saved.metrics["bits"]["weight"] == 4


def test_a_checkpoint_saved_again_is_the_same_file(tmp_path):
    source = GOLDEN / "bundle/simulation"
    edge_hadanorm.save(edge_hadanorm.load_checkpoint(source), tmp_path / "again")
    for name in ("config.json", "recipe.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (source / name).read_bytes(), name


@pytest.mark.parametrize("backend", ["simulation", "executorch"])
def test_its_pictures_are_what_they_were(backend):
    assert bundle.load(GOLDEN / "bundle").manifest["schema"] == 2
    drawn = edge_hadanorm.generate(GOLDEN / "bundle", "a red cat", seed=3, steps=4, backend=backend).image
    with Image.open(GOLDEN / f"{backend}.png") as expected:
        pair = [torch.from_numpy(np.array(image)) for image in (drawn, expected)]
    assert psnr_db(*pair) > LEAST_DB
