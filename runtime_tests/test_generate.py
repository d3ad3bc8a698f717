"""The same bundle, prompt and seed on the ExecuTorch runtime and in simulation."""

import pytest

from edge_hadanorm.metrics import psnr_db, to_pixels
from edge_hadanorm.runtime import ExecuTorchRunner, picture
from edge_hadanorm.workflow import simulation


@pytest.mark.parametrize(
    ("recipe", "least"), [("hadanorm-balanced-w8a8", 45), ("hadanorm-balanced-w4a8", 35), ("rtn-w4a4", 35)]
)
def test_simulation_and_runtime_draw_the_same_picture(tiny_bundle, recipe, least):
    bundle = tiny_bundle(recipe)
    drawn = [
        to_pixels(picture(runner, "red a", bundle.table(8), 1.5, seed=3))
        for runner in (ExecuTorchRunner(bundle), simulation(bundle))
    ]
    assert psnr_db(*drawn) >= least
