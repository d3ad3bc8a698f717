"""Weights to codes: nearest, and a search for the clip that loses least."""

import torch

from edge_hadanorm.quantizer import Grid, choose_parameters, dequantize, grouped, quantize

# Wide rows want a clip of 0.6 at 4 bits and of 0.2 at 2 bits: a range of few steps is worth more than its tails.
CLIP_RATIOS = torch.linspace(1.0, 0.2, 41).tolist()


def nearest(weight: torch.Tensor, bits: int, group_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 [m, d] and scales [m, groups] of a weight [m, d], each scale from the group's largest magnitude."""
    groups = grouped(weight, group_size)
    grid = Grid(bits, symmetric=True)
    scale, _ = choose_parameters(groups.amin(-1), groups.amax(-1), grid)
    scale = _stored(scale, group_size)
    return _codes(groups, scale, grid), scale


def clip_search(weight: torch.Tensor, bits: int, group_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """As `nearest`, with the scale of each group shrunk to the one of least squared error."""
    groups = grouped(weight, group_size)
    grid = Grid(bits, symmetric=True)
    largest, _ = choose_parameters(groups.amin(-1), groups.amax(-1), grid)
    scale, least = None, None
    for ratio in CLIP_RATIOS:
        candidate = _stored(largest * ratio, group_size)
        codes = quantize(groups, candidate[..., None], 0, grid)
        error = (dequantize(codes, candidate[..., None]) - groups).square().sum(-1)
        scale = candidate if least is None else torch.where(error < least, candidate, scale)
        least = error if least is None else torch.minimum(error, least)
    return _codes(groups, scale, grid), scale


def _stored(scale: torch.Tensor, group_size: int | None) -> torch.Tensor:
    """A scale as the device keeps it: XNNPACK stores those of groups in bfloat16."""
    return scale if group_size is None else scale.bfloat16().to(scale.dtype)


def _codes(groups: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    return quantize(groups, scale[..., None], 0, grid).flatten(1).to(torch.int8)


METHODS = {"nearest": nearest, "clip": clip_search}
