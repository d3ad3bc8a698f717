"""Weights to codes: nearest, and a search for the clip that loses least."""

import torch

from edge_hadanorm.quantizer import Grid, choose_parameters, dequantize, grouped, quantize

# Below a half the clipped weights cost more than the finer grid gains, at any width.
CLIP_RATIOS = torch.linspace(1.0, 0.5, 26).tolist()


def nearest(weight: torch.Tensor, bits: int, group_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 [m, d] and scales [m, groups] of a weight [m, d], each scale from the group's largest magnitude."""
    groups = grouped(weight, group_size)
    grid = Grid(bits, symmetric=True)
    scale, _ = choose_parameters(groups.amin(-1), groups.amax(-1), grid)
    return _codes(groups, scale, grid), scale


def clip_search(weight: torch.Tensor, bits: int, group_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """As `nearest`, with the scale of each group shrunk to the one of least squared error."""
    groups = grouped(weight, group_size)
    grid = Grid(bits, symmetric=True)
    largest, _ = choose_parameters(groups.amin(-1), groups.amax(-1), grid)
    scale, least = largest, None
    for ratio in CLIP_RATIOS:
        candidate = largest * ratio
        codes = quantize(groups, candidate[..., None], 0, grid)
        error = (dequantize(codes, candidate[..., None]) - groups).square().sum(-1)
        scale = candidate if least is None else torch.where(error < least, candidate, scale)
        least = error if least is None else torch.minimum(error, least)
    return _codes(groups, scale, grid), scale


def _codes(groups: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    return quantize(groups, scale[..., None], 0, grid).flatten(1).to(torch.int8)


METHODS = {"nearest": nearest, "clip": clip_search}
