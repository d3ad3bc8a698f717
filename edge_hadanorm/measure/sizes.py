"""Sizes of quantized denoisers in bits and bytes."""

import math

from torch import nn

from edge_hadanorm.method.linear import QuantizedLinear


def stored_bytes(linear: QuantizedLinear) -> int:
    """Bytes of a quantized linear with its codes packed; what has been absorbed no device needs."""
    codes = 0 if linear.codes is None else math.ceil(linear.codes.numel() * linear.recipe.weight_bits / 8)
    kept = (t for k, t in linear.state_dict().items() if k != "codes" and not k.startswith("absorbed."))
    return codes + sum(t.numel() * t.element_size() for t in kept)


def bits_summary(denoiser: nn.Module) -> dict:
    """Bits and bytes of a quantized denoiser: of the linears that its recipe is for, and of the rest.

    average: bits of a weight's code, without scales, over these linears, whose recipes may differ.
    """
    linears = {name: denoiser.get_submodule(name) for name in denoiser.quantizable()}
    sizes = {name: math.prod(linear.shape) for name, linear in linears.items()}
    weights, stored = sum(sizes.values()), sum(map(stored_bytes, linears.values()))
    rest = sum(
        t.numel() * t.element_size()
        for k, t in denoiser.state_dict().items()
        if not any(k.startswith(name + ".") for name in linears)
    )
    recipes = {name: linear.recipe for name, linear in linears.items()}
    return {
        "weight": min(recipe.weight_bits for recipe in recipes.values()),
        "activation": next(iter(recipes.values())).activation_bits,
        "average": sum(sizes[name] * recipe.weight_bits for name, recipe in recipes.items()) / weights,
        "quantized_parameters": weights,
        "quantized_bytes": stored,
        "bytes_per_quantized_parameter": stored / weights,
        "rest_bytes": rest,
    }


def megabytes(bits: dict) -> float:
    """The size of a denoiser with this `bits_summary`."""
    return (bits["quantized_bytes"] + bits["rest_bytes"]) / 1e6
