"""Tiles: pieces of latents or pictures, to which an image decoder or encoder is applied one after the other."""

from collections.abc import Callable

import torch

Apply = Callable[[torch.Tensor], torch.Tensor]
# Share of a tile's side that it shares with the next, where both fade into each other.
OVERLAP = 0.25
# Side of the latents that are decoded or encoded at once: more would need more memory than the denoiser.
TILE = 64


def tiled(apply: Apply, given: torch.Tensor, side: int, grain: int = 1) -> torch.Tensor:
    """Apply a module to [1, C, h, w] by square tiles of side `side`, which overlap by OVERLAP.

    side, and where tiles begin, are multiples of `grain`, which one value of the result may stand for. Where tiles
    overlap they are mixed by weights that fall linearly towards their edges.
    """
    rows, columns = (_starts(size // grain, side // grain) for size in given.shape[2:])
    result = total = torch.empty(0)
    for row in rows:
        for column in columns:
            top, left = row * grain, column * grain
            tile = apply(given[:, :, top : top + side, left : left + side])
            made = tile.shape[-1]
            if not total.numel():
                result = tile.new_zeros(*tile.shape[:2], *(size * made // side for size in given.shape[2:]))
                total = torch.zeros_like(result[:, :1])
            ramp = torch.arange(1, made + 1, dtype=tile.dtype)
            ramp = torch.minimum(ramp, ramp.flip(0)).clamp(max=max(1.0, OVERLAP * made))
            weight = ramp[:, None] * ramp
            top, left = top * made // side, left * made // side
            window = (..., slice(top, top + made), slice(left, left + made))
            result[window] += tile * weight
            total[window] += weight
    return result / total


def _starts(size: int, side: int) -> list[int]:
    """Place tiles so that they cover `size`, the last one flush with its end; returns where they begin."""
    if size <= side:
        return [0]
    stride = max(1, int(side * (1 - OVERLAP)))
    return [*range(0, size - side, stride), size - side]
