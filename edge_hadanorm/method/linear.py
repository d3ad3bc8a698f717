"""The quantized linear: what the simulation runs and what export lowers is this one module."""

from typing import Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.method.grids import (
    Grid,
    choose_parameters,
    dequantize,
    fake_quantize,
    fake_quantize_per_token,
    grouped,
)
from edge_hadanorm.method.hardware import PHONE_CPU
from edge_hadanorm.method.low_rank import LowRank
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.method.transform import FeatureTransform

# The device's linears quantize activations to 8 bits. Narrower grids are emulated: laid on first, which the 8-bit grid
# of the same token then keeps exactly at 2 and 4 bits, whose steps divide its 255, and rounds once more at others.
DEVICE_BITS = PHONE_CPU.activation_bits
FLOAT_BITS = 16


class Lowering(Protocol):
    """How a program computes one linear's product on a device, where the simulation does it in float."""

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows to multiply, of the rows [..., d] that the linear makes of its input."""

    def weight(self) -> torch.Tensor:
        """The weight [m, d], as an expression of its codes that the runtime keeps in integers."""


class QuantizedLinear(nn.Module):
    """y = z W'^T + b' with quantized z and W', for one linear or several stacked on one input.

    codes int8 [m, d], weight_scale [m, groups] and bias [m] or None are of the folded weight, transform.fold(W, b).
    Where the recipe leaves weights as they are, codes and weight_scale are None and float_weight [m, d] is that weight.
    transform is what is left online of the input's transform; the layer before gives x with the rest, `absorbed`, done
    (see fold.py). With static activations, activation_scale and activation_zero_point are set by
    `set_activation_range`. low_rank is L of W' = L + R, of which codes or weight are R: y = Q(z) R^T + z L^T + b'.

    `lowering`: how a program computes this. Export sets it, simulation does not.
    """

    codes: torch.Tensor | None
    weight_scale: torch.Tensor | None
    bias: torch.Tensor | None
    activation_scale: torch.Tensor | None
    activation_zero_point: torch.Tensor | None
    float_weight: torch.Tensor | None

    def __init__(
        self,
        recipe: Recipe,
        transform: FeatureTransform,
        codes: torch.Tensor | None,
        weight_scale: torch.Tensor | None,
        bias: torch.Tensor | None,
        float_weight: torch.Tensor | None = None,
        absorbed: FeatureTransform | None = None,
        low_rank: LowRank | None = None,
    ):
        super().__init__()
        self.recipe = recipe
        self.lowering: Lowering | None = None
        self.transform, self.absorbed = transform, absorbed or FeatureTransform()
        self.low_rank = low_rank
        static = recipe.activations == "tensor"
        self.register_buffer("codes", codes)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)
        self.register_buffer("activation_scale", torch.ones(()) if static else None)
        self.register_buffer("activation_zero_point", torch.zeros(()) if static else None)
        self.register_buffer("float_weight", float_weight if codes is None else None)

    @property
    def shape(self) -> tuple[int, int]:
        """m, d."""
        rows, columns = cast(torch.Tensor, self.float_weight if self.codes is None else self.codes).shape
        return rows, columns

    @property
    def weight(self) -> torch.Tensor:
        """The weight [m, d]; of codes what they stand for, made anew each time, as it takes four times their memory."""
        if self.codes is None or self.weight_scale is None:
            return cast(torch.Tensor, self.float_weight)
        groups = self.weight_scale.shape[1]
        if groups == 1:
            return dequantize(self.codes, self.weight_scale)
        return dequantize(grouped(self.codes, self.shape[1] // groups), self.weight_scale[..., None]).flatten(1)

    def extra_repr(self) -> str:
        """Shape, bits and groups of weight and activations, in a printed model."""
        recipe, (rows, columns) = self.recipe, self.shape
        groups = f" g{recipe.group_size}" if recipe.group_size else ""
        branch = "" if self.low_rank is None else f", rank {len(self.low_rank.down)} beside it"
        bits = f"w{recipe.weight_bits}a{recipe.activation_bits}{groups} per {recipe.activations}"
        return f"{columns} -> {rows}, {bits}{branch}"

    def forward(
        self,
        x: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        shift: torch.Tensor | None = None,
        parts: int | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """x [B, S, d] -> y [B, S, m], or with `parts` the equal parts of its features, each [B, S, m / parts].

        weights [B, S]: of the tokens in a dynamic mean (0: padding); shift [1 or B, 1, d]: still to be added to x; see
        `FeatureTransform`.
        """
        z, rest = self.transform(x, weights, shift)
        rows = self._on_narrow_grid(z, rest)
        weight = self.weight if self.lowering is None else self.lowering.weight()
        y = F.linear(self._as_device(rows), weight, None if self.transform.dynamic else self.bias)
        if self.low_rank is not None:
            y = y + self.low_rank(_stacked(z, rest) if self._narrow else rows)
        outputs = self._with_share(y, x.shape[1], parts or 1) if self.transform.dynamic else equal_parts(y, parts or 1)
        return outputs[0] if parts is None else outputs

    def _with_share(self, y: torch.Tensor, tokens: int, parts: int) -> list[torch.Tensor]:
        """Bias and the mean's row [B, 1, m] added to the other rows; apart first, as smaller copies stay in caches."""
        share = y[:, tokens:] if self.bias is None else y[:, tokens:] + self.bias
        pairs = zip(equal_parts(y, parts), equal_parts(share, parts), strict=True)
        return [part[:, :tokens] + part_share for part, part_share in pairs]

    def rows(
        self, x: torch.Tensor, weights: torch.Tensor | None = None, shift: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Rows that the runtime quantizes: z [B, S, d], with a dynamic centre and the mean's row [B, S + 1, d].

        The mean's share is one more row of the same product: it costs 1 / S and the weight is stored once. That row,
        one in S, keeps the device's bits where the tokens have fewer.
        """
        return self._on_narrow_grid(*self.transform(x, weights, shift))

    @property
    def _narrow(self) -> bool:
        """Whether tokens have a grid of fewer bits than the device's."""
        return self.recipe.activations == "token" and self.recipe.activation_bits < DEVICE_BITS

    def _on_narrow_grid(self, z: torch.Tensor, rest: torch.Tensor | None) -> torch.Tensor:
        if self._narrow:
            z = fake_quantize_per_token(z, self.recipe.activation_bits, self.recipe.activation_clip)
        return _stacked(z, rest)

    def quantized_input(
        self, x: torch.Tensor, weights: torch.Tensor | None = None, shift: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Input [B, S, d] of W', as the device sees it: z and, with a dynamic centre, the mean's row added."""
        rows = self._as_device(self.rows(x, weights, shift))
        return rows[:, :-1] + rows[:, -1:] if self.transform.dynamic else rows

    def set_activation_range(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """The range (scalars) of static activations, of which the recipe's `activation_clip` is kept."""
        grid, clip = Grid(self.recipe.activation_bits, symmetric=False), self.recipe.activation_clip
        self.activation_scale, self.activation_zero_point = choose_parameters(low * clip, high * clip, grid)

    def _as_device(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows as the runtime's own quantization makes them."""
        if self.lowering is not None:
            return self.lowering.rows(rows)
        if self.recipe.activation_bits == FLOAT_BITS:
            return rows
        if self.recipe.activations == "tensor":
            scale, zero = cast(torch.Tensor, self.activation_scale), cast(torch.Tensor, self.activation_zero_point)
            return fake_quantize(rows, scale, zero, self.recipe.activation_bits)
        return fake_quantize_per_token(rows, DEVICE_BITS)


def _stacked(z: torch.Tensor, rest: torch.Tensor | None) -> torch.Tensor:
    """z [B, S, d] and the mean's row [B, 1, d], if any, as rows of one product."""
    return z if rest is None else torch.cat([z, rest], dim=1)


def equal_parts(x: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Parts of the last dimension, as slices, which mobile backends take where they refuse a split."""
    if count == 1:
        return [x]
    size = x.shape[-1] // count
    return [x[..., i * size : (i + 1) * size] for i in range(count)]
