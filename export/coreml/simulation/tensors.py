"""MIL operators that make tensors, reorder them or take parts of them, in torch."""

import itertools
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from edge_hadanorm.exporters.coreml.simulation.elementwise import HELD, Operator

# An input of any number of tensors.
Tensors = list[torch.Tensor]
Sizes = Sequence[int]


def reshape(x: torch.Tensor, *, shape: Sizes) -> torch.Tensor:
    """A size of 0: as in x of that rank, -1: what is left."""
    return x.reshape([x.shape[i] if size == 0 and x.numel() else size for i, size in enumerate(shape)])


def transpose(x: torch.Tensor, *, perm: Sizes) -> torch.Tensor:
    return x.permute(*perm)


def expand_dims(x: torch.Tensor, *, axes: Sizes) -> torch.Tensor:
    """Axes are of the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: torch.Tensor, *, axes: Sizes | None = None) -> torch.Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def concat(values: Tensors, *, axis: int, interleave: bool = False) -> torch.Tensor:
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].ndim
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


def stack(values: Tensors, *, axis: int) -> torch.Tensor:
    return torch.stack(values, axis)


def split(
    x: torch.Tensor, *, axis: int, num_splits: int | None = None, split_sizes: Sizes | None = None
) -> Sequence[torch.Tensor]:
    if split_sizes is not None:
        return x.split(list(split_sizes), axis)
    if num_splits is None:
        raise ValueError("it has neither num_splits nor split_sizes")
    return x.split(x.shape[axis] // num_splits, axis)


def slice_by_index(
    x: torch.Tensor,
    *,
    begin: Sizes,
    end: Sizes,
    stride: Sizes | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> torch.Tensor:
    """x[begin:end:stride] of every dimension; a mask: from its start, to its end, or the one at `begin`."""
    none = [False] * x.ndim
    squeezed = squeeze_mask or none
    masks = zip(begin_mask or none, end_mask or none, squeezed, strict=True)
    steps = stride or [1] * x.ndim
    for axis, (first, last, step, (from_start, to_end, one)) in enumerate(zip(begin, end, steps, masks, strict=True)):
        if one:
            x = x.narrow(axis, first % x.shape[axis], 1)
            continue
        taken = range(x.shape[axis])[slice(None if from_start else first, None if to_end else last, step)]
        if step == 1:
            x = x.narrow(axis, taken.start, len(taken))
        else:
            x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64))
    return x.squeeze(tuple(axis for axis, one in enumerate(squeezed) if one)) if any(squeezed) else x


def slice_by_size(x: torch.Tensor, *, begin: Sizes, size: Sizes) -> torch.Tensor:
    """A size of -1: all that follows."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        first %= x.shape[axis]
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


def positions(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Indices int64, counted from the end where they are negative. Raises IndexError where there is none."""
    indices = indices.long()
    if indices.numel() and not (-size <= indices.min() and indices.max() < size):
        raise IndexError(f"indices {indices.min()} to {indices.max()} into {size}")
    return torch.where(indices < 0, indices + size, indices)


def gather(
    x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False
) -> torch.Tensor:
    """Slices of x along an axis; the first `batch_dims` dimensions of both go together."""
    axis %= x.ndim
    where = positions(indices, x.shape[axis])
    rows, chosen = (t.reshape(-1, *t.shape[batch_dims:]) for t in (x, where))
    taken = [row.index_select(axis - batch_dims, own.flatten()) for row, own in zip(rows, chosen, strict=True)]
    return torch.stack(taken).reshape(*x.shape[:axis], *where.shape[batch_dims:], *x.shape[axis + 1 :])


def gather_along_axis(
    x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0, validate_indices: bool = False
) -> torch.Tensor:
    """Take along an axis, as NumPy does; indices have x's size in the other dimensions."""
    return x.gather(axis, positions(indices, x.shape[axis]))


def gather_nd(
    x: torch.Tensor, indices: torch.Tensor, *, batch_dims: int = 0, validate_indices: bool = False
) -> torch.Tensor:
    """x at the coordinates in the last dimension of indices; the first `batch_dims` dimensions of both go together."""
    rows, chosen = (t.reshape(-1, *t.shape[batch_dims:]) for t in (x, indices))
    taken = []
    for row, own in zip(rows, chosen, strict=True):
        at = tuple(positions(part, size) for part, size in zip(own.unbind(-1), row.shape, strict=False))
        taken.append(row[at])
    return torch.stack(taken).reshape(*x.shape[:batch_dims], *taken[0].shape)


def tile(x: torch.Tensor, *, reps: Sizes) -> torch.Tensor:
    return x.repeat(*reps)


def pad(x: torch.Tensor, *, pad: Sizes, mode: str = "constant", constant_val: float = 0.0) -> torch.Tensor:
    """Before and after each of the last dimensions, in their order."""
    if mode == "constant":
        pairs = list(zip(pad[::2], pad[1::2], strict=True))
        return F.pad(x, list(itertools.chain(*reversed(pairs))), value=constant_val)
    first = x.ndim - len(pad) // 2
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), first):
        x = x.index_select(axis, PADDED[mode](x.shape[axis], before, after))
    return x


def _reflected(size: int, before: int, after: int) -> torch.Tensor:
    if max(before, after) >= size:
        raise ValueError(f"reflection of {max(before, after)} of {size}")
    where = torch.arange(-before, size + after).abs()
    return torch.where(where >= size, 2 * (size - 1) - where, where)


def _replicated(size: int, before: int, after: int) -> torch.Tensor:
    return torch.arange(-before, size + after).clamp(0, size - 1)


PADDED = {"reflect": _reflected, "replicate": _replicated}


def fill(*, shape: Sizes, value: float | bool = 0.0) -> torch.Tensor:
    dtype = {bool: torch.bool, int: torch.int32, float: torch.float64}[type(value)]
    return torch.full(list(shape), value, dtype=dtype)


def fill_like(ref_tensor: torch.Tensor, *, value: float | bool = 0.0) -> torch.Tensor:
    return fill(shape=ref_tensor.shape, value=value)


def shape(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def range_1d(start: torch.Tensor, end: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def cumsum(x: torch.Tensor, *, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> torch.Tensor:
    x = x.flip(axis) if reverse else x
    total = x.cumsum(axis, dtype=x.dtype)
    total = total - x if exclusive else total
    return total.flip(axis) if reverse else total


def reverse(x: torch.Tensor, *, axes: Sizes | None = None) -> torch.Tensor:
    return x.flip(list(range(x.ndim) if axes is None else axes))


def band_part(x: torch.Tensor, *, lower: int = -1, upper: int = -1) -> torch.Tensor:
    """The diagonal with so many below and above it, all for -1, of matrices [..., M, N]."""
    x = x if lower < 0 else x.triu(-lower)
    return x if upper < 0 else x.tril(upper)


def one_hot(
    indices: torch.Tensor, *, one_hot_vector_size: int, axis: int = -1, on_value: float = 1, off_value: float = 0
) -> torch.Tensor:
    hot = F.one_hot(positions(indices, one_hot_vector_size), one_hot_vector_size).movedim(-1, axis).bool()
    return torch.where(hot, fill(shape=(), value=on_value), fill(shape=(), value=off_value))


def select(cond: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(cond, a, b)


def topk(
    x: torch.Tensor,
    *,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Sequence[torch.Tensor]:
    values, indices = torch.topk(x, k, axis, largest=not ascending, sorted=sort)
    return (values, indices.to(HELD[output_indices_dtype])) if return_indices else (values,)


def depth_to_space(x: torch.Tensor, *, block_size: int) -> torch.Tensor:
    """Channels in the order (row, column, channel), unlike `pixel_shuffle`."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, block_size, block_size, channels // block_size**2, height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block_size, width * block_size)


def space_to_depth(x: torch.Tensor, *, block_size: int) -> torch.Tensor:
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // block_size, block_size, width // block_size, block_size)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // block_size, width // block_size)


def pixel_shuffle(x: torch.Tensor, *, upscale_factor: int) -> torch.Tensor:
    return F.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(x: torch.Tensor, *, downscale_factor: int) -> torch.Tensor:
    return F.pixel_unshuffle(x, downscale_factor)


TENSORS: dict[str, Operator] = {
    "band_part": band_part,
    "concat": concat,
    "cumsum": cumsum,
    "depth_to_space": depth_to_space,
    "expand_dims": expand_dims,
    "fill": fill,
    "fill_like": fill_like,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "one_hot": one_hot,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "range_1d": range_1d,
    "reshape": reshape,
    "reverse": reverse,
    "select": select,
    "shape": shape,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "space_to_depth": space_to_depth,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "topk": topk,
    "transpose": transpose,
}
