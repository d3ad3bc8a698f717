"""Drawing of pictures: the loop that a device runs too, over a `Runner`, and the runner in PyTorch.

A runner is a float model, the simulation of a quantized one, or a bundle on a runtime (bundle/runner.py).
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from edge_hadanorm.models.denoiser import Denoiser, device_of
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.plans import NEGATIVE, TEXT, Plan
from edge_hadanorm.pipelines.sampling import Known, OnStep, sample
from edge_hadanorm.pipelines.text_to_image import TextToImage
from edge_hadanorm.pipelines.tiles import Window, tiled


class Runner(Protocol):
    """A text-to-image model that takes one sequence at a time: one conditioning and the latents of one picture."""

    latent_shape: tuple[int, int, int]

    def prepare(self, prompt: str, negative: bool = False) -> list[torch.Tensor]:
        """Compute the conditioning of a prompt, tensors [1, ...]. negative: it says what is not wanted."""

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        """Predict [1, C, H, W] for latents [1, C, H, W] at one timestep [1]."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents [C, H, W] to a picture [3, H, W]."""

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """Encode a picture [3, H, W] in [-1, 1] to latents [C, H, W]. Raises UserError where nothing can."""


class TorchRunner:
    """A denoiser, float or quantized, in eager PyTorch; all else, the loop included, is on the CPU.

    window: height and width of the latents that are decoded at once; None: all.
    """

    def __init__(self, denoiser: Denoiser, pipeline: TextToImage, window: Window | None = None):
        self.denoiser, self.pipeline, self.window = denoiser, pipeline, window
        self.latent_shape = denoiser.latent_shape()
        self._together: tuple[list[list[torch.Tensor]], list[torch.Tensor]] = ([], [])  # conditionings, and joined

    @torch.no_grad()
    def prepare(self, prompt: str, negative: bool = False) -> list[torch.Tensor]:
        device, given = device_of(self.denoiser), self.pipeline.prompt(prompt, negative)
        return self.denoiser.prepare(**{name: tensor.to(device) for name, tensor in given.items()})

    @torch.no_grad()
    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        device = device_of(self.denoiser)
        return self.denoiser.denoise(latents.to(device), timestep.to(device), conditioning).cpu()

    def denoise_together(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditionings: list[list[torch.Tensor]]
    ) -> list[torch.Tensor]:
        """Predict for latents [1, C, H, W] under each of some conditionings, in one call, which takes less time."""
        if len(conditionings) == 1:
            return [self.denoise(latents, timestep, conditionings[0])]
        if not _are(self._together[0], conditionings):
            joined = [torch.cat(parts) for parts in zip(*conditionings, strict=True)]
            self._together = conditionings, joined
        return list(self.denoise(torch.cat([latents] * len(conditionings)), timestep, self._together[1]).split(1))

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        decoder = self.pipeline.decoder
        if decoder is None:
            return latents
        return tiled(decoder, latents[None], self.window or (latents.shape[1], latents.shape[2]))[0]

    @torch.no_grad()
    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        encoder = self.pipeline.image_encoder
        if encoder is None:
            return picture
        grain = picture.shape[-1] // self.latent_shape[-1]
        height, width = self.window or self.latent_shape[1:]
        return tiled(encoder, picture[None], (height * grain, width * grain), grain)[0]


def _are(kept: list[list[torch.Tensor]], given: list[list[torch.Tensor]]) -> bool:
    """Whether these are the same objects."""
    return len(kept) == len(given) and all(one is other for one, other in zip(kept, given, strict=True))


class Stopwatch:
    """An `on_step` that keeps the time of every step but the first, which pays for the prompt too."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def __call__(self, k: int, latents: torch.Tensor) -> None:
        now = time.perf_counter()
        if k:
            self.seconds.append(now - self._last)
        self._last = now

    @property
    def milliseconds(self) -> float | None:
        """Median of a step; None where none was timed."""
        return 1000 * statistics.median(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class Original:
    """The picture [3, H, W] in [-1, 1] that another begins with. mask: [H, W], 1 where it is drawn anew, 0 where it is
    kept; None: all anew.
    """

    picture: torch.Tensor
    mask: torch.Tensor | None = None


@dataclass(frozen=True)
class Wish:
    """The picture that is wished for: what it shows, what it does not, how it is sampled, and the seed of its noise.

    original: what it begins with, by a plan that is begun there; None: noise alone.
    """

    prompt: str
    plan: Plan
    guidance: float
    seed: int
    negative: str = ""
    original: Original | None = None


def picture(runner: Runner, wish: Wish, on_step: OnStep | None = None) -> torch.Tensor:
    """Draw a picture float32 [3, H, W], in [-1, 1] but for rounding. Raises UserError as `latents` does."""
    return runner.decode(latents(runner, wish, on_step))


def latents(runner: Runner, wish: Wish, on_step: OnStep | None = None) -> torch.Tensor:
    """Sample latents float32 [C, H, W] from the noise of the seed.

    Raises UserError for an impossible guidance or seed, and for a prompt that the runner refuses.
    """
    normal(wish.seed, 1)  # refuses an impossible seed before anything is computed
    known = None if wish.original is None else known_of(runner, wish.original)
    prompts = {TEXT: (wish.prompt, False), NEGATIVE: (wish.negative, True)}
    asked = {name for step in wish.plan.at(wish.guidance) for name in step.predicted}
    conditionings = {name: runner.prepare(*prompts[name]) for name in prompts if name in asked}

    def predict(latents: torch.Tensor, timestep: float, names: Sequence[str]) -> list[torch.Tensor]:
        given, time = [conditionings[name] for name in names], torch.tensor([timestep], dtype=torch.float32)
        if isinstance(runner, TorchRunner):
            return runner.denoise_together(latents, time, given)
        return [runner.denoise(latents, time, conditioning) for conditioning in given]

    def noise(number: int) -> torch.Tensor:
        return torch.from_numpy(normal(wish.seed, (1, *runner.latent_shape), stream=number))

    return sample(predict, wish.plan, wish.guidance, noise, on_step, known)[0]


def known_of(runner: Runner, original: Original) -> Known:
    """Encode the picture that another begins with."""
    return Known(runner.encode(original.picture)[None], mask_of(original, runner.latent_shape))


def mask_of(original: Original, latent_shape: tuple[int, int, int]) -> torch.Tensor | None:
    """Mask [h, w] of latents: that of the first of the pixels that each stands for; None where there is none."""
    if original.mask is None:
        return None
    down, across = (pixels // size for pixels, size in zip(original.mask.shape, latent_shape[1:], strict=True))
    return original.mask[::down, ::across].to(torch.float32)
