"""Calls of a denoiser: its inputs, along a trajectory or captured by the user."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.denoiser import ARGUMENTS, Denoiser, device_of
from edge_hadanorm.tensor_files import read_tensors, require_finite

# Captured inputs: a .safetensors file named as the transformer's forward arguments, samples first; or its tensors.
Captured = str | Path | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """One call of a denoiser: latents [B, C, H, W], timestep [1], and what its `prepare` takes: tensors [B, ...]."""

    latents: torch.Tensor
    timestep: torch.Tensor
    prompt: dict[str, torch.Tensor]

    @torch.no_grad()
    def run(self, denoiser: Denoiser) -> torch.Tensor:
        """The denoiser's prediction [B, C, H, W], on the CPU as the inputs are, wherever the denoiser is."""
        device = device_of(denoiser)
        conditioning = denoiser.prepare(**{name: tensor.to(device) for name, tensor in self.prompt.items()})
        return denoiser.denoise(self.latents.to(device), self.timestep.to(device), conditioning).cpu()


def captured_size(source: Captured) -> tuple[int, int] | None:
    """H, W of the latents in captured inputs: of their shape, or of FLUX's ids of packed ones; None where neither is.

    Raises UserError for a file that cannot be read.
    """
    tensors = source if isinstance(source, Mapping) else read_tensors(source)
    latents, ids = tensors.get("hidden_states"), tensors.get("img_ids")
    if latents is not None and latents.ndim == 4:
        return latents.shape[2], latents.shape[3]
    if ids is None or ids.ndim not in (2, 3) or ids.shape[-1] != 3 or not ids.numel():
        return None
    rows, columns = (1 + int(last) for last in ids.reshape(-1, 3)[:, 1:].amax(0))
    return 2 * rows, 2 * columns


TEXT, MASK, LABEL = ARGUMENTS["text"], ARGUMENTS["mask"], ARGUMENTS["label"]


def read_captured(source: Captured, denoiser: Denoiser) -> list[Inputs]:
    """Captured inputs, one call a sample, named as the transformer's forward arguments; first dimension: samples.

    source: a .safetensors file, or its tensors. Raises UserError for missing or unknown names, wrong shapes, NaN, Inf.
    """
    file = "captured inputs" if isinstance(source, Mapping) else source
    tensors = dict(source) if isinstance(source, Mapping) else read_tensors(source)
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
    label, classes = tensors.get(LABEL), getattr(denoiser, "classes", 0)
    if label is not None and not ((label >= 0) & (label <= classes) & (label % 1 == 0)).all():
        raise UserError(f"{file}: {LABEL} is not a class from 0 to {classes - 1}, or {classes}: none")
    return [
        Inputs(
            latents[i : i + 1].float(),
            tensors["timestep"][i : i + 1],
            {name: tensors[key][i : i + 1] for name, key in ARGUMENTS.items() if key in tensors},
        )
        for i in range(samples)
    ]
