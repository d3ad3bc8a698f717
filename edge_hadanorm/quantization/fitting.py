"""A linear's weight and bias rounded for the inputs that it will be given.

Its inputs come quantized, from layers that are quantized: GPTQ sees those, and the bias takes the mean of the output
error that is left (Nagel et al., arXiv 1906.04721), at no cost on the device.

What the codes do not do is correct the layers before: regressing the float output on quantized inputs shrinks every
weight, and shrunken outputs add up along the residual stream where rounding errors do not. On the reference model at
W4A4 that cost 1 dB with a layer's own inputs, and 3 dB with those of the float model as the target.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch

from edge_hadanorm.method.fold import Folding
from edge_hadanorm.method.linear import FLOAT_BITS, QuantizedLinear
from edge_hadanorm.method.low_rank import LowRank, low_rank
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.method.rounding import METHODS
from edge_hadanorm.quantization.calibration import Seen, tokens


def fold_linear(recipe: Recipe, folding: Folding, weight: torch.Tensor, bias: torch.Tensor | None) -> QuantizedLinear:
    """A linear with its weight [m, d] still in float and the online transform folded in; in float64, kept in float32.

    weight and bias have the absorbed transform in them already. A weight that is not to be rounded needs no low-rank
    branch and has none.
    """
    weight, bias = folding.online.fold(weight.double(), None if bias is None else bias.double())
    branch = None
    if recipe.rank and recipe.weight_bits < FLOAT_BITS:
        branch = LowRank(*low_rank(weight, recipe.rank)).float()
        weight = weight - branch.weight()  # less L as it is kept, so that the rounded rest makes up for that
    absorbed, online = (copy.deepcopy(part).float() for part in (folding.absorbed, folding.online))
    bias = None if bias is None else bias.float()
    return QuantizedLinear(recipe, online, None, None, bias, weight.float(), absorbed, branch)


def fit(linear: QuantizedLinear, inputs: Callable[[], Iterable[Seen]], span: int | None = None) -> QuantizedLinear:
    """A linear with rounded weight and corrected bias, of one with its folded weight in float.

    inputs() -> what it will be given; with static activations they are asked for twice, for the range first.
    span: at most so many columns of the weight make up for each other's errors, as many as divide them.
    """
    recipe, width = linear.recipe, linear.weight.shape[1]
    if recipe.activations == "tensor":
        ranges = [_real_rows(linear, x, weights).aminmax() for x, weights in inputs()]
        lows, highs = zip(*ranges, strict=True)
        linear.set_activation_range(torch.stack(lows).amin(), torch.stack(highs).amax())
    seen = Statistics(width, _spans(width, span or width))
    for x, weights in inputs():
        z, rest = linear.transform(x, weights)
        exact = tokens(z if rest is None else z + rest, weights)
        # A prompt's tokens are the same at every step.
        seen.update(exact, tokens(linear.quantized_input(x, weights), weights), tokens(x, weights).double().sum(1))
    codes = scale = None
    if recipe.weight_bits < FLOAT_BITS:
        arguments: tuple[Any, ...] = linear.weight, recipe.weight_bits, recipe.group_size
        if recipe.rounding == "gptq":
            arguments += seen.moment / seen.count, max(recipe.damping, width / len(seen.distinct)), recipe.act_order
        codes, scale = METHODS[recipe.rounding](*arguments)
    fitted = QuantizedLinear(
        recipe, linear.transform, codes, scale, None, linear.weight, linear.absorbed, linear.low_rank
    )
    correction = linear.weight.double() @ seen.exact - fitted.weight.double() @ seen.mean
    fitted.bias = (correction if linear.bias is None else linear.bias + correction).float()
    fitted.activation_scale, fitted.activation_zero_point = linear.activation_scale, linear.activation_zero_point
    return fitted


def _spans(width: int, span: int) -> int:
    """The least number of equal spans of at most so many features."""
    return next(count for count in range(1, width + 1) if width <= count * span and width % count == 0)


class Statistics:
    """Sums over a linear's inputs of `width` features, float64, that GPTQ and the bias need.

    exact, mean [d]: of the inputs before and after quantization. moment [k, d / k, d / k]: sum of products of
    deviations of the quantized from their mean, within k spans of features. distinct: a value for each different token.
    """

    def __init__(self, width: int, spans: int):
        self.count = 0
        self.distinct: set[float] = set()
        self.exact, self.mean = torch.zeros(2, width, dtype=torch.float64)
        self.moment = torch.zeros(spans, width // spans, width // spans, dtype=torch.float64)

    def update(self, exact: torch.Tensor, quantized: torch.Tensor, marks: torch.Tensor) -> None:
        """Take in tokens [n, d] before and after quantization, with a value [n] of each; Chan's update."""
        count = len(quantized)
        if not count:
            return
        share, mean = count / (self.count + count), quantized.double().mean(0)
        deviations = (quantized - mean.float()).unflatten(1, self.moment.shape[:2]).transpose(0, 1)
        delta = (mean - self.mean).unflatten(0, self.moment.shape[:2])
        self.moment += deviations.mT @ deviations + delta[:, :, None] * delta[:, None, :] * (self.count * share)
        self.mean += (mean - self.mean) * share
        self.exact += (exact.double().mean(0) - self.exact) * share
        self.count += count
        self.distinct.update(marks.tolist())


def _real_rows(linear: QuantizedLinear, x: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Rows [n, d] that a linear has to quantize, without padding."""
    rows = linear.rows(x, weights)
    return torch.cat([tokens(rows[:, : x.shape[1]], weights), rows[:, x.shape[1] :].flatten(0, 1)])


def select_rows(linear: QuantizedLinear, rows: torch.Tensor) -> QuantizedLinear:
    """Part of a linear that is not rounded yet, which makes these outputs."""
    bias, branch = linear.bias, linear.low_rank
    if branch is not None:
        branch = LowRank(branch.down, branch.up[rows])
    return QuantizedLinear(
        linear.recipe,
        linear.transform,
        None,
        None,
        None if bias is None else bias[rows],
        linear.weight[rows],
        linear.absorbed,
        branch,
    )


def output_noise(linear: QuantizedLinear, weight: torch.Tensor, bias: torch.Tensor | None, seen: Seen) -> torch.Tensor:
    """Squared error [m] of a quantized linear's output over tokens, against x W^T + b of the same x."""
    x, weights = seen
    exact = torch.nn.functional.linear(x, weight, bias)
    return tokens(linear(x, weights) - exact, weights).double().square().sum(0)
