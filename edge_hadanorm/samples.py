"""What a denoiser is calibrated and evaluated on: its inputs along sampling trajectories, or captured by the user."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_tensors, require_finite
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.noise import normal
from edge_hadanorm.runtime import OnStep, Runner, TorchRunner, device_of, latents, picture
from edge_hadanorm.source import TextToImage


@dataclass(frozen=True)
class Inputs:
    """One call of a denoiser: latents [B, C, H, W], timestep [1], and what its `prepare` takes: tensors [B, ...]."""

    latents: torch.Tensor
    timestep: torch.Tensor
    prompt: dict[str, torch.Tensor]

    @torch.no_grad()
    def run(self, denoiser: nn.Module) -> torch.Tensor:
        """The denoiser's prediction [B, C, H, W], on the CPU as the inputs are, wherever the denoiser is."""
        device = device_of(denoiser)
        conditioning = denoiser.prepare(**{name: tensor.to(device) for name, tensor in self.prompt.items()})
        return denoiser.denoise(self.latents.to(device), self.timestep.to(device), conditioning).cpu()


@dataclass(frozen=True)
class Trajectories:
    """How to sample: prompts with one seed each, counted from `seed`, at `steps` steps and a guidance.

    Raises UserError for a prompt that the tokenizer refuses and an impossible seed, before anything is drawn.
    """

    pipeline: TextToImage
    prompts: list[str]
    steps: int
    guidance: float
    seed: int

    def __post_init__(self):
        normal(self.seed, 1)
        for prompt in self.prompts:
            self.pipeline.check(prompt)

    def samples(self, denoiser: nn.Module) -> list[Callable[[], torch.Tensor]]:
        """Calls that make the latents of one picture each on a denoiser, float32 [C, H, W]."""
        return self.drawn(latents, TorchRunner(denoiser, self.pipeline))

    def pictures(self, runner: Runner, on_step: OnStep | None = None) -> list[Callable[[], torch.Tensor]]:
        """Calls that draw one picture each on a runner, float32 [3, H, W]."""
        return self.drawn(picture, runner, on_step)

    def drawn(
        self, draw: Callable[..., torch.Tensor], runner: Runner, on_step: OnStep | None = None
    ) -> list[Callable[[], torch.Tensor]]:
        """Calls of `latents` or `picture`, one a prompt."""
        table = self.pipeline.table(self.steps)
        return [
            partial(draw, runner, prompt, table, self.guidance, self.seed + i, on_step)
            for i, prompt in enumerate(self.prompts)
        ]

    def record(self, denoiser: nn.Module, progress: Callable[[Iterable], Iterable] = iter) -> list[Inputs]:
        """The inputs of every step of every picture."""
        inputs = []

        class Recorder(TorchRunner):
            def prepare(self, prompt: str) -> list[torch.Tensor]:
                self.given = self.pipeline.prompt(prompt)
                return super().prepare(prompt)

            @torch.no_grad()
            def denoise(self, latents, timestep, conditioning):
                inputs.append(Inputs(latents, timestep, self.given))
                return super().denoise(latents, timestep, conditioning)

        recorder = Recorder(denoiser, self.pipeline)
        for draw in progress(self.drawn(latents, recorder)):
            draw()
        return inputs


# The transformer's forward argument for each input of `prepare`.
ARGUMENTS = {
    "text": "encoder_hidden_states",
    "mask": "encoder_attention_mask",
    "pooled": "pooled_projections",
    "label": "class_labels",
    "guidance": "guidance",
}
TEXT, MASK, LABEL = ARGUMENTS["text"], ARGUMENTS["mask"], ARGUMENTS["label"]


def captured(file: Path, denoiser: Denoiser) -> list[Inputs]:
    """Captured inputs, one call a sample, named as the transformer's forward arguments; first dimension: samples.

    Raises UserError for missing or unknown names, wrong shapes, NaN or Inf.
    """
    tensors = read_tensors(file)
    try:
        tensors = denoiser.unpacked(tensors)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    words = tensors[TEXT].shape[1] if TEXT in tensors and tensors[TEXT].ndim == 3 else 0
    arguments = {ARGUMENTS[name]: shape for name, shape in denoiser.prompt_shapes(words, masked=True).items()}
    arguments = {"hidden_states": denoiser.latent_shape(), "timestep": ()} | arguments
    if unknown := sorted(set(tensors) - set(arguments)):
        raise UserError(f"{file}: unknown tensor {unknown[0]!r}; the names are {', '.join(arguments)}")
    if missing := [name for name in arguments if name not in tensors and name != MASK]:
        raise UserError(f"{file}: tensor {missing[0]!r} is missing; the names are {', '.join(arguments)}")
    require_finite(tensors, str(file))
    latents = tensors["hidden_states"]
    samples = len(latents) if latents.ndim else 0
    if not samples:
        raise UserError(f"{file}: hidden_states of shape {list(latents.shape)} holds no samples: they come first")
    for name, tensor in tensors.items():
        shape = (samples, *arguments[name])
        if tuple(tensor.shape) != shape or 0 in shape:
            raise UserError(f"{file}: {name} has shape {list(tensor.shape)}, this transformer takes {list(shape)}")
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    mask = tensors.get(MASK)
    if mask is not None and not (((mask == 0) | (mask == 1)).all() and mask.any(1).all()):
        raise UserError(f"{file}: {MASK} is not 1 for tokens, at least one a sample, and 0 for padding")
    label = tensors.get(LABEL)
    if label is not None and not ((label >= 0) & (label <= denoiser.classes) & (label % 1 == 0)).all():
        raise UserError(f"{file}: {LABEL} is not a class from 0 to {denoiser.classes - 1}, or {denoiser.classes}: none")
    return [
        Inputs(
            latents[i : i + 1].float(),
            tensors["timestep"][i : i + 1],
            {name: tensors[key][i : i + 1] for name, key in ARGUMENTS.items() if key in tensors},
        )
        for i in range(samples)
    ]
