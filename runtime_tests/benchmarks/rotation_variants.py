"""The ways to lower the rotation in front of a quantized linear, as modules.

Each computes y = x W^T of the same x [1, 256, d] and W [1152, d], through z = (x / D) R and W' = W D R. They differ in
D, in R, and in the operators that make z.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from math import sqrt

import torch
from torch import nn

from edge_hadanorm.method.transform import FeatureTransform, Rotation, rotation_factors

TOKENS, OUTPUTS, BLOCK = 256, 1152, 128
WIDTHS = (1152, 4608)


@dataclass(frozen=True)
class Case:
    """The linear of one width d. x [1, 256, d], scale [d] (the deviations of x's channels), weight [1152, d]."""

    x: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor

    @property
    def exact(self) -> torch.Tensor:
        """The output [1, 256, 1152] without quantization."""
        return self.x @ self.weight.T


@cache
def case(width: int) -> Case:
    """The same numbers at every call; channels differ in size as activations do."""
    generator = torch.Generator().manual_seed(width)
    scale = torch.randn(width, generator=generator).exp()
    x = torch.randn(1, TOKENS, width, generator=generator) * scale
    return Case(x, scale, torch.randn(OUTPUTS, width, generator=generator) / sqrt(width))


class RotatedLinear(nn.Module):
    """y of x. transform: x to z; weight: W'."""

    def __init__(self, transform: nn.Module, weight: torch.Tensor):
        super().__init__()
        self.transform = transform
        self.linear = nn.Linear(*reversed(weight.shape), bias=False)
        self.linear.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.transform(x)[0])


class OperatorTransform(nn.Module):
    """z of tokens x [1, S, d] by an operator that no delegate takes, in the place of a FeatureTransform."""

    def __init__(self, operator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], factors: torch.Tensor):
        super().__init__()
        self.operator = operator
        self.register_buffer("factors", factors)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.operator(x, self.factors), None


def llama_hadamard(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """ExecuTorch's own operator, which has no scale: that stays a product, in a delegate of its own."""
    scaled = (x * factors).unflatten(-1, (-1, BLOCK))
    return torch.ops.llama.fast_hadamard_transform(scaled).flatten(-2)


def fused_hadamard(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The operator of native/hadamard_kernel.cpp."""
    return torch.ops.edge_hadanorm.scaled_hadamard(x, factors)


def block(order: int) -> Rotation:
    """One factor of a block rotation."""
    return ((order, 1),)


@dataclass(frozen=True)
class Variant:
    """scaled: D is the case's scale. rotation: factors of R, as in `FeatureTransform`, which may depend on the width.

    operator: what makes z; None: matrix products, one a factor.
    """

    scaled: bool = True
    rotation: Rotation | Callable[[int], Rotation] = ()
    operator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def module(self, width: int) -> RotatedLinear:
        """What to export; computed in float64, kept in float32."""
        scale, weight = case(width).scale.double(), case(width).weight.double()
        # W D R is what the transform by the reciprocal scale makes of W's rows.
        return RotatedLinear(self._transform(scale), self._matmuls(1 / scale)(weight[None])[0][0]).float().eval()

    def _transform(self, scale: torch.Tensor) -> nn.Module:
        if self.operator is None:
            return self._matmuls(scale)
        # The fused operator's matrix has entries +-1: what makes it a rotation is part of its factors.
        norm = sqrt(BLOCK) if self.operator is fused_hadamard else 1.0
        return OperatorTransform(self.operator, 1 / (scale * norm))

    def _matmuls(self, scale: torch.Tensor) -> FeatureTransform:
        rotation = self.rotation(len(scale)) if callable(self.rotation) else self.rotation
        return FeatureTransform(scale=scale if self.scaled else None, rotation=rotation).to(scale.dtype)


FUSED, LLAMA = "fused kernel, 128", "llama operator, 128"
VARIANTS = {
    "none": Variant(scaled=False),
    "scale only": Variant(),
    **{f"block of {order}": Variant(rotation=block(order)) for order in (16, 32, 64, 128)},
    # The same matrices as Kronecker products, which cost a sum of orders instead of their product, and transposes.
    "block of 64 = 8 x 8": Variant(rotation=((8, 1), (8, 8))),
    "block of 128 = 8 x 16": Variant(rotation=((16, 1), (8, 16))),
    "full Kronecker": Variant(rotation=partial(rotation_factors, kind="full", block=0)),
    LLAMA: Variant(rotation=block(BLOCK), operator=llama_hadamard),
    FUSED: Variant(rotation=block(BLOCK), operator=fused_hadamard),
}
