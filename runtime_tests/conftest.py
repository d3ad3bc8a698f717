"""A tiny random pipeline, its checkpoints and bundles by recipe, made once a session; machines that run programs."""

import io
import logging
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edge_hadanorm import bundle, checkpoint, console, files, workflow
from edge_hadanorm.cli import cli
from edge_hadanorm.pipelines import loading
from edge_hadanorm.quantization.calibration import calibrate
from edge_hadanorm.reference.model import make_pipeline
from edge_hadanorm.reference.train import save_pipeline
from runtime_tests.device import machine, toolchain

logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")

TINY = dict(
    num_attention_heads=2,
    attention_head_dim=32,
    num_layers=2,
    patch_size=2,
    sample_size=8,
    in_channels=3,
    out_channels=3,
    cross_attention_dim=64,
    caption_channels=32,
    norm_elementwise_affine=False,
    use_additional_conditions=False,
    interpolation_scale=1,
)
PROMPTS = [f"{colour} {thing}" for colour in ("red", "green", "blue", "pale", "dark") for thing in "abcdefgh"]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Threads cost more than they give on tensors this small."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory) -> Path:
    """A diffusers pipeline folder of a two-block PixArt with random weights, outliers in some channels."""
    torch.manual_seed(0)
    pipeline = make_pipeline(PROMPTS, TINY)
    with torch.no_grad():
        for name, parameter in pipeline.transformer.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2 and not parameter.any():
                torch.nn.init.xavier_uniform_(parameter)
            if "ff.net.0.proj.weight" in name or "scale_shift_table" in name:
                parameter[..., ::17] *= 8
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    save_pipeline(pipeline, PROMPTS, folder)
    return folder


@pytest.fixture(scope="module")
def model(tiny_pipeline) -> loading.FloatModel:
    """That pipeline, loaded."""
    return loading.load(str(tiny_pipeline))


@pytest.fixture(scope="module")
def calls(model, trajectories):
    """The inputs of every step of the `trajectories` that a test module defines."""
    return trajectories.record(model.denoiser)


@pytest.fixture(scope="module")
def moments(model, trajectories):
    """What the float model's inputs are along them."""
    return calibrate(model.denoiser, trajectories.samples(model.denoiser))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_pipeline, tmp_path_factory) -> Callable[[str], Path]:
    """tiny_checkpoint(recipe) -> the folder of a quantized checkpoint."""
    made: dict[str, Path] = {}

    def make(recipe: str) -> Path:
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp("checkpoints") / recipe
            workflow.quantize(str(tiny_pipeline), recipe, made[recipe], PROMPTS[::8], steps=4)
        return made[recipe]

    return make


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint, tmp_path_factory) -> Callable[[str], bundle.Bundle]:
    """tiny_bundle(recipe) -> an exported, verified bundle."""
    made: dict[str, bundle.Bundle] = {}

    def make(recipe: str) -> bundle.Bundle:
        if recipe not in made:
            from edge_hadanorm.exporters import writer

            source = tiny_checkpoint(recipe)
            folder = tmp_path_factory.mktemp("bundles") / recipe
            with files.new_folder(folder) as staging:
                writer.write_bundle(staging, source, checkpoint.load(source), "xnnpack")
            made[recipe] = bundle.load(folder)
        return made[recipe]

    return make


@pytest.fixture
def run(monkeypatch) -> Callable[[str], tuple[int, str]]:
    """run(command line) -> exit status, and what was shown on the screen besides the result."""

    def run(line: str) -> tuple[int, str]:
        monkeypatch.setattr(console, "screen", io.StringIO())
        status = console.run(lambda: cli.main(shlex.split(line), prog_name="edge-hadanorm", standalone_mode=False))
        return status, console.screen.getvalue()

    return run


@pytest.fixture(scope="session")
def host() -> machine.Machine:
    """The runner without Python on this machine."""
    _skip_without(lambda: machine.HOST.runner)
    return machine.HOST


@pytest.fixture(scope="session")
def emulator(host) -> None:
    """That there is a runner on emulated ARM64 processors."""
    _skip_without(toolchain.build)


def _skip_without(tools: Callable[[], object]) -> None:
    try:
        tools()
    except toolchain.Missing as missing:
        pytest.skip(str(missing))
