"""The reference model in Core ML packages of float16: pictures as near to the float model's as those simulated."""

import dataclasses

import pytest
from coreml import PackageRunner, pictures

from edge_hadanorm import source, workflow
from edge_hadanorm.calibration import calibrate
from edge_hadanorm.checkpoint import Checkpoint, Text
from edge_hadanorm.evaluate import mean_psnr_db
from edge_hadanorm.export import writer
from edge_hadanorm.export.coreml import package
from edge_hadanorm.quantize import quantize
from edge_hadanorm.recipe import named
from edge_hadanorm.runtime import TorchRunner
from edge_hadanorm.samples import Trajectories

STEPS = 8


@pytest.mark.slow
@pytest.mark.parametrize(("form", "least"), [("w8a8", 40), ("w4a8", 25)])
def test_packages_draw_the_reference_as_well_as_the_simulation(form, least, tmp_path):
    model, recipe = source.load("reference"), named(f"hadanorm-folded-{form}-static")
    pipeline = model.pipeline
    prompts = workflow.calibration_prompts(model)[::8]
    run = Trajectories(pipeline, prompts, STEPS, pipeline.guidance, 0).samples(model.denoiser)
    denoiser = quantize(model.denoiser, recipe, calibrate(model.denoiser, run), run, [])
    saved = Checkpoint(model.name, recipe, denoiser, Text.of(pipeline.prompt("")), pipeline)
    entry = package.write(tmp_path, writer._denoiser(saved), "fp16")
    held_out = dataclasses.replace(workflow.evaluation_trajectories(model, 3), steps=STEPS)
    runners = (
        *(TorchRunner(own, pipeline) for own in (model.denoiser, denoiser)),
        PackageRunner(saved, tmp_path, entry),
    )
    exact, simulated, packaged = (pictures(runner, held_out) for runner in runners)
    expected = mean_psnr_db(exact, simulated)
    assert expected > least
    assert abs(mean_psnr_db(exact, packaged) - expected) < 0.5
