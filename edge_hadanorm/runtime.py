"""Who runs a model: PyTorch (a float model, or the simulation of a quantized one) or the ExecuTorch runtime.

Both give `prepare` and `denoise`; `picture` is the loop over them that a device runs too.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.errors import UserError
from edge_hadanorm.noise import normal
from edge_hadanorm.sampling import SamplerTable, sample
from edge_hadanorm.source import TextToImage
from edge_hadanorm.text import PromptTokenizer


class Runner(Protocol):
    """A text-to-image model with the guidance batch: row 0 is the empty prompt, row 1 the prompt."""

    latent_shape: tuple[int, int, int]

    def prepare(self, prompt: str) -> list[torch.Tensor]: ...

    def denoise(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]
    ) -> torch.Tensor: ...


class TorchRunner:
    """A denoiser, float or quantized, in eager PyTorch."""

    def __init__(self, denoiser: nn.Module, pipeline: TextToImage):
        self.denoiser, self.pipeline = denoiser, pipeline
        self.latent_shape = denoiser.latent_shape()

    @torch.no_grad()
    def prepare(self, prompt: str) -> list[torch.Tensor]:
        return self.denoiser.prepare(self.pipeline.text(prompt))

    @torch.no_grad()
    def denoise(self, latents, timestep, conditioning):
        return self.denoiser.denoise(latents, timestep, conditioning)


class ExecuTorchRunner:
    """A bundle's programs on the ExecuTorch runtime of this machine."""

    def __init__(self, bundle: Bundle):
        from executorch.runtime import Runtime  # a bundle can be read, and simulated, where there is no runtime

        tokenizer = bundle.manifest["tokenizer"]
        self.latent_shape = tuple(bundle.latent_shape)
        self.tokenizer = PromptTokenizer(bundle.file(tokenizer["file"]), tokenizer["length"])
        runtime = Runtime.get()
        self._methods = {}
        self._programs = []  # a method is valid as long as its program
        for program in bundle.manifest["programs"].values():
            loaded = runtime.load_program(bundle.file(program["file"]))
            self._programs.append(loaded)
            self._methods |= {name: loaded.load_method(name) for name in program["methods"]}

    def prepare(self, prompt: str) -> list[torch.Tensor]:
        ids = torch.tensor([self.tokenizer(""), self.tokenizer(prompt)])
        return [t.clone() for t in self._methods["prepare"].execute(self._methods["encode"].execute([ids]))]

    def denoise(self, latents, timestep, conditioning):
        return self._methods["denoise"].execute([latents, timestep, *conditioning])[0].clone()


def has_executorch() -> bool:
    """Whether the ExecuTorch runtime can be imported here."""
    try:
        import executorch.runtime  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def picture(
    runner: Runner,
    prompt: str,
    table: SamplerTable,
    guidance: float,
    seed: int,
    on_step: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Latents float32 [C, H, W] of a prompt, by classifier-free guidance from the noise of a seed."""
    if not 0 <= guidance <= 100:
        raise UserError(f"guidance is {guidance}, not a number from 0 to 100")
    conditioning = runner.prepare(prompt)

    def predict(latents: torch.Tensor, timestep: float) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat([latents, latents])
        prediction = runner.denoise(both, torch.tensor([timestep], dtype=torch.float32), conditioning)
        return prediction[:1], prediction[1:]

    noise = torch.from_numpy(normal(seed, (1, *runner.latent_shape)))
    return sample(predict, table, noise, guidance, on_step)[0]
