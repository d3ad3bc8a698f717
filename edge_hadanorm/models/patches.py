"""Denoisers whose tokens are square patches of the latents, each at its place in them."""

import math

import torch
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.conversion import check_sizes
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.models.layers import TIME_CHANNELS


class PatchDenoiser(Denoiser):
    """Beginning and end of such forms: tokens of latents, and latents of tokens; H and W are `latent_size(config)`.

    `frequencies` are those of the timestep's embedding, which a subclass makes, as it does all between the two ends.
    """

    positions: torch.Tensor | None
    frequencies: torch.Tensor

    def __init__(self, config: dict, placed: bool = True, biased: bool = True):
        """placed: whether tokens have positions. biased: whether the last linear has a bias."""
        super().__init__(config)
        self.heads = config["num_attention_heads"]
        self.width = width = self.heads * config["attention_head_dim"]
        self.channels, self.patch, self.size = config["in_channels"], config["patch_size"], latent_size(config)
        self.grid = grid_of(config)
        self.patch_embed = nn.Conv2d(self.channels, width, self.patch, stride=self.patch)
        self.register_buffer("positions", torch.empty(1, math.prod(self.grid), width) if placed else None)
        self.register_buffer("frequencies", torch.empty(TIME_CHANNELS // 2))
        self.final = nn.Linear(width, self.patch * self.patch * self.channels, bias=biased)

    def latent_shape(self) -> tuple[int, int, int]:
        return self.channels, *self.size

    def image_tokens(self) -> int:
        return math.prod(self.grid)

    def _tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """Patches, and their positions where there are any: [B, C, H, W] -> [B, S, d]."""
        x = self.patch_embed(latents).flatten(2).transpose(1, 2)
        return x if self.positions is None else x + self.positions

    def _latents(self, x: torch.Tensor) -> torch.Tensor:
        """Latents that the last linear makes of tokens [B, S, d], at their places: [B, C, H, W]."""
        x = self.final(x).reshape(-1, *self.grid, self.patch, self.patch, self.channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, self.channels, *self.size)


def latent_size(config: dict) -> tuple[int, int]:
    """H, W of latents: our own key `latent_size`, else those of the config."""
    height, width = config.get("latent_size") or (config["sample_size"], config["sample_size"])
    return height, width


def grid_of(config: dict) -> tuple[int, int]:
    """Rows and columns of patches."""
    height, width = latent_size(config)
    return height // config["patch_size"], width // config["patch_size"]


def sincos_positions(config: dict, scale: float = 1.0, grid: tuple[int, int] | None = None) -> torch.Tensor:
    """Positions [1, S, d] as diffusers makes them, float64: sines and cosines of the column, then those of the row.

    scale: of interpolation, by which rows and columns are divided. grid: rows and columns, by default the config's,
    which are spread over as many as `sample_size` has. Half of the d / 2 features of either are sines of the
    frequencies 10000^(-4 i / d), the others their cosines. Raises UserError where d is no multiple of 4.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    if width % 4:
        raise UserError(f"transformer config: {width} features are no multiple of 4, which positions need")
    base, (rows, columns) = config["sample_size"] // config["patch_size"], grid or grid_of(config)
    frequencies = 1 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))

    def waves(count: int) -> torch.Tensor:
        places = torch.arange(count, dtype=torch.float32) / (count / base) / scale
        angles = torch.outer(places, frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    across, down = waves(columns).repeat(rows, 1), waves(rows).repeat_interleave(columns, 0)
    return torch.cat([across, down], dim=1).unsqueeze(0)


def crop_positions(positions: torch.Tensor, side: int, first: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """Crop positions [1, n, d] that fill a square of `side` to fewer: [1, rows * columns, d].

    Its rows and columns are `grid` from the `first` on.
    """
    rows, columns = (slice(start, start + count) for start, count in zip(first, grid, strict=True))
    return positions[0, : side * side].unflatten(0, (side, side))[rows, columns].reshape(1, math.prod(grid), -1)


def check_patches(config: dict, *sizes: str) -> None:
    """Raises UserError where one of the sizes that every form reads, or of these, is none, or patches do not fit."""
    check_sizes(config, "num_attention_heads", "attention_head_dim", "in_channels", "patch_size", "sample_size", *sizes)
    patch = config["patch_size"]
    if "latent_size" not in config and (side := config["sample_size"]) % patch:
        raise UserError(f"transformer config: patch_size {patch} does not divide sample_size {side}")
    check_latent_size(config, patch)


def check_latent_size(config: dict, patch: int) -> None:
    """Raises UserError where our own `latent_size` is no height and width of whole patches."""
    size = config.get("latent_size")
    if size is None:
        return
    whole = isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    if not whole or any(side % patch for side in size):
        raise UserError(f"`size`: latents of {size} (height, width) are not whole patches of {patch} x {patch}")


def check_variance(config: dict) -> None:
    """Raises UserError where there are fewer output channels than latents have; more are a learned variance."""
    channels, out = config["in_channels"], config.get("out_channels")
    if out is not None and out < channels:
        raise UserError(f"transformer config: out_channels {out} is less than in_channels {channels}")
