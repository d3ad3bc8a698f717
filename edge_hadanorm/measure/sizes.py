"""Sizes of quantized denoisers in bits and bytes."""

import math

from torch import nn

from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.models.denoiser import Denoiser


def quantized_linear(denoiser: nn.Module, name: str) -> QuantizedLinear:
    """Get a quantized linear by name. Raises TypeError for a module of another class."""
    linear = denoiser.get_submodule(name)
    if not isinstance(linear, QuantizedLinear):
        raise TypeError(f"{name} is a {type(linear).__name__}, not quantized")
    return linear


def stored_bytes(linear: QuantizedLinear) -> int:
    """Count the bytes of a quantized linear, with packed codes and without what the layer before has absorbed."""
    codes = 0 if linear.codes is None else math.ceil(math.prod(linear.shape) * linear.recipe.weight_bits / 8)
    kept = (t for k, t in linear.state_dict().items() if k != "codes" and not k.startswith("absorbed."))
    return codes + sum(t.numel() * t.element_size() for t in kept)


def bits_summary(denoiser: Denoiser) -> dict:
    """Count bits and bytes of a quantized denoiser: of the linears that its recipe is for, and of the rest.

    average: bits of a weight's code, without scales, over these linears, whose recipes may differ.
    """
    linears = {name: quantized_linear(denoiser, name) for name in denoiser.quantizable()}
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
    """Size in MB of a denoiser with this `bits_summary`."""
    return (bits["quantized_bytes"] + bits["rest_bytes"]) / 1e6
