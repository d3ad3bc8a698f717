"""Norms and means that models are written in, and that a target may compute in a form of its own.

In simulation they are matrix products with a constant row. So they are in XNNPACK's programs: a layer norm, and a mean
too, would split a program into two delegates there, and run on one thread. A target with other forms gives them to
`computed_by` while it exports; the graph has those forms from the start, and nothing to recognise and undo.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True)
class Operators:
    """Forms of the operators.

    layer_norm(x, eps), rms_norm(x, eps, rms): as the functions of these names, without weights. token_mean(x).
    """

    layer_norm: Callable[[torch.Tensor, float], torch.Tensor]
    rms_norm: Callable[[torch.Tensor, float, float], torch.Tensor]
    token_mean: Callable[[torch.Tensor], torch.Tensor]


def layer_norm(x: torch.Tensor, eps: float = LAYER_NORM_EPS) -> torch.Tensor:
    """Layer norm over the features of x [..., d], without weight."""
    return _operators.get().layer_norm(x, eps)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor | None = None, eps: float = LAYER_NORM_EPS, rms: float = 1.0
) -> torch.Tensor:
    """Scale x [..., d] to a root mean square over its features, then by a weight [d]."""
    y = _operators.get().rms_norm(x, eps, rms)
    return y if weight is None else y * weight


def token_mean(x: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The mean [B, 1, d] over tokens x [B, S, d], which count by their weights [B, S], not all zero."""
    if weights is None:
        return _operators.get().token_mean(x)
    total = F.linear(weights, x.new_full((1, x.shape[1]), 1.0))  # a sum that is a product, as delegates want them
    return torch.bmm((weights / total).reshape(len(x), 1, -1), x)


@contextlib.contextmanager
def computed_by(operators: Operators) -> Iterator[None]:
    """Let the operators have these forms, while inside."""
    token = _operators.set(operators)
    try:
        yield
    finally:
        _operators.reset(token)


def _layer_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    mean = x.new_full((1, x.shape[-1]), 1 / x.shape[-1])
    x = x - F.linear(x, mean)
    return x * torch.rsqrt(F.linear(x * x, mean) + eps)


def _rms_norm(x: torch.Tensor, eps: float, rms: float) -> torch.Tensor:
    squares = F.linear(x * x, x.new_full((1, x.shape[-1]), 1 / (x.shape[-1] * rms**2)))
    return x * torch.rsqrt(squares + eps / rms**2)


def _token_mean(x: torch.Tensor) -> torch.Tensor:
    batch, tokens, _ = x.shape
    return torch.bmm(x.new_full((batch, 1, tokens), 1 / tokens), x)


PRODUCTS = Operators(_layer_norm, _rms_norm, _token_mean)
_operators = ContextVar("operators", default=PRODUCTS)
