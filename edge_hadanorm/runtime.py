"""Who runs a model: PyTorch (a float model, or the simulation of a quantized one) or the ExecuTorch runtime.

Both give `prepare` and `denoise`; `picture` is the loop over them that a device runs too.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from edge_hadanorm.bundle import DECODER, Bundle
from edge_hadanorm.decoder import tiled
from edge_hadanorm.errors import UserError
from edge_hadanorm.noise import normal
from edge_hadanorm.prompts import BundlePrompts
from edge_hadanorm.sampling import SamplerTable, sample
from edge_hadanorm.source import TextToImage

OnStep = Callable[[int, torch.Tensor], None]


class Runner(Protocol):
    """A text-to-image model with the guidance batch: row 0 is the empty prompt, row 1 the prompt."""

    latent_shape: tuple[int, int, int]

    def prepare(self, prompt: str) -> list[torch.Tensor]: ...

    def denoise(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]
    ) -> torch.Tensor: ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [C, H, W] to a picture [3, H, W]."""


class TorchRunner:
    """A denoiser, float or quantized, in eager PyTorch; all else, the loop included, is on the CPU.

    tile: side of the latents that are decoded at once.  None: all.
    """

    def __init__(self, denoiser: nn.Module, pipeline: TextToImage, tile: int | None = None):
        self.denoiser, self.pipeline, self.tile = denoiser, pipeline, tile
        self.latent_shape = denoiser.latent_shape()

    @torch.no_grad()
    def prepare(self, prompt: str) -> list[torch.Tensor]:
        device = device_of(self.denoiser)
        return self.denoiser.prepare(**{name: t.to(device) for name, t in self.pipeline.prompt(prompt).items()})

    @torch.no_grad()
    def denoise(self, latents, timestep, conditioning):
        device = device_of(self.denoiser)
        return self.denoiser.denoise(latents.to(device), timestep.to(device), conditioning).cpu()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        if self.pipeline.decoder is None:
            return latents
        return tiled(self.pipeline.decoder, latents[None], self.tile or max(latents.shape[1:]))[0]


# A method of a program: its inputs in the manifest's order to its outputs in theirs.
Method = Callable[[list[torch.Tensor]], list[torch.Tensor]]


class BundleRunner:
    """A bundle's programs by whatever runs their methods, each by role and name."""

    def __init__(self, bundle: Bundle, methods: dict[tuple[str, str], Method]):
        self.bundle, self.latent_shape = bundle, tuple(bundle.latent_shape)
        self.prompts = BundlePrompts(bundle)
        self._methods = methods

    def prepare(self, prompt: str) -> list[torch.Tensor]:
        given = self.prompts(prompt, lambda role, inputs: self._methods[role, "encode"](inputs))
        if missing := [name for name in self.prompts.wanted if name not in given]:
            raise UserError(
                f"bundle {self.bundle.folder}: nothing gives {missing[0]!r}, which `prepare` takes; export it again"
            )
        return self._methods["denoiser", "prepare"]([given[name] for name in self.prompts.wanted])

    def denoise(self, latents, timestep, conditioning):
        return self._methods["denoiser", "denoise"]([latents, timestep, *conditioning])[0]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        if DECODER not in self.bundle.programs:
            return latents
        decode = self._methods[DECODER, "decode"]
        return tiled(lambda tile: decode([tile.contiguous()])[0].clone(), latents[None], self.bundle.decode_side)[0]


# ExecuTorch's numbers of dtypes.
DTYPE_NUMBERS = {
    "uint8": 0,
    "int8": 1,
    "int16": 2,
    "int32": 3,
    "int64": 4,
    "float16": 5,
    "float32": 6,
    "bool": 11,
    "bfloat16": 15,
}


class ExecuTorchRunner(BundleRunner):
    """A bundle's programs on the ExecuTorch runtime of this machine.

    Raises UserError for a program that the runtime does not load or that is another than the manifest says. What a
    damaged program holds for its delegates is not verified and can crash the process: a bundle's sha256 is the guard.
    """

    def __init__(self, bundle: Bundle):
        if not has_executorch():
            raise UserError("no ExecuTorch runtime here: pip install executorch, or take the simulation")
        from executorch.runtime import Runtime  # a bundle can be read, and simulated, where there is no runtime

        runtime, methods = Runtime.get(), {}
        self._programs = []  # a method is valid as long as its program
        for role, program in bundle.programs.items():
            file = bundle.file(program["file"])
            loaded = _told(file, "is no program that this runtime loads", runtime.load_program, file)
            self._programs.append(loaded)
            for name, signature in program["methods"].items():
                methods[role, name] = _method(file, loaded, name, signature)
        super().__init__(bundle, methods)


def _method(file: Path, program, name: str, signature: dict) -> Method:
    """A method of a program of ExecuTorch, which has to be as the manifest has it."""
    if name not in program.method_names:
        raise UserError(f"program {file} has no method {name!r}, which the manifest lists; export the bundle again")
    method = _told(file, f"does not load its method {name!r}", program.load_method, name)
    meta = method.metadata
    sides = {
        "inputs": [meta.input_tensor_meta(i) for i in range(meta.num_inputs())],
        "outputs": [meta.output_tensor_meta(i) for i in range(meta.num_outputs())],
    }
    for side, tensors in sides.items():
        own = [(tensor.dtype(), tuple(tensor.sizes())) for tensor in tensors]
        if own != [(DTYPE_NUMBERS[tensor["dtype"]], tuple(tensor["shape"])) for tensor in signature[side]]:
            raise UserError(
                f"program {file}: {side} of {name!r} are not those of the manifest; export the bundle again"
            )
    return partial(_told, file, f"cannot run {name!r} on what it was given", method.execute)


def _told(file: Path, what: str, call: Callable, *arguments: object):
    """The result of a call of ExecuTorch's runtime, whose errors are told as the user's."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        raise UserError(f"program {file} {what} ({' '.join(str(error).split())}); export the bundle again") from None


def device_of(denoiser: nn.Module) -> torch.device:
    """Where a denoiser's parameters are."""
    return next(denoiser.parameters()).device


class Stopwatch:
    """An `on_step` that keeps the time of every step but the first, which pays for the prompt too."""

    def __init__(self):
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


def has_executorch() -> bool:
    """Whether the ExecuTorch runtime can be imported here."""
    try:
        import executorch.runtime  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def set_threads(count: int) -> None:
    """Threads of PyTorch and ExecuTorch, for what is loaded from now on: a loaded method needs its own pool."""
    torch.set_num_threads(count)
    if has_executorch():
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(count)


def picture(
    runner: Runner,
    prompt: str,
    table: SamplerTable,
    guidance: float,
    seed: int,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """A picture float32 [3, H, W] of a prompt, in [-1, 1] but for rounding."""
    return runner.decode(latents(runner, prompt, table, guidance, seed, on_step))


def latents(
    runner: Runner,
    prompt: str,
    table: SamplerTable,
    guidance: float,
    seed: int,
    on_step: OnStep | None = None,
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
