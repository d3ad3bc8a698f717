"""Weights to codes: nearest, a search for the clip that loses least, and GPTQ.

GPTQ (Frantar et al., arXiv 2210.17323) rounds one input column after the other and lets the columns still to come make
up for the error, so that what grows least is the error of the output, ||(W - W_q) X^T||^2 = tr((W - W_q) H (W - W_q)^T)
with the second moment H = X^T X / n of the inputs, and not that of the weight.
"""

from collections.abc import Callable

import torch

from edge_hadanorm.method.grids import Grid, choose_parameters, dequantize, grouped, quantize
from edge_hadanorm.method.hardware import PHONE_CPU, Hardware

# Wide rows want a clip of 0.6 at 4 bits and of 0.2 at 2 bits: a range of few steps is worth more than its tails.
CLIP_RATIOS = torch.linspace(1.0, 0.2, 41).tolist()
# Of these GPTQ takes the best a row, at the price of a run each; columns that make up for errors want their range.
GPTQ_RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6)
# Columns rounded before the rest is updated, in one product.
GPTQ_BLOCK = 64


def nearest(weight: torch.Tensor, bits: int, group_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 [m, d] and scales [m, groups] of a weight [m, d], each scale from the group's largest magnitude."""
    groups = grouped(weight, group_size)
    grid = Grid(bits, symmetric=True)
    scale = _stored(_largest(groups, grid), group_size)
    return _codes(groups, scale, grid), scale


def clip_search(
    weight: torch.Tensor, bits: int, group_size: int | None, importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales as `nearest` gives them, each group's scale shrunk to the one of least squared error.

    importance [d]: weights of the columns in that error.
    """
    groups = grouped(weight, group_size)
    weights = 1.0 if importance is None else grouped(importance[None], group_size)
    grid = Grid(bits, symmetric=True)
    largest = _largest(groups, grid)
    scale = _stored(largest, group_size)
    least: torch.Tensor | None = None
    for ratio in CLIP_RATIOS:
        candidate = _stored(largest * ratio, group_size)
        codes = quantize(groups, candidate[..., None], 0, grid)
        error = ((dequantize(codes, candidate[..., None]) - groups).square() * weights).sum(-1)
        scale = candidate if least is None else torch.where(error < least, candidate, scale)
        least = error if least is None else torch.minimum(error, least)
    return _codes(groups, scale, grid), scale


def gptq(
    weight: torch.Tensor,
    bits: int,
    group_size: int | None,
    second_moment: torch.Tensor,
    damping: float = 0.01,
    act_order: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 [m, d] and scales [m, groups] of a weight [m, d] for inputs with this second moment.

    second_moment [d, d], or [k, d / k, d / k]: of k spans of columns each, which make up for each other's errors no
    further; that takes 1 / k of the time. damping: this part of its mean diagonal is added to the diagonal, which
    trusts the sample less. act_order: round the columns of large moments first.
    With one scale a row, the row's best of GPTQ_RATIOS; with groups, the clip search's. Never worse than `nearest` for
    the same damped moment: a row that is, takes its codes.
    """
    weight = weight.float()
    moment = damp(second_moment, damping)
    order = _descending(moment) if act_order else None
    factor = _factor(moment if order is None else _reordered(moment, order)).float()
    moment = moment.float()
    if group_size is None:
        largest = _largest(weight, Grid(bits, symmetric=True))[:, None]
        scales = [largest * ratio for ratio in GPTQ_RATIOS]
    else:
        scales = [clip_search(weight, bits, group_size, moment.diagonal(dim1=-2, dim2=-1).flatten())[1]]
    tries, rows = len(scales), len(weight)
    codes, errors = _gptq_codes(weight.repeat(tries, 1), torch.cat(scales), factor, bits, order)
    plain_codes, plain_scale = nearest(weight, bits, group_size)
    codes, scale = torch.cat([codes.to(torch.int8), plain_codes]), torch.cat([*scales, plain_scale])
    errors = torch.cat([errors, output_error(weight, plain_codes, plain_scale, moment)]).unflatten(0, (-1, rows))
    best = errors.argmin(0) * rows + torch.arange(rows)
    return codes[best], scale[best]


def damp(second_moment: torch.Tensor, damping: float) -> torch.Tensor:
    """A second moment [k, s, s], or [s, s] for k = 1, with `damping` times its mean diagonal added; float64."""
    moment = second_moment.double().reshape(-1, *second_moment.shape[-2:])
    mean = moment.diagonal(dim1=-2, dim2=-1).mean().item() or 1.0
    return moment + damping * mean * torch.eye(moment.shape[-1], dtype=torch.float64)


def output_error(
    weight: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, second_moment: torch.Tensor
) -> torch.Tensor:
    """Mean squared output error [m] of each row of a rounded weight [m, d], for a second moment [k, s, s]."""
    difference = codes * _by_column(scale, weight.shape[1]) - weight
    difference = difference.unflatten(1, second_moment.shape[:2]).transpose(0, 1)
    return ((difference @ second_moment) * difference).sum((0, 2))


def _gptq_codes(
    weight: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor, bits: int, order: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [m, d], float, and the output error [m] of each row.

    factor [k, s, s]: the upper triangular U of the moment H = U U^T in this order of columns. The output error
    tr(R H R^T) of what rounding leaves, R = W - W_q, is ||R U||^2, of which a column's code changes its own column and
    later ones: it is taken nearest to where its own is 0. That is GPTQ's code without the inverse of H (Chen et al.,
    arXiv 2507.18553: GPTQ is Babai's nearest plane).
    """
    grid, (spans, size, _) = Grid(bits, symmetric=True), factor.shape
    scale = _by_column(scale, weight.shape[1])
    if order is not None:
        weight, scale = weight[:, order], scale[:, order]
    # Columns are what the loop reads and writes: as rows they lie together. Spans go side by side.
    columns = weight.T.contiguous().unflatten(0, (spans, size))
    steps = scale.T.unflatten(0, (spans, size))
    rest, codes, error = torch.empty_like(columns), torch.empty_like(columns), columns.new_zeros(columns.shape[-1])
    for first in range(0, size, GPTQ_BLOCK):
        block = slice(first, min(first + GPTQ_BLOCK, size))
        # What the columns before have left in these: R U but for their own share.
        left, upper = factor[:, :first, block].mT @ rest[:, :first], factor[:, block, block]
        for j in range(left.shape[1]):
            column, step, own = columns[:, first + j], steps[:, first + j], upper[:, j, j, None]
            code = ((column + left[:, j] / own) / step).round_().clamp_(grid.qmin, grid.qmax)
            codes[:, first + j] = code
            torch.sub(column, code * step, out=rest[:, first + j])
            left[:, j:].baddbmm_(upper[:, j, j:, None], rest[:, first + j, None])
        error += left.square().sum((0, 1))
    codes = codes.flatten(0, 1)
    return (codes if order is None else codes[order.argsort()]).T.contiguous(), error


def _factor(moment: torch.Tensor) -> torch.Tensor:
    """The upper triangular U [k, s, s] with U U^T = H, for positive definite H."""
    return torch.linalg.cholesky(moment.flip(-1, -2)).flip(-1, -2)


def _descending(moment: torch.Tensor) -> torch.Tensor:
    """The columns [k s] of a moment [k, s, s], those of large moments first within each span."""
    spans, size = moment.shape[:2]
    order = moment.diagonal(dim1=-2, dim2=-1).argsort(descending=True, dim=-1)
    return (order + size * torch.arange(spans)[:, None]).flatten()


def _reordered(moment: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    within = order.unflatten(0, moment.shape[:2]) % moment.shape[1]
    return torch.stack([span[columns][:, columns] for span, columns in zip(moment, within, strict=True)])


def _largest(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The scale of each group [..., size] that spans its largest magnitude."""
    return choose_parameters(groups.amin(-1), groups.amax(-1), grid)[0]


def _by_column(scale: torch.Tensor, columns: int) -> torch.Tensor:
    """Scales [m, groups] as [m, d] or, where there is one a row, a view of that shape."""
    if scale.shape[1] == 1:
        return scale.expand(-1, columns)
    return scale.repeat_interleave(columns // scale.shape[1], dim=1)


def _stored(scale: torch.Tensor, group_size: int | None, hardware: Hardware = PHONE_CPU) -> torch.Tensor:
    """Round a scale as the device does that keeps it, where it is a group's."""
    return scale if group_size is None else scale.to(getattr(torch, hardware.group_scale)).to(scale.dtype)


def _codes(groups: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    return quantize(groups, scale[..., None], 0, grid).flatten(1).to(torch.int8)


# gptq needs the inputs' second moment besides.
Round = Callable[..., tuple[torch.Tensor, torch.Tensor]]
METHODS: dict[str, Round] = {
    "nearest": nearest,
    "clip": clip_search,
    "gptq": gptq,
}
