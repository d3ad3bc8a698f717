"""The image decoder of a latent-space pipeline, applied whole or tile by tile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json
from edge_hadanorm.tensor_files import require_finite

Decode = Callable[[torch.Tensor], torch.Tensor]
# Share of a tile's side that it shares with the next, where both fade into each other.
OVERLAP = 0.25
# Side of the latents that are decoded at once: more would need more memory than the denoiser.
TILE = 64


class ImageDecoder(nn.Module):
    """The decoder half of a diffusers autoencoder.

    It takes latents [1, C, h, w] as the sampler leaves them and gives a picture [1, 3, H, W] in about [-1, 1].
    """

    def __init__(self, autoencoder: Any):
        super().__init__()
        self.autoencoder = autoencoder
        config = autoencoder.config
        self.scaling, self.shift = config.scaling_factor, config.get("shift_factor") or 0.0

    @classmethod
    def load(cls, folder: Path, class_name: str) -> "ImageDecoder":
        """Load a folder that diffusers saved, safetensors only, in float32. Raises UserError for what is broken."""
        import diffusers

        try:
            autoencoder = getattr(diffusers, class_name).from_pretrained(
                folder, use_safetensors=True, torch_dtype=torch.float32, local_files_only=True
            )
        except Exception as error:  # diffusers raises whatever the file made it raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"image decoder {folder} cannot be loaded: {reason}; copy it again") from None
        require_finite(autoencoder.state_dict(), f"weights of image decoder {folder}")
        autoencoder.encoder = None  # nothing is encoded here
        return cls(autoencoder.eval().requires_grad_(False))

    @classmethod
    def outline(cls, folder: Path, class_name: str) -> "ImageDecoder":
        """Build the decoder of a config, with any weights. Raises UserError for a config of another class."""
        import diffusers

        config = read_json(folder / "config.json", "image decoder config")
        try:
            return cls(getattr(diffusers, class_name).from_config(config).eval())
        except Exception as error:  # diffusers raises whatever the file made it raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"image decoder {folder} is no {class_name}: {reason}; copy it again") from None

    @property
    def wide(self) -> bool:
        """Whether its activations may leave the range of float16, as those of most autoencoders do."""
        return self.autoencoder.config.get("force_upcast", True)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.decode(latents / self.scaling + self.shift, return_dict=False)[0]


# Keys of an autoencoder's config that have an entry a level, by class; each level but the first halves the sides.
LEVELS = {"AutoencoderKL": "block_out_channels", "AutoencoderDC": "encoder_block_out_channels"}


def pixels_a_latent(folder: Path, class_name: str) -> int:
    """Pixels of a picture along a latent's side. Raises UserError for a config of another class."""
    config = read_json(folder / "config.json", "image decoder config")
    levels = config.get(LEVELS[class_name]) if isinstance(config, dict) else None
    if not isinstance(levels, list) or not levels:
        raise UserError(
            f"image decoder {folder} is no {class_name}: its config has no {LEVELS[class_name]}; copy it again"
        )
    return 2 ** (len(levels) - 1)


def tiled(decode: Decode, latents: torch.Tensor, side: int) -> torch.Tensor:
    """Decode latents [1, C, h, w] by tiles [1, C, side, side], which overlap by OVERLAP, into a picture [1, 3, H, W].

    Where tiles overlap they are mixed by weights that fall linearly towards their edges.
    """
    rows, columns = (_starts(size, side) for size in latents.shape[2:])
    picture = total = torch.empty(0)
    for row in rows:
        for column in columns:
            tile = decode(latents[:, :, row : row + side, column : column + side])
            scale = tile.shape[-1] // side
            if not total.numel():
                picture = tile.new_zeros(*tile.shape[:2], *(size * scale for size in latents.shape[2:]))
                total = torch.zeros_like(picture[:, :1])
            ramp = torch.arange(1, side * scale + 1, dtype=tile.dtype)
            ramp = torch.minimum(ramp, ramp.flip(0)).clamp(max=max(1.0, OVERLAP * side * scale))
            weight = ramp[:, None] * ramp
            window = (..., slice(row * scale, (row + side) * scale), slice(column * scale, (column + side) * scale))
            picture[window] += tile * weight
            total[window] += weight
    return picture / total


def _starts(size: int, side: int) -> list[int]:
    """Place tiles so that they cover `size`, the last one flush with its end; returns where they begin."""
    if size <= side:
        return [0]
    stride = max(1, int(side * (1 - OVERLAP)))
    return [*range(0, size - side, stride), size - side]
