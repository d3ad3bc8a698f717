"""Fixtures of several folders: a tiny random pipeline, its checkpoints and bundles, machines that run programs.

Everything is imported where it is used: a file of pure mathematics waits for none of it.
"""

import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edge_hadanorm.bundle import Bundle
    from edge_hadanorm.pipelines.loading import FloatModel
    from runtime_tests.device.machine import Machine

PROMPTS = [f"{colour} {thing}" for colour in ("red", "green", "blue", "pale", "dark") for thing in "abcdefgh"]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Threads cost more than they give on tensors this small."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory) -> Path:
    """A diffusers pipeline folder of a two-block PixArt with random weights, outliers in some channels."""
    from runtime_tests.support.tiny_reference import save

    return save(PROMPTS, tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="module")
def model(tiny_pipeline) -> "FloatModel":
    """That pipeline, loaded."""
    from edge_hadanorm.pipelines import loading

    return loading.load(str(tiny_pipeline))


@pytest.fixture(scope="module")
def calls(model, trajectories):
    """The inputs of every step of the `trajectories` that a test module defines."""
    return trajectories.record(model.denoiser)


@pytest.fixture(scope="module")
def moments(model, trajectories):
    """What the float model's inputs are along them."""
    from edge_hadanorm.quantization.calibration import calibrate

    return calibrate(model.denoiser, trajectories.samples(model.denoiser))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_pipeline, tmp_path_factory) -> Callable[[str], Path]:
    """tiny_checkpoint(recipe) -> the folder of a quantized checkpoint."""
    from edge_hadanorm import workflow

    made: dict[str, Path] = {}

    def make(recipe: str) -> Path:
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp("checkpoints") / recipe
            workflow.quantize(str(tiny_pipeline), recipe, made[recipe], PROMPTS[::8], steps=4)
        return made[recipe]

    return make


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint, tmp_path_factory) -> "Callable[[str], Bundle]":
    """tiny_bundle(recipe) -> an exported, verified bundle."""
    from edge_hadanorm import workflow

    made: dict[str, Bundle] = {}

    def make(recipe: str) -> "Bundle":
        if recipe not in made:
            made[recipe] = workflow.export(tiny_checkpoint(recipe), tmp_path_factory.mktemp("bundles") / recipe)
        return made[recipe]

    return make


@pytest.fixture
def run(monkeypatch) -> Callable[[str], tuple[int, str]]:
    """run(command line) -> exit status, and what was shown on the screen besides the result."""
    from edge_hadanorm import console
    from edge_hadanorm.cli import cli

    def run(line: str) -> tuple[int, str]:
        monkeypatch.setattr(console, "screen", io.StringIO())
        status = console.run(lambda: cli.main(shlex.split(line), prog_name="edge-hadanorm", standalone_mode=False))
        return status, console.screen.getvalue()

    return run


@pytest.fixture(scope="session")
def host() -> "Machine":
    """The runner without Python on this machine."""
    from runtime_tests.device import machine

    _skip_without(lambda: machine.HOST.runner)
    return machine.HOST


@pytest.fixture(scope="session")
def emulator(host) -> None:
    """That there is a runner on emulated ARM64 processors."""
    from runtime_tests.device import toolchain

    _skip_without(toolchain.build)


def _skip_without(tools: Callable[[], object]) -> None:
    from runtime_tests.device import toolchain

    try:
        tools()
    except toolchain.Missing as missing:
        pytest.skip(str(missing))
