"""Tiles: pieces of latents or pictures, to which an image decoder or encoder is applied one after the other."""

from collections.abc import Callable

import torch

Apply = Callable[[torch.Tensor], torch.Tensor]
Window = tuple[int, int]  # height and width of a tile
# Share of a tile's side that it shares with the next, where both fade into each other.
OVERLAP = 0.25
# Side of the latents that are decoded or encoded at once: more would need more memory than the denoiser.
TILE = 64


def window_of(height: int, width: int, tile: int | None = None) -> Window:
    """Choose the tile of latents: all of them where they are no more than a square of side `tile`, else a square."""
    side = tile or TILE
    if height * width <= side * side:
        return height, width
    side = min(side, height, width)
    return side, side


def tiled(apply: Apply, given: torch.Tensor, window: Window, grain: int = 1) -> torch.Tensor:
    """Apply a module to [1, C, h, w] by tiles of a window, which overlap by OVERLAP.

    The window, and where tiles begin, are multiples of `grain`, which one value of the result may stand for. Where
    tiles overlap they are mixed by weights that fall linearly towards their edges.
    """
    if window == tuple(given.shape[2:]):
        return apply(given)
    height, width = window
    tops, lefts = (_starts(size, side, grain) for size, side in zip(given.shape[2:], window, strict=True))
    result = total = torch.empty(0)
    for top in tops:
        for left in lefts:
            tile = apply(given[:, :, top : top + height, left : left + width])
            tall, wide = tile.shape[2:]
            if not total.numel():
                whole = given.shape[2] * tall // height, given.shape[3] * wide // width
                result = tile.new_zeros(*tile.shape[:2], *whole)
                total = torch.zeros_like(result[:, :1])
            weight = _ramp(tall)[:, None] * _ramp(wide)
            y, x = top * tall // height, left * wide // width
            result[:, :, y : y + tall, x : x + wide] += tile * weight
            total[:, :, y : y + tall, x : x + wide] += weight
    return result / total


def _ramp(length: int) -> torch.Tensor:
    ramp = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(ramp, ramp.flip(0)).clamp(max=max(1.0, OVERLAP * length))


def _starts(size: int, side: int, grain: int) -> list[int]:
    """Place tiles so that they cover `size`, the last one flush with its end; returns where they begin."""
    if size <= side:
        return [0]
    stride = max(1, int(side // grain * (1 - OVERLAP))) * grain
    return [*range(0, size - side, stride), size - side]
