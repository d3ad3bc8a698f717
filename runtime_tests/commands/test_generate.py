"""The same bundle, prompt and seed on the ExecuTorch runtime and in simulation; `generate` on either."""

import io
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from edge_hadanorm import console
from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.runner import ExecuTorchRunner, has_executorch
from edge_hadanorm.cli import Shares
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.targets import simulation
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.pipelines.drawing import Stopwatch, Wish, picture
from edge_hadanorm.pipelines.pictures import read_mask, read_picture, save_png, to_image, to_pixels
from edge_hadanorm.workflow import generate
from runtime_tests.support.helpers import an_original

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
    first = runner.denoise(torch.zeros(1, *runner.latent_shape), torch.tensor([900.0]), conditioning)
    before = first.clone()
    runner.denoise(torch.ones(1, *runner.latent_shape), torch.tensor([100.0]), conditioning)
    assert torch.equal(first, before)


def test_the_defaults_are_the_bundles(bundle, draw):
    sampling = bundle.manifest["sampling"]
    assert (sampling["plan"], sampling["guidance"], sampling["negative"]) == ("4", 1.5, "")
    assert draw() == draw(seed=0, steps=4, guidance=1.5, negative="", guidance_steps=(0, 1), backend="auto")


def test_other_defaults_are_the_bundles_too(bundle, tmp_path):
    sampling = bundle.manifest["sampling"] | {"plan": "3", "guidance": 4, "negative": "blue c"}
    changed = Bundle(bundle.folder, bundle.manifest | {"sampling": sampling})
    given = generate(bundle, PROMPT, steps=3, guidance=4, negative="blue c", backend="simulation").image
    assert generate(changed, PROMPT, backend="simulation").image.tobytes() == given.tobytes()


@on_every_backend
def test_a_picture_may_begin_with_another(bundle, draw, tmp_path, backend):
    """Of any size and kind of file; what the mask says is kept is kept to the pixel, and 0.6 is the strength."""
    width, height = bundle.image_size
    original = an_original((width, height), masked=True)
    to_image(original.picture).save(tmp_path / "init.png")
    mask = Image.fromarray((original.mask * 255).byte().numpy())
    mask.save(tmp_path / "mask.png")
    given = dict(backend=backend, init=tmp_path / "init.png")
    begun = draw(**given)
    assert begun == draw(**given, strength=0.6) == draw(backend=backend, init=Image.open(tmp_path / "init.png"))
    assert begun not in (draw(backend=backend), draw(**given, strength=1.0))
    masked = np.array(Image.open(io.BytesIO(draw(**given, mask=tmp_path / "mask.png"))))
    kept = original.mask.numpy() == 0
    assert (masked[kept] == np.array(Image.open(tmp_path / "init.png"))[kept]).all()
    assert (masked[~kept] != np.array(Image.open(tmp_path / "init.png"))[~kept]).any()
    large = Image.open(tmp_path / "init.png").resize((4 * width, 3 * height))
    large.save(tmp_path / "large.jpg")
    assert draw(backend=backend, init=tmp_path / "large.jpg", strength=0.3) != begun


def test_runtime_and_simulation_begin_with_the_same_picture(bundle, tmp_path):
    to_image(an_original(bundle.image_size).picture).save(tmp_path / "init.png")
    drawn = [generate(bundle, PROMPT, init=tmp_path / "init.png", backend=backend).image for backend in RUNNERS]
    assert psnr_db(*(torch.from_numpy(np.array(image)) for image in drawn)) >= 45


def test_pictures_to_begin_with_are_cut_turned_and_laid_on_white(tmp_path):
    wide = Image.new("RGB", (40, 10), "blue")
    wide.paste("red", (15, 0, 25, 10))
    cut = read_picture(wide, (10, 10))
    assert torch.equal(cut, torch.tensor([1.0, -1, -1])[:, None, None].expand(3, 10, 10))
    noted = Image.new("RGB", (10, 10), "white")
    noted.paste("black", (0, 0, 5, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    noted.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(read_picture(tmp_path / "turned.png", (10, 10))[0, :, 0], torch.tensor([-1.0] * 5 + [1.0] * 5))
    clear = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    assert torch.equal(read_picture(clear, (10, 10)), torch.ones(3, 10, 10))
    grey = Image.fromarray(np.arange(118, 138, dtype=np.uint8)[None].repeat(20, 0))
    assert read_mask(grey, (20, 20))[0].tolist() == [0.0] * 10 + [1.0] * 10


def test_a_bundle_without_an_image_encoder_begins_with_no_picture(bundle):
    """Unless its latents are pixels."""
    decode = {"inputs": [{"name": "latents", "dtype": "float32", "shape": [1, 3, 8, 8]}], "outputs": []}
    programs = bundle.programs | {"image_decoder": {"file": "none.pte", "methods": {"decode": decode}}}
    changed = Bundle(bundle.folder, bundle.manifest | {"programs": programs})
    with pytest.raises(UserError, match="has no image encoder: export with `with_encoder`"):
        generate(changed, PROMPT, init=Image.new("RGB", (8, 8)))
    grey = Bundle(bundle.folder, bundle.manifest | {"latents": {"shape": [1, 8, 8]}})
    with pytest.raises(UserError, match="draws in 1 channels: no picture in colours can begin one"):
        generate(grey, PROMPT, init=Image.new("RGB", (8, 8)))


def test_a_size_that_the_bundle_does_not_have_is_answered_with_those_it_has(bundle):
    width, height = bundle.image_size
    with pytest.raises(UserError, match=rf"has no pictures of 9x{height} pixels; take one of {width}x{height}$"):
        generate(bundle, PROMPT, size=(9, height))
    assert generate(bundle, PROMPT, size=(width, height)).image.size == (width, height)


def test_a_plan_of_one_guidance_is_drawn_with_it_and_no_other(bundle):
    """Whatever the default of the other plans is."""
    plans = bundle.manifest["sampling"]["plans"]
    own = plans | {"3": plans["3"] | {"guidance": 4.0}}
    changed = Bundle(bundle.folder, bundle.manifest | {"sampling": bundle.manifest["sampling"] | {"plans": own}})
    given = generate(bundle, PROMPT, steps=3, guidance=4, backend="simulation").image.tobytes()
    for asked in (None, 4):
        drawn = generate(changed, PROMPT, steps=3, guidance=asked, backend="simulation")
        assert drawn.image.tobytes() == given
    with pytest.raises(UserError, match="the plan was made for `guidance` 4 alone; leave it out"):
        generate(changed, PROMPT, steps=3, guidance=1.5, backend="simulation")


@on_every_backend
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_steps_are_those_of_the_plan(bundle, draw, tmp_path, backend, steps):
    watch = Stopwatch()
    latents = picture(RUNNERS[backend](bundle), Wish(PROMPT, bundle.plan(steps), 1.5, 0), watch)
    save_png(latents, tmp_path / "expected.png")
    assert draw(steps=steps, guidance=1.5, backend=backend) == (tmp_path / "expected.png").read_bytes()
    assert len(watch.seconds) == steps - 1


class Garbled:
    """A runner whose predictions for the negative prompt are not numbers, and which counts both kinds."""

    def __init__(self, runner):
        self.runner, self.latent_shape, self.decode = runner, runner.latent_shape, runner.decode
        self.negative, self.predicted = None, Counter()

    def prepare(self, prompt: str, negative: bool = False) -> list[torch.Tensor]:
        conditioning = self.runner.prepare(prompt, negative)
        if negative:
            self.negative = conditioning
        return conditioning

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        negative = conditioning is self.negative
        self.predicted["negative" if negative else "text"] += 1
        prediction = self.runner.denoise(latents, timestep, conditioning)
        return torch.full_like(prediction, math.nan) if negative else prediction


@on_every_backend
def test_guidance_1_is_the_prompts_prediction_alone(bundle, backend):
    runner, plan = RUNNERS[backend](bundle), bundle.plan(4)
    garbled = Garbled(runner)
    alone = picture(garbled, Wish(PROMPT, plan, 1, 0))
    assert garbled.predicted == {"text": 4}
    assert garbled.negative is None  # nor is it prepared
    assert torch.equal(alone, picture(runner, Wish(PROMPT, plan, 1, 0)))
    assert not torch.equal(alone, picture(runner, Wish(PROMPT, plan, 1.5, 0)))
    assert picture(garbled, Wish(PROMPT, plan, 1.5, 0)).isnan().all()
    assert garbled.predicted == {"text": 8, "negative": 4}


@pytest.mark.parametrize("guidance", [0, 0.5, 1])
def test_guidance_below_1_is_that_of_1(draw, guidance):
    """As in diffusers, which makes the text's prediction alone then."""
    red, blue = (draw(prompt, guidance=guidance) for prompt in ("red a", "blue c"))
    assert red == draw("red a", guidance=1) != draw("red a", guidance=1.5)
    assert red != blue


# What is not wanted.


@on_every_backend
def test_a_negative_prompt_changes_the_picture_and_an_empty_one_does_not(draw, backend):
    plain, empty, other, more = (
        draw(backend=backend, **options) for options in ({}, {"negative": ""}, {"negative": "blue c"}, {"guidance": 4})
    )
    assert plain == empty
    assert len({plain, other, more}) == 3
    assert draw(backend=backend, negative="blue c", guidance=4) not in (plain, other, more)


def test_without_guidance_a_negative_prompt_does_nothing(draw):
    assert draw(guidance=1, negative="blue c") == draw(guidance=1)


def test_what_is_wanted_and_unwanted_is_the_prompts_prediction_alone(draw):
    """Whatever guidance takes of the difference to itself; but for a code that rounding makes another one."""
    both, alone = (to_tensor(draw(negative=PROMPT, guidance=guidance)) for guidance in (4, 1))
    assert psnr_db(both, alone) >= 40


def to_tensor(png: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(png))))


def test_simulation_and_runtime_draw_the_same_picture_with_a_negative_prompt(bundle):
    wish = Wish(PROMPT, bundle.plan(8), 3, 3, "blue c")
    assert psnr_db(*(to_pixels(picture(runner(bundle), wish)) for runner in RUNNERS.values())) >= 45


# Guidance on a part of the steps.


@on_every_backend
def test_guidance_on_a_part_of_the_steps_is_that_of_the_plan(bundle, draw, tmp_path, backend):
    runner, plan = RUNNERS[backend](bundle), bundle.plan(8).guided_between(0.25, 0.75)
    save_png(picture(runner, Wish(PROMPT, plan, 3, 0, "blue c")), tmp_path / "expected.png")
    drawn = draw(steps=8, guidance=3, negative="blue c", guidance_steps=(0.25, 0.75), backend=backend)
    assert drawn == (tmp_path / "expected.png").read_bytes()
    assert drawn != draw(steps=8, guidance=3, negative="blue c", backend=backend)


def test_guidance_on_no_step_is_none(draw):
    assert draw(guidance=4, guidance_steps=(0, 0)) == draw(guidance=1)


def test_fewer_steps_with_guidance_are_fewer_predictions(bundle):
    counts = {}
    for last in (0.0, 0.5, 1.0):
        garbled = Garbled(RUNNERS["simulation"](bundle))
        picture(garbled, Wish(PROMPT, bundle.plan(8).guided_between(0, last), 3, 0))
        counts[last] = dict(garbled.predicted)
    assert counts == {0.0: {"text": 8}, 0.5: {"text": 8, "negative": 4}, 1.0: {"text": 8, "negative": 8}}


# The command.


def test_the_command_takes_all_of_it(bundle, tmp_path, run):
    out = tmp_path / "picture.png"
    line = f"generate {bundle.folder} 'red a' --out {out} --backend simulation --steps 6 --guidance 3 --seed 5"
    assert run(f"{line} --negative 'blue c' --guidance-steps 0.0-0.5") == (0, "")
    options = dict(seed=5, steps=6, guidance=3, backend="simulation")
    expected = generate(bundle, PROMPT, negative="blue c", guidance_steps=(0, 0.5), **options).image
    with Image.open(out) as drawn:
        assert drawn.tobytes() == expected.tobytes()
    assert run(line) == (0, "")
    with Image.open(out) as drawn:
        assert drawn.tobytes() != expected.tobytes()


@pytest.mark.parametrize(
    ("shares", "expected"), [("0-1", (0, 1)), ("0.0-0.6", (0, 0.6)), (".25-.75", (0.25, 0.75)), ("1-1", (1, 1))]
)
def test_shares_of_the_steps_are_two_numbers(shares, expected):
    assert Shares().convert(shares, None, None) == expected
    assert Shares().convert(expected, None, None) == expected


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
