"""Signatures of a bundle's programs: what each method of a component takes and gives, as example tensors by name.

Shapes and dtypes are what counts, so the tensors may be fake: a dry run describes programs as export writes them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from edge_hadanorm.bundle.schema import SMALL
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.kinds import Tensors, as_given
from edge_hadanorm.pipelines.text_to_image import TextToImage
from edge_hadanorm.pipelines.tiles import Apply, window_of

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
    decode: Apply, latent_shape: tuple[int, int, int], tile: int | None = None, small: bool = False
) -> dict[str, Signature]:
    """Method `decode` of latents, or of tiles of them, see `tiles.window_of`.

    small: and `decode_small` of squares of half a tile's side, where that is no less than SMALLEST.
    """
    channels, height, width = latent_shape
    windows = {"decode": window_of(height, width, tile)}
    side = min(windows["decode"]) // 2
    if small and side >= SMALLEST:
        windows[SMALL] = side, side
    latents = {name: torch.zeros(1, channels, *window) for name, window in windows.items()}
    return {name: Signature({"latents": given}, {"picture": decode(given)}) for name, given in latents.items()}


def encoder_signatures(
    encode: Apply, latent_shape: tuple[int, int, int], pixels: int, tile: int | None = None
) -> dict[str, Signature]:
    """Method `encode` of a picture, or of tiles of it for as many latents as `decode` takes. pixels: of a latent."""
    height, width = window_of(*latent_shape[1:], tile)
    picture = torch.zeros(1, 3, pixels * height, pixels * width)
    return {"encode": Signature({"picture": picture}, {"latents": encode(picture)})}
