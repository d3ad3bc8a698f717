"""Integer grids: ranges, scales, codes, packing. Pure functions on tensors.

A value x has the code q = clamp(round(x / scale) + zero_point, qmin, qmax) and stands for (q - zero_point) * scale.
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Grid:
    """The codes of `bits` bits: symmetric around a zero point of 0, or asymmetric with one of its own."""

    bits: int
    symmetric: bool

    def __post_init__(self):
        if not 2 <= self.bits <= 8:
            raise ValueError(f"a grid has 2 to 8 bits, not {self.bits}")

    @property
    def qmin(self) -> int:
        # The int8 kernels of phones need weights without -128; narrower weights are widened to int8 first.
        return -127 if self.symmetric and self.bits == 8 else -(1 << (self.bits - 1))

    @property
    def qmax(self) -> int:
        return (1 << (self.bits - 1)) - 1


def choose_parameters(low: torch.Tensor, high: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (both of low's shape and dtype) of the grid that spans [low, high] and represents 0.

    The asymmetric rule is the one XNNPACK uses for dynamically quantized activations, so that a simulation has the
    codes of the device. An empty range (all zeros) gets the scale 1.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    tiny = torch.finfo(low.dtype).tiny
    if grid.symmetric:
        scale = torch.maximum(-low, high) / grid.qmax
        return torch.where(scale == 0, 1.0, scale.clamp(min=tiny)), torch.zeros_like(scale)
    levels = grid.qmax - grid.qmin
    # Divided before subtracted, so that a row from -3e38 to 3e38 does not overflow.
    scale = high / levels - low / levels
    scale = torch.where(scale == 0, 1.0, scale.clamp(min=tiny))
    low, high = low / scale, high / scale
    # Of the two zero points that map an end of the range exactly, the one with the smaller error.
    zero_point = torch.where((grid.qmin + low) + (grid.qmax + high) > 0, grid.qmin - low, grid.qmax - high)
    return scale, zero_point.round().clamp(grid.qmin, grid.qmax)


def quantize(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | float, grid: Grid) -> torch.Tensor:
    """Codes of x, in x's dtype."""
    return ((x / scale).round() + zero_point).clamp(grid.qmin, grid.qmax)


def dequantize(codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
    """The values that codes stand for, in scale's dtype."""
    return codes * scale if zero_point is None else (codes.to(scale.dtype) - zero_point) * scale


def fake_quantize_per_token(x: torch.Tensor, bits: int, clip: float = 1.0) -> torch.Tensor:
    """x [..., d] on the asymmetric grid of each token's own range, or of the part `clip` of it."""
    grid = Grid(bits, symmetric=False)
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    if clip != 1:
        low, high = low * clip, high * clip
    scale, zero_point = choose_parameters(low, high, grid)
    return dequantize(quantize(x, scale, zero_point, grid), scale, zero_point)


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int) -> torch.Tensor:
    """x on the asymmetric grid of a given range."""
    return dequantize(quantize(x, scale, zero_point, Grid(bits, symmetric=False)), scale, zero_point)


def grouped(weight: torch.Tensor, group_size: int | None) -> torch.Tensor:
    """A view [m, groups, group] of a weight [m, d]; one group where group_size is None.

    Raises ValueError where groups do not divide d.
    """
    size = group_size or weight.shape[1]
    if weight.shape[1] % size:
        raise ValueError(f"groups of {size} do not divide an input width of {weight.shape[1]}")
    return weight.unflatten(1, (-1, size))


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Signed codes of any shape as bytes [ceil(n * bits / 8)], least significant bit first."""
    offset = (codes.flatten().to(torch.int16) + (1 << (bits - 1))).to(torch.uint8).numpy()
    flags = np.unpackbits(offset[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(flags, bitorder="little"))


def unpack(packed: torch.Tensor, bits: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The int8 codes of `shape` that `pack` packed."""
    count = int(np.prod(shape))
    flags = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    offset = np.packbits(flags, axis=1, bitorder="little")[:, 0].astype(np.int16)
    return torch.from_numpy((offset - (1 << (bits - 1))).astype(np.int8).reshape(shape))
