"""MIL operators between numbers and their codes: activations on the way, and weights as a package stores them."""

from collections.abc import Sequence

import torch

from edge_hadanorm.exporters.coreml.simulation.elementwise import HELD, Operator, cast


def along(values: torch.Tensor, x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A scalar, or values [n] that go along an axis of x."""
    if values.ndim == 0:
        return values
    if axis is None:
        raise ValueError("it has many scales and no axis")
    return values.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def quantize(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    *,
    output_dtype: str,
    axis: int | None = None,
) -> torch.Tensor:
    """clip(round(input / scale) + zero_point), ties to even."""
    codes = torch.round(input / along(scale, input, axis))
    if zero_point is not None:
        codes = codes + along(zero_point, input, axis)
    limits = torch.iinfo(HELD[output_dtype])
    return codes.clamp(limits.min, limits.max).to(HELD[output_dtype])


def dequantize(
    input: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None, *, axis: int | None = None
) -> torch.Tensor:
    """scale (input - zero_point)"""
    codes = input.to(scale.dtype)
    if zero_point is not None:
        codes = codes - along(zero_point, input, axis)
    return codes * along(scale, input, axis)


def affine_dequantize(
    quantized_data: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, *, axis: int
) -> torch.Tensor:
    return dequantize(quantized_data, scale, zero_point, axis=axis)


def in_blocks(x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """x [D, ...] of so many blocks along each dimension as [count, D / count, ...]."""
    return x.reshape([n for size, count in zip(x.shape, counts, strict=True) for n in (count, size // count)])


def of_blocks(values: torch.Tensor) -> torch.Tensor:
    """A value for each block as what broadcasts with `in_blocks`."""
    return in_blocks(values, values.shape)


def blockwise_shift_scale(data: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    """scale (data - offset), a scale and offset for each block."""
    codes = in_blocks(data, scale.shape).to(scale.dtype)
    if offset is not None:
        codes = codes - of_blocks(offset)
    return (codes * of_blocks(scale)).reshape(data.shape)


def lut_to_dense(
    indices: torch.Tensor,
    lut: torch.Tensor,
    *,
    vector_axis: int | None = None,
    shape: Sequence[int] | None = None,
) -> torch.Tensor:
    """Values, or vectors along an axis, of tables lut [*blocks, P, V] by indices [*D].

    Before iOS 18 with a `shape`: indices are the bits of log2(P) each, and the table is lut [P].
    """
    if shape is not None:
        width = max(1, (len(lut) - 1).bit_length())
        bits = unpacked_bits(indices)
        codes = bits[: len(bits) // width * width].reshape(-1, width).long() @ (1 << torch.arange(width))
        return lut[codes[: torch.Size(shape).numel()]].reshape(list(shape))
    rank, (palettes, length) = indices.ndim, lut.shape[-2:]
    tables = lut.reshape(-1, palettes, length)
    which = of_blocks(torch.arange(len(tables)).reshape(lut.shape[:rank]))
    dense = tables[which, in_blocks(indices, lut.shape[:rank]).long()].reshape(*indices.shape, length)
    if length == 1:
        return dense.squeeze(-1)
    if vector_axis is None:
        raise ValueError("its palette has vectors, and it has no vector_axis")
    axis = vector_axis % rank
    return dense.movedim(-1, axis + 1).flatten(axis, axis + 1)


def sparse_to_dense(
    nonzero_data: torch.Tensor, mask: torch.Tensor, *, shape: Sequence[int] | None = None
) -> torch.Tensor:
    """Values at the places of a mask, 0 elsewhere. Before iOS 18 with a `shape`: the mask is bits."""
    if shape is not None:
        mask = unpacked_bits(mask)[: torch.Size(shape).numel()].reshape(list(shape))
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask.bool()] = nonzero_data
    return dense


def unpacked_bits(packed: torch.Tensor) -> torch.Tensor:
    """Bits of bytes, the least significant first."""
    return ((packed.flatten()[:, None] >> torch.arange(8)) & 1).flatten()


def constant_cast(source_val: torch.Tensor, *, output_dtype: str) -> torch.Tensor:
    return cast(source_val, dtype=output_dtype)


CODES: dict[str, Operator] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": constant_cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_sparse_to_dense": sparse_to_dense,
    "dequantize": dequantize,
    "quantize": quantize,
}
