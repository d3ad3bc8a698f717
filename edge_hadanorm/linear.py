"""The quantized linear: what the simulation runs and what export lowers is this one module."""

import torch
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.quantizer import dequantize, fake_quantize, fake_quantize_per_token, grouped
from edge_hadanorm.recipe import Recipe
from edge_hadanorm.transform import FeatureTransform

# The device's linears quantize activations to 8 bits; narrower grids are laid inside that one.
DEVICE_BITS = 8
FLOAT_BITS = 16


class QuantizedLinear(nn.Module):
    """y = z W'^T + b' with quantized z and W', for one linear or several stacked on one input.

    codes int8 [m, d], weight_scale [m, groups] and bias [m] or None are of the folded weight, transform.fold(W, b).
    With static activations, activation_scale and activation_zero_point are set by `set_activation_range`.

    `on_device`: leave the 8-bit quantization of z to the runtime. Export sets it, simulation does not.
    """

    def __init__(
        self,
        recipe: Recipe,
        transform: FeatureTransform,
        codes: torch.Tensor,
        weight_scale: torch.Tensor,
        bias: torch.Tensor | None,
    ):
        super().__init__()
        self.recipe, self.transform, self.on_device = recipe, transform, False
        static = recipe.activations == "tensor"
        self.register_buffer("codes", codes)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)
        self.register_buffer("activation_scale", torch.ones(()) if static else None)
        self.register_buffer("activation_zero_point", torch.zeros(()) if static else None)
        self.register_buffer("weight", self.dequantized_weight(), persistent=False)

    def dequantized_weight(self) -> torch.Tensor:
        """The weight [m, d] that the codes stand for."""
        return dequantize(
            grouped(self.codes, self.codes.shape[1] // self.weight_scale.shape[1]), self.weight_scale[..., None]
        ).flatten(1)

    def forward(self, x: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """x [B, S, d] -> y [B, S, m]; weights [B, S] of the tokens in a dynamic mean, see `FeatureTransform`."""
        z, rest = self.transform(x, weights)
        z = self._on_narrow_grid(z)
        if rest is None:
            return F.linear(self._as_device(z), self.weight, self.bias)
        # The mean's share is one more row of the same product: its cost is 1 / S and the weight is stored once.
        y = F.linear(self._as_device(torch.cat([z, rest], dim=1)), self.weight)
        tokens = x.shape[1]
        share = y[:, tokens:] if self.bias is None else y[:, tokens:] + self.bias
        return y[:, :tokens] + share

    def _on_narrow_grid(self, z: torch.Tensor) -> torch.Tensor:
        """Activations of fewer bits than the device's; the mean's row, one in S, keeps the device's."""
        bits = self.recipe.activation_bits
        if bits >= DEVICE_BITS or self.recipe.activations == "tensor":
            return z
        return fake_quantize_per_token(z, bits)

    def _as_device(self, z: torch.Tensor) -> torch.Tensor:
        """What the runtime's own quantization of z makes of it."""
        if self.on_device or self.recipe.activation_bits == FLOAT_BITS:
            return z
        if self.recipe.activations == "tensor":
            return fake_quantize(z, self.activation_scale, self.activation_zero_point, self.recipe.activation_bits)
        return fake_quantize_per_token(z, DEVICE_BITS)
