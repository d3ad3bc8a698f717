"""Signatures of a bundle's programs: what each method of a component takes and gives, as example tensors by name.

Shapes and dtypes are what counts, so the tensors may be fake: a dry run describes programs as export writes them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from edge_hadanorm.bundle.schema import SMALL
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.decoder import TILE, Decode
from edge_hadanorm.pipelines.kinds import Tensors, as_given
from edge_hadanorm.pipelines.text_to_image import TextToImage

# Side of the latents that a smaller tile has at least: its edges are not seen in a picture.
SMALLEST = 16


@dataclass(frozen=True)
class Signature:
    """Example tensors that a method takes and gives, by name, in order."""

    inputs: Tensors
    outputs: Tensors


def prompt_inputs(denoiser: Denoiser, tokens: int, masked: bool) -> Tensors:
    """Inputs of `prepare` where there is no pipeline: prompts of so many tokens, with a mask or without."""
    return {name: torch.ones(1, *shape) for name, shape in denoiser.prompt_shapes(tokens, masked).items()}


def denoiser_signatures(
    denoiser: Denoiser, inputs: Tensors, gather: Callable[[Tensors], Tensors] = as_given
) -> dict[str, Signature]:
    """Methods `prepare`, once a prompt, and `denoise`, every step.

    inputs: of `prepare`, of which `gather` makes what the denoiser takes.
    """
    latents, timestep = torch.zeros(1, *denoiser.latent_shape()), torch.zeros(1)
    conditioning = {f"conditioning.{i}": tensor for i, tensor in enumerate(denoiser.prepare(**gather(inputs)))}
    return {
        "prepare": Signature(inputs, conditioning),
        "denoise": Signature({"latents": latents, "timestep": timestep, **conditioning}, {"prediction": latents}),
    }


def text_encoder_inputs(pipeline: TextToImage, role: str) -> Tensors:
    """Inputs of `encode` of the text encoder in this role, for an empty negative prompt."""
    return pipeline.tokenizers[role].inputs_of(pipeline.kind.encoders[role].form, "", negative=True)


def text_encoder_signatures(pipeline: TextToImage, role: str, outputs: Tensors) -> dict[str, Signature]:
    """Method `encode` of the text encoder in this role, which gives these outputs of `text_encoder_inputs`."""
    return {"encode": Signature(text_encoder_inputs(pipeline, role), outputs)}


def decoder_signatures(
    decode: Decode, latent_shape: tuple[int, int, int], tile: int | None = None, small: bool = False
) -> dict[str, Signature]:
    """Method `decode` of square tiles of the latents, of side `tile` or less where the latents are smaller.

    small: and `decode_small` of half the side, where that is no less than SMALLEST.
    """
    channels, *sides = latent_shape
    side = min(tile or TILE, *sides)
    tiles = {"decode": side} | ({SMALL: side // 2} if small and side // 2 >= SMALLEST else {})
    latents = {name: torch.zeros(1, channels, side, side) for name, side in tiles.items()}
    return {name: Signature({"latents": given}, {"picture": decode(given)}) for name, given in latents.items()}
