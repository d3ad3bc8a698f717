"""The same bundle, prompt and seed on the ExecuTorch runtime and in simulation; `generate` on either."""

import io
import math
import subprocess
import sys

import pytest
import torch

from edge_hadanorm import console
from edge_hadanorm.bundle.runner import ExecuTorchRunner, has_executorch
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.targets import simulation
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.pipelines.drawing import Stopwatch, Wish, picture
from edge_hadanorm.pipelines.pictures import save_png, to_pixels
from edge_hadanorm.workflow import generate

pytestmark = pytest.mark.slow  # they wait for the bundles

RECIPE, PROMPT = "hadanorm-balanced-w8a8", "red a"
RUNNERS = {"executorch": ExecuTorchRunner, "simulation": simulation}
on_every_backend = pytest.mark.parametrize("backend", RUNNERS)


@pytest.fixture
def bundle(tiny_bundle):
    return tiny_bundle(RECIPE)


@pytest.fixture
def draw(bundle, tmp_path):
    """draw(...) -> the PNG's bytes, of `generate` with these options."""

    def draw(prompt: str = PROMPT, **options) -> bytes:
        out = tmp_path / "picture.png"
        generate(bundle.folder, prompt, out, **options)
        return out.read_bytes()

    return draw


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    """What is said on stderr."""
    monkeypatch.setattr(console, "screen", io.StringIO())
    return console.screen


@pytest.fixture
def no_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)  # importing it is an ImportError


@pytest.mark.parametrize(
    ("recipe", "least"), [("hadanorm-balanced-w8a8", 45), ("hadanorm-balanced-w4a8", 35), ("rtn-w4a4", 35)]
)
def test_simulation_and_runtime_draw_the_same_picture(tiny_bundle, recipe, least):
    bundle = tiny_bundle(recipe)
    drawn = [to_pixels(picture(runner(bundle), Wish(PROMPT, bundle.plan(8), 1.5, 3))) for runner in RUNNERS.values()]
    assert psnr_db(*drawn) >= least


def test_simulation_and_runtime_agree_at_every_step(bundle):
    """In the latents, which are finer than pixels; differences of rounding grow slowly."""
    trajectories = []
    for runner in RUNNERS.values():
        latents = []
        picture(
            runner(bundle), Wish(PROMPT, bundle.plan(20), 1.5, 3), lambda k, x, kept=latents: kept.append(x.clone())
        )
        trajectories.append(latents)
    distances = [psnr_db(a, b, peak=2) for a, b in zip(*trajectories, strict=True)]
    assert len(distances) == 20
    assert min(distances) >= 45


# Backends.


def test_auto_is_the_runtime_where_there_is_one_and_says_nothing(bundle, tmp_path, screen):
    assert has_executorch()
    drawn = generate(bundle.folder, PROMPT, tmp_path / "picture.png")
    assert drawn.backend == "executorch"
    assert drawn.milliseconds > 0
    assert screen.getvalue() == ""


def test_auto_simulates_without_a_runtime_and_says_so_in_a_line(bundle, tmp_path, screen, no_runtime):
    assert not has_executorch()
    files = [tmp_path / "auto.png", tmp_path / "simulation.png"]
    said = []
    drawn = generate(bundle.folder, PROMPT, files[0], status=said.append)
    assert drawn.backend == "simulation"
    assert drawn.milliseconds > 0
    assert len(said) == 1
    assert "pip install executorch" in said[0]
    generate(bundle.folder, PROMPT, files[1], backend="simulation", status=said.append)
    assert len(said) == 1  # asked for, it needs no explanation
    assert screen.getvalue() == ""
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_runtime_asked_for_and_not_there_is_a_mistake(bundle, tmp_path, no_runtime):
    with pytest.raises(UserError, match="no ExecuTorch runtime"):
        generate(bundle.folder, PROMPT, tmp_path / "picture.png", backend="executorch")
    assert list(tmp_path.iterdir()) == []


# Seeds, prompts, steps, guidance.


@on_every_backend
def test_a_seed_draws_the_same_bits_twice_and_another_seed_others(draw, backend):
    first, again, other = (draw(seed=seed, backend=backend) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_prompts_draw_different_pictures(draw):
    assert draw("red a") != draw("blue c")


def test_a_second_prompt_does_not_change_what_was_prepared_for_the_first(bundle):
    runner = ExecuTorchRunner(bundle)
    first = runner.prepare("red a")
    before = [t.clone() for t in first]
    second = runner.prepare("blue c")
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_second_step_does_not_change_the_first_prediction(bundle):
    runner = ExecuTorchRunner(bundle)
    conditioning = runner.prepare(PROMPT)
    first = runner.denoise(torch.zeros(2, *runner.latent_shape), torch.tensor([900.0]), conditioning)
    before = first.clone()
    runner.denoise(torch.ones(2, *runner.latent_shape), torch.tensor([100.0]), conditioning)
    assert torch.equal(first, before)


def test_the_defaults_are_the_bundles(bundle, draw):
    sampling = bundle.manifest["sampling"]
    assert draw() == draw(seed=0, steps=sampling["steps"], guidance=sampling["guidance"], backend="auto")


@on_every_backend
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_steps_are_those_of_the_table(bundle, draw, tmp_path, backend, steps):
    watch = Stopwatch()
    latents = picture(RUNNERS[backend](bundle), Wish(PROMPT, bundle.plan(steps), 1.5, 0), watch)
    save_png(latents, tmp_path / "expected.png")
    assert draw(steps=steps, guidance=1.5, backend=backend) == (tmp_path / "expected.png").read_bytes()
    assert len(watch.seconds) == steps - 1


class Garbled:
    """A runner whose predictions without the prompt are not numbers."""

    def __init__(self, runner):
        self.runner, self.latent_shape = runner, runner.latent_shape
        self.prepare, self.decode = runner.prepare, runner.decode

    def denoise(self, *inputs: torch.Tensor) -> torch.Tensor:
        prediction = self.runner.denoise(*inputs)
        prediction[0] = math.nan
        return prediction


@on_every_backend
def test_guidance_1_is_the_prompts_prediction_alone(bundle, backend):
    runner, table = RUNNERS[backend](bundle), bundle.plan(4)
    alone = picture(Garbled(runner), Wish(PROMPT, table, 1, 0))
    assert torch.equal(alone, picture(runner, Wish(PROMPT, table, 1, 0)))
    assert not torch.equal(alone, picture(runner, Wish(PROMPT, table, 1.5, 0)))
    assert picture(Garbled(runner), Wish(PROMPT, table, 1.5, 0)).isnan().all()


def test_guidance_0_ignores_the_prompt(draw):
    assert draw("red a", guidance=0) == draw("blue c", guidance=0) != draw("red a")


def test_threads_change_the_time_and_not_the_picture(bundle, tmp_path):
    """In a process of its own: the thread pool is one for the whole process."""
    drawn = []
    for threads in ("1", "2"):
        out = tmp_path / f"{threads}.png"
        arguments = ["generate", str(bundle.folder), "red a", "--threads", threads, "--out", str(out)]
        command = [sys.executable, "-c", "from edge_hadanorm.cli import main; main()", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert "ms a step" in done.stdout
        drawn.append(out.read_bytes())
    assert drawn[0] == drawn[1]
