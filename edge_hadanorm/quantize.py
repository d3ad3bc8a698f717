"""A float denoiser and a recipe to a quantized denoiser: transform, fold, round, one linear after the other."""

import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from edge_hadanorm.calibration import Moments, activation_ranges
from edge_hadanorm.errors import UserError
from edge_hadanorm.fold import Folding, Producer, fold
from edge_hadanorm.hadamard import is_hadamard_order
from edge_hadanorm.linear import FLOAT_BITS, QuantizedLinear
from edge_hadanorm.low_rank import LowRank, low_rank
from edge_hadanorm.recipe import Recipe
from edge_hadanorm.rounding import METHODS as ROUNDING
from edge_hadanorm.transform import FeatureTransform, Rotation, rotation_factors

# Beyond this spread between channels a scale says more about a dead channel than about its signal.
SCALE_RANGE = 1e4


def feature_scale(recipe: Recipe, moments: Moments, weight: torch.Tensor) -> torch.Tensor | None:
    """D [d] of a recipe for one input with these moments and the stacked weight [m, d], float64, of median 1.

    smoothquant: max|x|^alpha / max|W|^(1 - alpha) (arXiv 2211.10438). std: sigma after centring.
    balanced: sqrt(sigma / ||W_:,c||), which minimises ||(X - mu) D^-1|| ||W D|| (Cauchy-Schwarz).
    A channel for which that is 0 or infinite, without signal or without weight, gets 1.
    """
    if recipe.scale == "none":
        return None
    if recipe.scale == "smoothquant":
        signal = moments.magnitude(recipe.centre) ** recipe.alpha
        scale = signal / weight.abs().amax(0) ** (1 - recipe.alpha)
    else:
        scale = moments.deviation(recipe.centre)
        if recipe.scale == "balanced":
            scale = (scale / weight.norm(dim=0)).sqrt()
    usable = scale.isfinite() & (scale > 0)
    if usable.any():
        scale = scale / scale[usable].median()
    return torch.where(usable, scale, 1.0).clamp(1 / SCALE_RANGE, SCALE_RANGE)


def build_transform(
    recipe: Recipe, moments: Moments | None, weight: torch.Tensor, producer: Producer | None = None
) -> FeatureTransform:
    """The float64 transform of one input; moments may be None where the recipe measures nothing.

    producer: what makes the input and can absorb of its transform, see fold.py.
    """
    return FeatureTransform(
        centre=None if recipe.centre == "none" else moments.mean,
        dynamic=recipe.centre == "dynamic",
        scale=feature_scale(recipe, moments, weight),
        rotation=_rotation(recipe, weight.shape[1], producer),
    )


def _rotation(recipe: Recipe, width: int, producer: Producer | None) -> Rotation:
    return rotation_factors(width, recipe.rotation, recipe.block, producer and producer.head)


def quantize_linear(recipe: Recipe, folding: Folding, linear: nn.Linear) -> QuantizedLinear:
    """One linear of a folded float denoiser by a recipe; computed in float64, kept in float32.

    A weight that is not rounded needs no low-rank branch and has none.
    """
    folded, bias = folding.online.fold(linear.weight.double(), None if linear.bias is None else linear.bias.double())
    bias = None if bias is None else bias.float()
    absorbed, online = (copy.deepcopy(part).float() for part in (folding.absorbed, folding.online))
    if recipe.weight_bits == FLOAT_BITS:
        return QuantizedLinear(recipe, online, None, None, bias, folded.float(), absorbed)
    branch = LowRank(*low_rank(folded, recipe.rank)).float() if recipe.rank else None
    rest = folded if branch is None else folded - branch.weight()  # less L as it is kept, so that R makes up for that
    codes, scale = ROUNDING[recipe.rounding](rest, recipe.weight_bits, recipe.group_size)
    return QuantizedLinear(recipe, online, codes, scale.float(), bias, absorbed=absorbed, low_rank=branch)


def check_recipe(recipe: Recipe, denoiser: nn.Module) -> None:
    """Raises UserError where the recipe does not fit this denoiser's linears."""
    if recipe.activation_bits == FLOAT_BITS and recipe.activations == "tensor":
        raise UserError(f"recipe {recipe.name}: activations of 16 bits have no range to calibrate; leave out -static")
    producers = denoiser.producers()
    for name in denoiser.quantizable():
        outputs, width = denoiser.get_submodule(name).weight.shape
        if recipe.rank > min(outputs, width):
            raise UserError(
                f"recipe {recipe.name}: rank {recipe.rank} is more than the {min(outputs, width)} of {name}, of shape "
                f"{outputs}x{width}"
            )
        if (groups := recipe.group_size) and width % groups:
            raise UserError(
                f"recipe {recipe.name}: groups of {groups} do not divide the {width} inputs of {name}; use a divisor"
            )
        factors = _rotation(recipe, width, producers.get(name))
        if odd := [order for order, _ in factors if not is_hadamard_order(order)]:
            raise UserError(
                f"recipe {recipe.name}: no Hadamard matrix of order {odd[0]} for the {width} inputs of {name}; use the "
                "rotation block"
            )


@torch.no_grad()
def quantize(
    denoiser: nn.Module,
    recipe: Recipe,
    moments: dict[str, Moments] | None,
    samples: list[Callable[[], object]] = (),
) -> nn.Module:
    """A quantized copy of a float denoiser.

    moments: from `calibrate`, None where the recipe needs none. samples: calls that run `denoiser`, for the ranges of
    static activations.
    """
    check_recipe(recipe, denoiser)
    names, producers = denoiser.quantizable(), denoiser.producers()
    steady = denoiser.steady() if recipe.centre == "dynamic" else ()

    def choose(name: str, weight: torch.Tensor) -> FeatureTransform:
        own = dataclasses.replace(recipe, centre="static") if name in steady else recipe
        return build_transform(own, moments and moments[name], weight, producers.get(name))

    quantized, foldings = fold(denoiser, choose)
    for name in names:
        quantized.set_submodule(name, quantize_linear(recipe, foldings[name], quantized.get_submodule(name)))
    if recipe.activations == "tensor":
        ranges = activation_ranges(denoiser, quantized, samples)
        for name in names:
            quantized.get_submodule(name).set_activation_range(*ranges[name])
    return quantized
