"""MIL operators with weights or windows (products, convolutions, norms, attention, resampling), in torch."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from edge_hadanorm.exporters.coreml.simulation.elementwise import Operator, mean
from edge_hadanorm.exporters.coreml.simulation.tensors import Tensors

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
Sizes = Sequence[int]
# Zeros before and after each spatial dimension.
Padding = list[tuple[int, int]]


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(x, weight, bias)


def matmul(x: torch.Tensor, y: torch.Tensor, *, transpose_x: bool = False, transpose_y: bool = False) -> torch.Tensor:
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


def einsum(values: Tensors, *, equation: str) -> torch.Tensor:
    return torch.einsum(equation, *values)


def padding(sizes: Sizes, windows: Sizes, strides: Sizes, pad_type: str, pad: Sizes | None) -> Padding:
    """Zeros before and after spatial dimensions of these sizes; "same": as many windows as strides, zeros around,
    an odd one after, for "same_lower" before. Raises ValueError for another type."""
    if pad_type == "custom" and pad is not None:
        return list(zip(pad[::2], pad[1::2], strict=True))
    if pad_type in ("valid", "custom"):
        return [(0, 0)] * len(sizes)
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"pad_type {pad_type!r}")
    pairs = []
    for size, window, stride in zip(sizes, windows, strides, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if pad_type == "same" else (more, less))
    return pairs


def padded(x: torch.Tensor, pairs: Padding, value: float = 0.0) -> torch.Tensor:
    return F.pad(x, [size for pair in reversed(pairs) for size in pair], value=value)


def conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    strides: Sizes | None = None,
    pad_type: str = "valid",
    pad: Sizes | None = None,
    dilations: Sizes | None = None,
    groups: int = 1,
) -> torch.Tensor:
    """x [N, C, *D], weight [C_out, C / groups, *K]."""
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    windows = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    pairs = padding(x.shape[2:], windows, strides, pad_type, pad)
    return CONVOLUTIONS[rank](padded(x, pairs), weight, bias, strides, 0, dilations, groups)


def conv_transpose(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    pad: Sizes | None = None,
    output_shape: Sizes | None = None,
    pad_type: str = "valid",
    strides: Sizes | None = None,
    dilations: Sizes | None = None,
    groups: int = 1,
) -> torch.Tensor:
    """x [N, C, *D], weight [C, C_out / groups, *K]; `pad` is cut off from what all windows cover.

    Raises ValueError for a pad_type of "same", whose cut is not defined.
    """
    if pad_type not in ("valid", "custom"):
        raise ValueError(f"pad_type {pad_type!r}")
    rank = x.ndim - 2
    y = TRANSPOSED[rank](x, weight, None, strides or 1, 0, 0, groups, dilations or 1)
    before, after = ([0] * rank, [0] * rank) if pad is None or pad_type == "valid" else (pad[::2], pad[1::2])
    sizes = [size - low - high for size, low, high in zip(y.shape[2:], before, after, strict=True)]
    for axis, (low, size) in enumerate(zip(before, output_shape[2:] if output_shape else sizes, strict=True), 2):
        y = y.narrow(axis, low, min(size, y.shape[axis] - low))
        y = F.pad(y, [0, 0] * (y.ndim - 1 - axis) + [0, size - y.shape[axis]])
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def max_pool(
    x: torch.Tensor,
    *,
    kernel_sizes: Sizes,
    pad_type: str,
    strides: Sizes | None = None,
    pad: Sizes | None = None,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """The largest of each window in x [N, C, *D]."""
    windows, steps = list(kernel_sizes), list(strides or [1] * len(kernel_sizes))
    pairs = padding(x.shape[2:], windows, steps, pad_type, pad)
    x = padded(x, pairs, -math.inf)
    return MAX_POOLS[len(windows)](x, windows, steps, ceil_mode=ceil_mode)


def avg_pool(
    x: torch.Tensor,
    *,
    kernel_sizes: Sizes,
    pad_type: str,
    strides: Sizes | None = None,
    pad: Sizes | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """The average of each window in x [N, C, *D], with its zeros or without."""
    windows, steps = list(kernel_sizes), list(strides or [1] * len(kernel_sizes))
    pairs, pool = padding(x.shape[2:], windows, steps, pad_type, pad), AVERAGE_POOLS[len(windows)]
    y = pool(padded(x, pairs), windows, steps, ceil_mode=ceil_mode)
    if not exclude_padding_from_average:
        return y
    return y / pool(padded(torch.ones_like(x), pairs), windows, steps, ceil_mode=ceil_mode)


def layer_norm(
    x: torch.Tensor,
    gamma: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    *,
    axes: Sizes | None = None,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    """gamma, beta: of the sizes of x along the axes, in the order of dimensions."""
    axes = sorted(axis % x.ndim for axis in (range(x.ndim) if axes is None else axes))
    sizes = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    centred = x - mean(x, axes, True)
    y = centred * torch.rsqrt(mean(centred * centred, axes, True) + epsilon)
    y = y if gamma is None else y * gamma.reshape(sizes)
    return y if beta is None else y + beta.reshape(sizes)


def instance_norm(
    x: torch.Tensor, gamma: torch.Tensor | None = None, beta: torch.Tensor | None = None, *, epsilon: float = 1e-5
) -> torch.Tensor:
    """Normalize every channel of x [N, C, *D]."""
    return F.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)


def batch_norm(
    x: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    gamma: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    *,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


def scaled_dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """attn_mask: added to scores [B, ..., L, S], or of what takes part."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


def upsample_nearest_neighbor(
    x: torch.Tensor, *, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> torch.Tensor:
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        where = (torch.arange(math.floor(size * factor), dtype=torch.float64) / factor).floor().long()
        x = x.index_select(axis, where.clamp(max=size - 1))
    return x


def upsample_bilinear(
    x: torch.Tensor,
    *,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> torch.Tensor:
    """x [N, C, H, W]. half_pixel_centers: without aligned corners True, also where it is not given.

    Raises ValueError where it is another, which has no counterpart in torch.
    """
    if half_pixel_centers not in (None, not align_corners):
        raise ValueError(f"half_pixel_centers {half_pixel_centers} with align_corners {align_corners}")
    size = [math.floor(n * f) for n, f in zip(x.shape[2:], (scale_factor_height, scale_factor_width), strict=True)]
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


LAYERS: dict[str, Operator] = {
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "einsum": einsum,
    "instance_norm": instance_norm,
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "max_pool": max_pool,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
