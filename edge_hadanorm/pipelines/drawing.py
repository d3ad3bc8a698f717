"""Drawing of pictures: the loop that a device runs too, over a `Runner`, and the runner in PyTorch.

A runner is a float model, the simulation of a quantized one, or a bundle on a runtime (bundle/runner.py).
"""

import statistics
import time
from collections.abc import Callable
from typing import Protocol

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.denoiser import Denoiser, device_of
from edge_hadanorm.pipelines.decoder import tiled
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.sampling import SamplerTable, sample
from edge_hadanorm.pipelines.text_to_image import TextToImage

OnStep = Callable[[int, torch.Tensor], None]


class Runner(Protocol):
    """A text-to-image model with the guidance batch: row 0 is the empty prompt, row 1 the prompt."""

    latent_shape: tuple[int, int, int]

    def prepare(self, prompt: str) -> list[torch.Tensor]:
        """Compute the conditioning of a prompt, tensors [2, ...]."""

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        """Predict [2, C, H, W] for latents [2, C, H, W] at one timestep [1]."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents [C, H, W] to a picture [3, H, W]."""


class TorchRunner:
    """A denoiser, float or quantized, in eager PyTorch; all else, the loop included, is on the CPU.

    tile: side of the latents that are decoded at once; None: all.
    """

    def __init__(self, denoiser: Denoiser, pipeline: TextToImage, tile: int | None = None):
        self.denoiser, self.pipeline, self.tile = denoiser, pipeline, tile
        self.latent_shape = denoiser.latent_shape()

    @torch.no_grad()
    def prepare(self, prompt: str) -> list[torch.Tensor]:
        device = device_of(self.denoiser)
        return self.denoiser.prepare(**{name: t.to(device) for name, t in self.pipeline.prompt(prompt).items()})

    @torch.no_grad()
    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        device = device_of(self.denoiser)
        return self.denoiser.denoise(latents.to(device), timestep.to(device), conditioning).cpu()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        if self.pipeline.decoder is None:
            return latents
        return tiled(self.pipeline.decoder, latents[None], self.tile or max(latents.shape[1:]))[0]


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


def picture(
    runner: Runner,
    prompt: str,
    table: SamplerTable,
    guidance: float,
    seed: int,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Draw a prompt: a picture float32 [3, H, W], in [-1, 1] but for rounding. Raises UserError as `latents` does."""
    return runner.decode(latents(runner, prompt, table, guidance, seed, on_step))


def latents(
    runner: Runner,
    prompt: str,
    table: SamplerTable,
    guidance: float,
    seed: int,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Sample a prompt: latents float32 [C, H, W], by classifier-free guidance from the noise of a seed.

    Raises UserError for an impossible guidance or seed, and for a prompt that the runner refuses.
    """
    if not 0 <= guidance <= 100:
        raise UserError(f"guidance is {guidance}, not a number from 0 to 100")
    conditioning = runner.prepare(prompt)

    def predict(latents: torch.Tensor, timestep: float) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat([latents, latents])
        prediction = runner.denoise(both, torch.tensor([timestep], dtype=torch.float32), conditioning)
        return prediction[:1], prediction[1:]

    noise = torch.from_numpy(normal(seed, (1, *runner.latent_shape)))
    return sample(predict, table, noise, guidance, on_step)[0]
