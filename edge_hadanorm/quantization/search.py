"""The transform of each input, chosen by the measured error of its linear's output.

No transform wins everywhere: with 8-bit activations the weight's error rules, with 4-bit ones the activation's, and a
rotation alone can make an input worse that a mean or a scale first makes better. So candidates are rounded by GPTQ on
some calls and compared on others: a good one and those of the named methods, and from the best of them one property
after the other.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from edge_hadanorm.method.cost import online_cost
from edge_hadanorm.method.fold import Folding, Producer, split
from edge_hadanorm.method.linear import DEVICE_BITS
from edge_hadanorm.method.recipe import Recipe, settle_centre
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.quantization.calibration import Moments, Seen, tokens
from edge_hadanorm.quantization.fitting import fit, fold_linear, output_noise, select_rows

# What an input's SQNR has to gain for a transform that takes as long as its linear, in dB.
EXCHANGE_DB = 0.2
# Output rows that a candidate is judged by; rows are rounded independently of each other.
ROWS = 128
# At most so many columns make up for each other's errors in a candidate, so that wide inputs take no longer for it.
SPAN = 512

# Fields of a recipe to replace, one candidate after the other.
Sweep = tuple[dict[str, Any], ...]
START: dict[str, Any] = dict(centre="static", scale="balanced", exponent=0.25, rotation="block", block=32)
# Where the search starts: a good transform, and those of published methods, so that its choice is none worse than any.
# A table of its own: what hadanorm-auto finds may not change with a new method among the recipes.
STARTS: dict[str, dict[str, Any]] = {
    "good": START,
    "rtn": dict(),
    "smoothquant": dict(scale="smoothquant"),
    "quarot": dict(rotation="block"),
    "vidit-q": dict(scale="smoothquant", rotation="block"),
    "hadanorm": dict(centre="dynamic", scale="std", rotation="block"),
    "hadanorm-balanced": dict(centre="dynamic", scale="balanced", rotation="block"),
    "hadanorm-folded": dict(centre="static", scale="balanced", rotation="block"),
}
# What is tried from the best start on, one property after the other.
SCALES: Sweep = tuple(dict(scale="balanced", exponent=exponent) for exponent in (0.0, 0.25, 0.5, 0.75))
FINER = 0.125  # of an exponent
# Attention takes a rotation as wide as a head, whatever the block.
HEAD_ROTATIONS: Sweep = (dict(rotation="none"), dict(rotation="block", block=32))
ROTATIONS: Sweep = (*HEAD_ROTATIONS, *(dict(rotation="block", block=block) for block in (16, 64, 128)))
# The mean of a steady input does not move, so that a dynamic centre is a static one.
STEADY_CENTRES: Sweep = (dict(centre="none"), dict(centre="static"))
CENTRES: Sweep = (*STEADY_CENTRES, dict(centre="dynamic"))
DAMPINGS = (0.5, 5.0)
CLIPS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)

# own recipe, moments of its input -> the transform of that
Build = Callable[[Recipe, Moments], FeatureTransform]


def search(
    recipe: Recipe,
    build: Build,
    producer: Producer | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    sample: tuple[Seen, Seen],
    steady: bool,
) -> Recipe:
    """A linear's own recipe: that of `recipe` with the best transform and clip.

    weight [m, d], bias [m]: of the linear, for the input before any transform. sample: what it is given, to round on
    and to compare on. steady: its mean does not move, so that a dynamic one need not be tried.
    """
    rows = torch.arange(0, len(weight), max(1, len(weight) // ROWS))[:ROWS]
    outputs, exact = len(weight), (weight[rows].float(), None if bias is None else bias[rows])
    # A range for all calls hangs on single tokens: it takes more of them to tell a good one.
    folds = [sample, sample[::-1]] if recipe.activations == "tensor" else [sample]
    # Of the rounded part only: moments of the rest would give away what comes.
    moments = [_moments(*some) for some, _ in folds]
    signal = sum(_variation(tokens(F.linear(others[0], exact[0]), others[1])) for _, others in folds)
    signal = max(signal, torch.finfo(torch.float64).tiny)
    scores: dict[Recipe, float] = {}

    def noise(own: Recipe, transform: FeatureTransform, fold: tuple[Seen, Seen]) -> float:
        some, others = fold
        folding = Folding(FeatureTransform(), transform)
        if own.rank:  # a branch is of the whole weight
            candidate = select_rows(fold_linear(own, folding, weight, bias), rows)
        else:
            candidate = fold_linear(own, folding, *exact)
        return output_noise(fit(candidate, lambda: [some], SPAN), *exact, others).sum().item()

    def score(own: Recipe) -> float:
        if own not in scores:
            transforms = [build(own, part) for part in moments]
            total = sum(noise(own, *pair) for pair in zip(transforms, folds, strict=True))
            quality = 10 * math.log10(signal / total) if total else math.inf
            online = transforms[0]
            if producer is not None:
                online = split(online, producer.head, producer.mean).online
            scores[own] = quality - EXCHANGE_DB * online_cost(online, outputs, own.rank)
        return scores[own]

    given = dataclasses.replace(recipe, search=False)
    starts = (settle_centre(dataclasses.replace(given, **values), steady) for values in STARTS.values())
    best = max(starts, key=score)
    rotations: Sweep = HEAD_ROTATIONS if producer is not None and producer.head else ROTATIONS
    sweeps: tuple[Sweep, ...] = (SCALES, rotations, STEADY_CENTRES if steady else CENTRES)
    for sweep in sweeps:
        best = max((best, *(dataclasses.replace(best, **values) for values in sweep)), key=score)
    if best.scale == "balanced":
        finer = [e for e in (best.exponent - FINER, best.exponent + FINER) if 0 <= e <= 1]
        best = max((best, *(dataclasses.replace(best, exponent=e) for e in finer)), key=score)
    if recipe.rounding == "gptq":
        best = max((best, *(dataclasses.replace(best, damping=damping) for damping in DAMPINGS)), key=score)
    # At 8 bits the device takes the whole range of a token.
    if recipe.activations == "tensor" or recipe.activation_bits < DEVICE_BITS:
        for clip in CLIPS:
            tighter = dataclasses.replace(best, activation_clip=clip)
            if score(tighter) <= score(best):
                break
            best = tighter
    return best


def _variation(y: torch.Tensor) -> float:
    """Sum of squared deviations from the mean of outputs [n, m]."""
    y = y.double()
    return (y - y.mean(0)).square().sum().item()


def _moments(x: torch.Tensor, weights: torch.Tensor | None) -> Moments:
    moments = Moments(x.shape[-1])
    moments.update(x, weights)
    return moments
