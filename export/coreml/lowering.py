"""Quantized linears, norms and means as a Core ML program computes them.

Weights are constexpr operators of the program, which Core ML keeps in integers: constexpr_affine_dequantize with a
scale per channel, from iOS 17 on, and constexpr_blockwise_shift_scale with 4 bits or groups, from iOS 18 on.

Core ML knows one static range a tensor for activations, int8, as quantize and dequantize operators around what is
multiplied; beside an int8 weight that is integer arithmetic on the Neural Engine (A17 Pro, M4 and later). It has
nothing dynamic: a recipe with a range per token is emulated by float operators (minimum, maximum, round), with the
recipe's numbers and at the speed of float.

The operators are in the graph as they are meant, so that no PT2E quantizer has a part in this. ExecuTorch's
CoreMLQuantizer would bring scales of its own for them, and fails on graphs with integer tensors, such as token ids.
"""

from typing import cast

import torch
import torch.ao.quantization.fx._decomposed
import torchao  # noqa: F401 (registers torch.ops.torchao)
from torch import nn

from edge_hadanorm.method.grids import Grid, fake_quantize_per_token
from edge_hadanorm.method.linear import DEVICE_BITS, FLOAT_BITS, QuantizedLinear
from edge_hadanorm.method.operators import Operators
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.method.rounding import nearest

# Ends of the grids that Core ML knows; the codes of a narrower one fit the next wider one.
BYTE, NIBBLE = (-128, 127), (-8, 7)
NIBBLE_BITS = 4


class Codes(nn.Module):
    """A weight [m, d] as codes int8 [m, d] and scales [m, groups]."""

    codes: torch.Tensor
    scale: torch.Tensor
    zeros: torch.Tensor

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor, bits: int):
        super().__init__()
        self.ends = NIBBLE if bits <= NIBBLE_BITS else BYTE
        self.group = None if scale.shape[1] == 1 else codes.shape[1] // scale.shape[1]
        self.register_buffer("codes", codes)
        self.register_buffer("scale", (scale if self.group else scale[:, 0]).contiguous())
        self.register_buffer("zeros", torch.zeros_like(self.scale, dtype=torch.int8))

    def forward(self) -> torch.Tensor:
        """The weight, as the expression that the converter makes a constexpr of.

        Each form has an operator of its own: the converter takes torchao's for groups alone, as it would lay a scale
        per channel along the wrong axis before iOS 18.
        """
        if self.group:
            return torch.ops.torchao.dequantize_affine(
                self.codes, [1, self.group], self.scale, self.zeros, torch.int8, *self.ends
            )
        return torch.ops.quantized_decomposed.dequantize_per_channel(
            self.codes, self.scale, self.zeros, 0, *self.ends, torch.int8
        )


class CoreMLLowering(nn.Module):
    """The codes and scales of the checkpoint, and inputs on the grid of its own calibrated range."""

    def __init__(self, linear: QuantizedLinear):
        super().__init__()
        self.recipe = linear.recipe
        codes, scale = cast(torch.Tensor, linear.codes), cast(torch.Tensor, linear.weight_scale)
        self.stored = Codes(codes, scale, linear.recipe.weight_bits)
        self.static: tuple[float, int] | None = None
        if linear.recipe.activation_bits < FLOAT_BITS and linear.activation_scale is not None:
            self.static = float(linear.activation_scale), int(cast(torch.Tensor, linear.activation_zero_point))

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        if self.recipe.activation_bits == FLOAT_BITS:
            return rows
        if self.static is None:
            return fake_quantize_per_token(rows, DEVICE_BITS)
        return _on_static_grid(rows, *self.static, self.recipe.activation_bits)

    def weight(self) -> torch.Tensor:
        return self.stored()


def emulated(recipe: Recipe) -> bool:
    """Tell whether activations are quantized by float operators, for want of a dynamic form."""
    return recipe.activations == "token" and recipe.activation_bits < FLOAT_BITS


def _on_static_grid(x: torch.Tensor, scale: float, zero_point: int, bits: int) -> torch.Tensor:
    """x as int8 codes and back. Core ML takes no notice of a narrower grid's ends: x is clamped to them first."""
    if bits < DEVICE_BITS:
        grid = Grid(bits, symmetric=False)
        x = x.clamp((grid.qmin - zero_point) * scale, (grid.qmax - zero_point) * scale)
    ops, settings = torch.ops.quantized_decomposed, (scale, zero_point, *BYTE, torch.int8)
    return ops.dequantize_per_tensor.default(ops.quantize_per_tensor.default(x, *settings), *settings)


class CodedLinear(nn.Module):
    """A float linear with its weight in 8 bits, a scale per channel: for what is outside the recipe."""

    weight = None  # T5 asks for its dtype where there is one
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        codes, scale = nearest(linear.weight.float(), DEVICE_BITS, None)
        self.stored = Codes(codes, scale.float(), DEVICE_BITS)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.stored(), self.bias)


# Norms and means: Core ML has reductions, where float16 would round the 1 / d of a product, and a layer norm, which the
# Neural Engine takes and which keeps its sums of squares from overflowing.


def _layer_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], eps=eps)


def _rms_norm(x: torch.Tensor, eps: float, rms: float) -> torch.Tensor:
    squares = (x * x).mean(-1, keepdim=True)
    return x * torch.rsqrt((squares if rms == 1 else squares * rms**-2) + eps / rms**2)


def _token_mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(1, keepdim=True)


OPERATORS = Operators(_layer_norm, _rms_norm, _token_mean)
