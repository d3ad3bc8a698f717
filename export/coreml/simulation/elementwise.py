"""MIL operators that work number by number, and those that reduce axes, in torch."""

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

# What torch holds of each MIL dtype: fp16 as float32 that is rounded where a program stores it. A precision may hold
# floats in more.
HELD = {
    "bool": torch.bool,
    "fp16": torch.float32,
    "fp32": torch.float32,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
}
Operator = Callable[..., torch.Tensor | Sequence[torch.Tensor]]


def unary(function: Operator) -> Operator:
    return lambda x: function(x)


def binary(function: Operator) -> Operator:
    return lambda x, y: function(x, y)


def cast(x: torch.Tensor, *, dtype: str) -> torch.Tensor:
    """Floats to floats as they are: the caller rounds."""
    return x if x.is_floating_point() and HELD[dtype].is_floating_point else x.to(HELD[dtype])


def clip(x: torch.Tensor, *, alpha: float, beta: float) -> torch.Tensor:
    return x.clamp(alpha, beta)


def inverse(x: torch.Tensor, *, epsilon: float = 1e-4) -> torch.Tensor:
    return 1 / (x + epsilon)


def log(x: torch.Tensor, *, epsilon: float = 1e-45) -> torch.Tensor:
    return torch.log(x + epsilon)


def rsqrt(x: torch.Tensor, *, epsilon: float = 1e-12) -> torch.Tensor:
    return torch.rsqrt(x + epsilon)


def threshold(x: torch.Tensor, *, alpha: float) -> torch.Tensor:
    return x.clamp(min=alpha)


def elu(x: torch.Tensor, *, alpha: float) -> torch.Tensor:
    return F.elu(x, alpha)


def leaky_relu(x: torch.Tensor, *, alpha: float) -> torch.Tensor:
    return F.leaky_relu(x, alpha)


def sigmoid_hard(x: torch.Tensor, *, alpha: float, beta: float) -> torch.Tensor:
    return (alpha * x + beta).clamp(0, 1)


GELUS = {
    "EXACT": F.gelu,
    "TANH_APPROXIMATION": lambda x: F.gelu(x, approximate="tanh"),
    "SIGMOID_APPROXIMATION": lambda x: x * torch.sigmoid(1.702 * x),
}


def gelu(x: torch.Tensor, *, mode: str = "EXACT") -> torch.Tensor:
    return GELUS[mode](x)


def softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    return torch.softmax(x, axis)


def reduction(function: Callable[[torch.Tensor, list[int], bool], torch.Tensor]) -> Operator:
    """Operator of a function that reduces axes of x; none given are all. Integers keep their dtype."""

    def reduce(x: torch.Tensor, *, axes: Sequence[int] | None = None, keep_dims: bool = False) -> torch.Tensor:
        return function(x, list(range(x.ndim) if axes is None else axes), keep_dims).to(x.dtype)

    return reduce


def product(x: torch.Tensor, axes: list[int], keep_dims: bool) -> torch.Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keep_dims)
    return x


def mean(x: torch.Tensor, axes: list[int], keep_dims: bool) -> torch.Tensor:
    """The mean; of integers rounded down, as their quotient is.

    Over one of the last two axes of floats a product with a row of 1 / n, as the denoisers compute theirs: its rounding
    is as good as that of another order, and a simulation in PyTorch has the same bits.
    """
    if not x.is_floating_point():
        return x.sum(axes, keep_dims) // math.prod(x.shape[axis] for axis in axes)
    axis = axes[0] % x.ndim - x.ndim if len(axes) == 1 else None
    if axis not in (-1, -2) or x.ndim < 2:
        return x.mean(axes, keep_dims)
    row = x.new_full((1, x.shape[axis]), 1 / x.shape[axis])
    y = F.linear(x, row) if axis == -1 else torch.matmul(row, x)
    return y if keep_dims else y.squeeze(axis)


def argument(function: Callable[..., torch.Tensor]) -> Operator:
    """Operator of a function that finds an index along an axis."""

    def find(x: torch.Tensor, *, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> torch.Tensor:
        return function(x, axis, keep_dims).to(HELD[output_dtype])

    return find


ELEMENTWISE: dict[str, Operator] = {
    "abs": unary(torch.abs),
    "cast": cast,
    "ceil": unary(torch.ceil),
    "clip": clip,
    "cos": unary(torch.cos),
    "elu": elu,
    "erf": unary(torch.erf),
    "exp": unary(torch.exp),
    "exp2": unary(torch.exp2),
    "floor": unary(torch.floor),
    "gelu": gelu,
    "identity": unary(torch.clone),
    "inverse": inverse,
    "leaky_relu": leaky_relu,
    "log": log,
    "logical_not": unary(torch.logical_not),
    "relu": unary(torch.relu),
    "relu6": unary(F.relu6),
    "round": unary(torch.round),
    "rsqrt": rsqrt,
    "sigmoid": unary(torch.sigmoid),
    "sigmoid_hard": sigmoid_hard,
    "sign": unary(torch.sign),
    "silu": unary(F.silu),
    "sin": unary(torch.sin),
    "softmax": softmax,
    "softplus": unary(F.softplus),
    "softsign": unary(F.softsign),
    "sqrt": unary(torch.sqrt),
    "square": unary(torch.square),
    "tanh": unary(torch.tanh),
    "threshold": threshold,
    "add": binary(torch.add),
    "equal": binary(torch.eq),
    "floor_div": binary(torch.floor_divide),
    "greater": binary(torch.gt),
    "greater_equal": binary(torch.ge),
    "less": binary(torch.lt),
    "less_equal": binary(torch.le),
    "logical_and": binary(torch.logical_and),
    "logical_or": binary(torch.logical_or),
    "logical_xor": binary(torch.logical_xor),
    "maximum": binary(torch.maximum),
    "minimum": binary(torch.minimum),
    "mod": binary(torch.remainder),
    "mul": binary(torch.mul),
    "not_equal": binary(torch.ne),
    "pow": binary(torch.pow),
    "real_div": binary(torch.true_divide),
    "sub": binary(torch.sub),
    "reduce_argmax": argument(torch.argmax),
    "reduce_argmin": argument(torch.argmin),
    "reduce_l1_norm": reduction(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "reduce_l2_norm": reduction(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "reduce_log_sum": reduction(lambda x, axes, keep: x.sum(axes, keep).log()),
    "reduce_log_sum_exp": reduction(torch.logsumexp),
    "reduce_max": reduction(torch.amax),
    "reduce_mean": reduction(mean),
    "reduce_min": reduction(torch.amin),
    "reduce_prod": reduction(product),
    "reduce_sum": reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "reduce_sum_square": reduction(lambda x, axes, keep: x.square().sum(axes, keep)),
}
