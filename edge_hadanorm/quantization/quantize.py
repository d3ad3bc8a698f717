"""A float denoiser and a recipe to a quantized denoiser: transform, fold, round, one linear after the other."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import cast

import torch
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.fold import Folding, Producer, fold_into, shared_copy, submodule
from edge_hadanorm.method.hadamard import is_hadamard_order
from edge_hadanorm.method.linear import FLOAT_BITS, QuantizedLinear
from edge_hadanorm.method.recipe import Recipe, settle_centre
from edge_hadanorm.method.rounding import METHODS as ROUNDING
from edge_hadanorm.method.transform import FeatureTransform, Rotation, rotation_factors
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.quantization.allocation import allocate
from edge_hadanorm.quantization.blockwise import BlockwiseCalls
from edge_hadanorm.quantization.calibration import Moments, activation_ranges
from edge_hadanorm.quantization.fitting import fit, fold_linear
from edge_hadanorm.quantization.search import START, search

# Beyond this spread between channels a scale says more about a dead channel than about its signal.
SCALE_RANGE = 1e4
# Linears outside the recipe with as many weights are worth 8 bits: an adaptive norm's can be a third of a transformer.
LARGE = 1 << 20


# The recipes of a stage's linears by name, stage by stage.
Stages = list[dict[str, Recipe]]
Progress = Callable[[Iterable], Iterable]
Done = Callable[[int, Denoiser], None]


def feature_scale(recipe: Recipe, moments: Moments | None, weight: torch.Tensor) -> torch.Tensor | None:
    """D [d] of a recipe for one input with these moments and the stacked weight [m, d], float64, of median 1.

    smoothquant: max|x|^alpha / max|W|^(1 - alpha) (arXiv 2211.10438). std: sigma after centring.
    balanced: sigma^e / ||W_:,c||^(1 - e). Half and half, sqrt(sigma / ||W_:,c||), minimises ||(X - mu) D^-1|| ||W D||
    (Cauchy-Schwarz); e = 0 gives all columns of W D one norm, as the rounding of weights would have it.
    A channel for which that is 0 or infinite, without signal or without weight, gets 1.
    """
    if recipe.scale == "none" or moments is None:
        return None
    if recipe.scale == "smoothquant":
        signal = moments.magnitude(recipe.centre) ** recipe.alpha
        scale = signal / weight.abs().amax(0) ** (1 - recipe.alpha)
    else:
        scale = moments.deviation(recipe.centre)
        if recipe.scale == "balanced":
            scale = scale**recipe.exponent / weight.norm(dim=0) ** (1 - recipe.exponent)
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
        centre=None if recipe.centre == "none" or moments is None else moments.mean,
        dynamic=recipe.centre == "dynamic",
        scale=feature_scale(recipe, moments, weight),
        rotation=_rotation(recipe, weight.shape[1], producer),
    )


def _rotation(recipe: Recipe, width: int, producer: Producer | None) -> Rotation:
    return rotation_factors(width, recipe.rotation, recipe.block, producer.head if producer else None)


def quantize_linear(recipe: Recipe, folding: Folding, linear: nn.Linear) -> QuantizedLinear:
    """One linear of a folded float denoiser with its weight rounded, without regard to inputs."""
    plain = fold_linear(recipe, folding, linear.weight, linear.bias)
    if recipe.weight_bits == FLOAT_BITS:
        return plain
    codes, scale = ROUNDING[recipe.rounding](plain.weight, recipe.weight_bits, recipe.group_size)
    return QuantizedLinear(recipe, plain.transform, codes, scale, plain.bias, None, plain.absorbed, plain.low_rank)


def quantize_rest(denoiser: Denoiser, recipe: Recipe) -> None:
    """Round the large linears that the recipe has no transforms for: after folding, which writes into some of them."""
    if FLOAT_BITS in (recipe.rest_bits, recipe.weight_bits):
        return
    # A static range would have to be calibrated for inputs that are few and cheap to keep.
    bits = FLOAT_BITS if recipe.activations == "tensor" else max(recipe.activation_bits, recipe.rest_bits)
    own = Recipe(f"rest-w{recipe.rest_bits}a{bits}", recipe.rest_bits, bits)
    folding = Folding(FeatureTransform(), FeatureTransform())
    for name, module in list(denoiser.named_modules()):
        if isinstance(module, nn.Linear) and module.weight.numel() >= LARGE:
            denoiser.set_submodule(name, quantize_linear(own, folding, module))


def check_recipe(recipe: Recipe, denoiser: Denoiser) -> None:
    """Raises UserError where the recipe does not fit this denoiser's linears."""
    if recipe.activation_bits == FLOAT_BITS and recipe.activations == "tensor":
        raise UserError(f"recipe {recipe.name}: activations of 16 bits have no range to calibrate; leave out -static")
    producers = denoiser.producers()
    for name in denoiser.quantizable():
        outputs, width = submodule(denoiser, name).weight.shape
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
    denoiser: Denoiser,
    recipe: Recipe,
    moments: dict[str, Moments] | None,
    samples: Sequence[Callable[[], object]] = (),
    calls: Sequence[Inputs] = (),
    progress: Callable[[Iterable], Iterable] = iter,
    done: Callable[[int, Denoiser], None] = lambda *_: None,
) -> Denoiser:
    """A quantized copy of a float denoiser.

    moments: from `calibrate`, None where the recipe needs none. samples: calls that run `denoiser`, for the ranges of
    static activations. calls: inputs of the same, for recipes that `needs_calls`. done(stage, quantized) is told when a
    stage has its codes and that stage of `denoiser` is not read any more.
    """
    check_recipe(recipe, denoiser)
    if recipe.needs_calls and not calls:
        raise UserError(f"recipe {recipe.name} rounds on calls of the denoiser, and there are none")
    quantized = shared_copy(denoiser)
    shares = _allocate(denoiser, recipe, moments, calls) if recipe.average_bits is not None else {}
    stages = [{name: shares.get(name, recipe) for name in names} for names in denoiser.stages()]
    if recipe.search or recipe.rounding == "gptq":
        _fit_on_calls(quantized, stages, moments, calls, progress, done)
    elif recipe.activations == "tensor":
        _round_weights(quantized, stages, moments, progress, lambda *_: None)
        _set_ranges(denoiser, quantized, samples)
        for stage in range(len(stages)):
            done(stage, quantized)
    else:
        _round_weights(quantized, stages, moments, progress, done)
    quantize_rest(quantized, recipe)
    return quantized


def _round_weights(
    quantized: Denoiser, stages: Stages, moments: dict[str, Moments] | None, progress: Progress, done: Done
) -> None:
    """Round every linear without regard to its inputs; ranges of static activations are still to be set."""
    for stage, recipes in enumerate(progress(stages)):
        foldings = _choose_and_fold(quantized, recipes, moments, None)
        for name, own in recipes.items():
            quantized.set_submodule(name, quantize_linear(own, foldings[name], submodule(quantized, name)))
        done(stage, quantized)


def _fit_on_calls(
    quantized: Denoiser,
    stages: Stages,
    moments: dict[str, Moments] | None,
    calls: Sequence[Inputs],
    progress: Progress,
    done: Done,
) -> None:
    """Fit every linear to what the quantized layers before it make of the calls."""
    blockwise = BlockwiseCalls(quantized, calls)
    for stage, recipes in enumerate(progress(stages)):
        foldings = _choose_and_fold(quantized, recipes, moments, blockwise)
        for name in recipes:
            linear = submodule(quantized, name)
            plain = fold_linear(recipes[name], foldings[name], linear.weight, linear.bias)
            quantized.set_submodule(name, fit(plain, partial(blockwise.inputs, quantized, name)))
        blockwise.advance(quantized)
        done(stage, quantized)


def _set_ranges(denoiser: Denoiser, quantized: Denoiser, samples: Sequence[Callable[[], object]]) -> None:
    """Set the ranges of static activations, as the float model's samples have them."""
    ranges = activation_ranges(denoiser, quantized, samples)
    for name in denoiser.quantizable():
        cast(QuantizedLinear, quantized.get_submodule(name)).set_activation_range(*ranges[name])


@torch.no_grad()
def outline(denoiser: Denoiser, recipe: Recipe) -> Denoiser:
    """Quantize a denoiser of fake tensors, which have shapes and no values.

    What is chosen by values is where the choice starts: a search's transforms, the bits of a budget.
    """
    check_recipe(recipe, denoiser)
    outlined, producers, steady = shared_copy(denoiser), denoiser.producers(), denoiser.steady()
    own = dataclasses.replace(recipe, search=False, **START) if recipe.search else recipe

    def choose(name: str, weight: torch.Tensor) -> FeatureTransform:
        steadily, vector = settle_centre(own, name in steady), weight.new_empty(weight.shape[1])
        return FeatureTransform(
            centre=None if steadily.centre == "none" else vector,
            dynamic=steadily.centre == "dynamic",
            scale=None if steadily.scale == "none" else vector,
            rotation=_rotation(steadily, len(vector), producers.get(name)),
        )

    for names in denoiser.stages():
        foldings = fold_into(outlined, names, choose)
        for name in names:
            linear = submodule(outlined, name)
            made = quantize_linear(dataclasses.replace(own, rounding="nearest"), foldings[name], linear)
            if own.rounding == "gptq" and made.bias is None:  # which corrects it
                made.bias = linear.weight.new_empty(len(linear.weight))
            outlined.set_submodule(name, made)
    quantize_rest(outlined, own)
    return outlined


def _allocate(
    denoiser: Denoiser, recipe: Recipe, moments: dict[str, Moments] | None, calls: Sequence[Inputs]
) -> dict[str, Recipe]:
    """Each linear's share of a budget of bits, judged by nearest rounding after a recipe's transform or a good one."""
    like = dataclasses.replace(recipe, search=False, **START) if recipe.search else recipe
    producers, steady = denoiser.producers(), denoiser.steady()

    def quantize_one(name: str, own: Recipe) -> QuantizedLinear:
        linear, judged = submodule(denoiser, name), settle_centre(like, name in steady)
        transform = build_transform(
            judged, moments[name] if moments else None, linear.weight.double(), producers.get(name)
        )
        own = dataclasses.replace(own, rounding="nearest", activations="token")
        return quantize_linear(own, Folding(FeatureTransform(), transform), linear)

    return allocate(denoiser, recipe, quantize_one, calls)


def _choose_and_fold(
    denoiser: Denoiser, recipes: dict[str, Recipe], moments: dict[str, Moments] | None, blockwise: BlockwiseCalls | None
) -> dict[str, Folding]:
    """Fold one stage's transforms in; recipes that search are replaced by what they find."""
    producers, steady = denoiser.producers(), denoiser.steady()
    searched = [name for name, recipe in recipes.items() if recipe.search]
    sample = blockwise.sample(denoiser, searched) if blockwise is not None and searched else {}

    def choose(name: str, weight: torch.Tensor) -> FeatureTransform:
        producer = producers.get(name)

        def build(own: Recipe, moments: Moments | None) -> FeatureTransform:
            return build_transform(settle_centre(own, name in steady), moments, weight, producer)

        if name in sample:
            bias = submodule(denoiser, name).bias
            recipes[name] = search(recipes[name], build, producer, weight, bias, sample[name], name in steady)
        return build(recipes[name], moments[name] if moments else None)

    return fold_into(denoiser, list(recipes), choose)
