"""The reference model in Core ML packages: pictures as near to the float model's as those simulated, and every step the
simulation's."""

import copy
import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from edge_hadanorm.checkpoint import Checkpoint, Text
from edge_hadanorm.exporters.component import denoiser_component
from edge_hadanorm.exporters.coreml import package
from edge_hadanorm.measure.evaluation import mean_psnr_db
from edge_hadanorm.method.recipe import Recipe, named
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.drawing import TorchRunner
from edge_hadanorm.pipelines.trajectories import Trajectories, calibration_prompts, evaluation_trajectories
from edge_hadanorm.quantization.calibration import calibrate
from edge_hadanorm.quantization.quantize import quantize
from runtime_tests.benchmarks.coreml import PackageRunner, pictures
from runtime_tests.support.helpers import randn, relative_error
from runtime_tests.support.mil_programs import cast, functions_of, predicted, simulated

STEPS = 8
# Of a package of float32 in that and in float64.
ERRORS = {"float32": (torch.float32, 1e-5), "float64": (torch.float64, 1e-9)}


def quantized(recipe: Recipe) -> SimpleNamespace:
    """The reference model, its checkpoint by a recipe, and pictures to draw."""
    model = loading.load("reference")
    pipeline = model.pipeline
    prompts = calibration_prompts(model)[::8]
    run = Trajectories(pipeline, prompts, STEPS, pipeline.guidance, 0).samples(model.denoiser)
    denoiser = quantize(model.denoiser, recipe, calibrate(model.denoiser, run), run, [])
    saved = Checkpoint(model.name, recipe, denoiser, Text.of(pipeline.prompt("")), pipeline)
    held_out = dataclasses.replace(evaluation_trajectories(model, 3), steps=STEPS)
    return SimpleNamespace(model=model, saved=saved, held_out=held_out)


@pytest.mark.slow
def test_packages_draw_the_reference_as_well_as_the_simulation(tmp_path):
    made = quantized(named("hadanorm-folded-w8a8-static"))
    saved, pipeline = made.saved, made.saved.pipeline
    entry = package.write(tmp_path, denoiser_component(saved), "fp16")
    runners = (
        *(TorchRunner(own, pipeline) for own in (made.model.denoiser, saved.denoiser)),
        PackageRunner(saved, tmp_path, entry),
    )
    exact, drawn, packaged = (pictures(runner, made.held_out) for runner in runners)
    expected = mean_psnr_db(exact, drawn)
    assert expected > 40
    assert abs(mean_psnr_db(exact, packaged) - expected) < 0.5


@pytest.mark.slow
def test_steps_of_the_reference_are_those_of_the_simulation(tmp_path):
    made = quantized(named("hadanorm-folded-w4a8-static"))
    denoiser, held_out = made.saved.denoiser, made.held_out
    entry = package.write(tmp_path, denoiser_component(made.saved), "fp32")
    timesteps = [row.timestep for row in held_out.pipeline.plan(STEPS).rows]
    for precision, (dtype, error) in ERRORS.items():
        functions, own = functions_of(tmp_path, entry, precision), copy.deepcopy(denoiser).to(dtype)
        for i, (prompt, timestep) in enumerate(itertools.product(held_out.prompts, timesteps[::3])):
            latents = randn(1, *denoiser.latent_shape(), seed=i)
            call = Inputs(latents, torch.tensor([timestep]), held_out.pipeline.encode(prompt))
            call = cast(cast(call), dtype)  # rounded first: in float64 the numbers of float32
            for actual, exact in zip(predicted(functions, call), simulated(own, call), strict=True):
                assert relative_error(actual, exact) < error, (precision, prompt, timestep)
