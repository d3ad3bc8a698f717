"""Recipes: what is done to the input and the weight of every quantized linear, as data.

A method is a row of METHODS; bits, groups and static activations come from the rest of the name:
`METHOD-wXaY[-gG][-static]`, for example `hadanorm-balanced-w4a8-g32`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json
from edge_hadanorm.method.hardware import PHONE_CPU

BITS = (2, 3, 4, 5, 6, 7, 8, 16)
# What a linear may get of a budget: the widths that there are kernels for.
BUDGET_BITS = PHONE_CPU.weight_bits
REST_BITS = (8, 16)
CHOICES = {
    "centre": ("none", "static", "dynamic"),
    "scale": ("none", "smoothquant", "std", "balanced"),
    "rotation": ("none", "block", "full"),
    "rounding": ("nearest", "clip", "gptq"),
    "activations": ("token", "tensor"),
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list(values: Iterable) -> str:
    return ", ".join(map(str, values))


# Fields, what their values have to satisfy, and the words for it in messages.
Rule = tuple[tuple[str, ...], Callable[[Any], bool], str]
RULES: tuple[Rule, ...] = (
    (("weight_bits", "activation_bits"), lambda value: _is_int(value) and value in BITS, f"one of {_list(BITS)}"),
    (("rest_bits",), lambda value: _is_int(value) and value in REST_BITS, f"one of {_list(REST_BITS)}"),
    *(((field,), choices.__contains__, f"one of {_list(choices)}") for field, choices in CHOICES.items()),
    (
        ("group_size",),
        lambda value: value is None or (_is_int(value) and value > 0),
        "a positive whole number or null",
    ),
    (("block",), lambda value: _is_int(value) and value > 0 and value & (value - 1) == 0, "a power of two"),
    (
        ("alpha", "exponent", "activation_clip"),
        lambda value: _is_number(value) and 0 <= value <= 1,
        "a number from 0 to 1",
    ),
    (("damping",), lambda value: _is_number(value) and 0 < value < math.inf, "a positive number"),
    (("rank",), lambda value: _is_int(value) and value >= 0, "a whole number from 0"),
    (("search", "act_order"), lambda value: isinstance(value, bool), "true or false"),
)


@dataclass(frozen=True)
class Recipe:
    """How to quantize a denoiser.

    weight_bits, activation_bits: 2 to 8, or 16 for not at all.
    group_size: input features that share a weight scale; None: one scale per output channel.
    activations: `token` (a dynamic range per token) or `tensor` (one calibrated range per linear).
    activation_clip: share of a token's range (of fewer than 8 bits) or of the calibrated range that is not clipped.
    centre, scale, rotation: the transform of a linear's input, see `transform.py`.
    alpha: SmoothQuant's migration strength. exponent: the share of sigma in a balanced scale. block: largest block of a
    block rotation; one that folds into attention's values costs nothing and is as wide as a head.
    rounding: weight scales from the largest magnitude (`nearest`) or searched for the least squared error (`clip`), or
    `gptq`, on the inputs that the quantized layers before make; with act_order columns of large inputs first. damping:
    this part of the inputs' mean square is taken for noise by gptq; the more, the nearer to `nearest`.
    rank: of the part of a weight that stays in float beside the rounded rest, see `low_rank.py`; 0: none.
    search: choose transform and clip of each input by measured error, see `search.py`, instead of those given.
    average_bits: weight bits of each linear chosen by measured sensitivity, see `allocation.py`, so that a weight has
    so many on average; weight_bits is then the least that a linear gets.
    rest_bits: weight bits of large linears without a transform (of time, text, adaptive norms); 16: they stay in float.
    """

    name: str
    weight_bits: int
    activation_bits: int
    group_size: int | None = None
    activations: str = "token"
    centre: str = "none"
    scale: str = "none"
    alpha: float = 0.5
    exponent: float = 0.5
    rotation: str = "none"
    block: int = 32
    rounding: str = "nearest"
    act_order: bool = False
    damping: float = 0.05
    rank: int = 0
    activation_clip: float = 1.0
    search: bool = False
    average_bits: float | None = None
    rest_bits: int = 8

    def __post_init__(self) -> None:
        for fields, is_valid, expected in RULES:
            for field in fields:
                if not is_valid(value := getattr(self, field)):
                    raise UserError(f"recipe {self.name}: {field} is {value!r}, not {expected}")
        if not self.activation_clip:
            raise UserError(f"recipe {self.name}: activation_clip is 0, which leaves no range")
        if self.average_bits is not None and not (
            _is_number(self.average_bits) and self.weight_bits <= self.average_bits <= max(BUDGET_BITS)
        ):
            raise UserError(
                f"recipe {self.name}: average_bits is {self.average_bits!r}, not a number from its weight bits "
                f"({self.weight_bits}) to {max(BUDGET_BITS)}"
            )

    @property
    def needs_moments(self) -> bool:
        """Whether its transforms are measured on activations."""
        return self.search or self.scale != "none" or self.centre != "none"

    @property
    def needs_calls(self) -> bool:
        """Whether weights or bits are chosen on the denoiser's own calls."""
        return self.search or self.rounding == "gptq" or self.average_bits is not None

    @property
    def needs_calibration(self) -> bool:
        """Whether anything in it is measured on activations."""
        return self.needs_moments or self.needs_calls or self.activations == "tensor"

    def to_json(self) -> dict:
        return dataclasses.asdict(self)


# The paper calibrates a scale sigma per channel without saying how; here it is the standard deviation after centring.
METHODS: dict[str, dict[str, Any]] = {
    "rtn": dict(),
    "smoothquant": dict(scale="smoothquant"),
    "quarot": dict(rotation="block"),
    "vidit-q": dict(scale="smoothquant", rotation="block"),
    "svdquant-r16": dict(scale="smoothquant", rank=16),
    "svdquant-r32": dict(scale="smoothquant", rank=32),
    "hadanorm": dict(centre="dynamic", scale="std", rotation="block"),
    "hadanorm-balanced": dict(centre="dynamic", scale="balanced", rotation="block"),
    "hadanorm-folded": dict(centre="static", scale="balanced", rotation="block"),
    "hadanorm-auto": dict(search=True, rounding="gptq"),
    "hadanorm-auto-r32": dict(search=True, rounding="gptq", rank=32),
}
SUMMARIES = {
    "rtn": "round to nearest, no transform",
    "smoothquant": "per-channel scale from activation and weight maxima (Xiao et al., arXiv 2211.10438)",
    "quarot": "Hadamard rotation (Ashkboos et al., arXiv 2404.00456)",
    "vidit-q": "static channel balancing and rotation (ViDiT-Q, Zhao et al., arXiv 2406.02540)",
    "svdquant-r16": "SmoothQuant and a float branch of rank 16 (SVDQuant, Li et al., arXiv 2411.05007)",
    "svdquant-r32": "the same with rank 32",
    "hadanorm": "dynamic centre, scale by the standard deviation, Hadamard (Federici et al., arXiv 2506.09932)",
    "hadanorm-balanced": "dynamic centre, scale that balances input and weight error, Hadamard",
    "hadanorm-folded": "the same with the mean over calibration, which folds offline",
    "hadanorm-auto": "centre, scale, rotation and clip of each input chosen by measured error, GPTQ rounding",
    "hadanorm-auto-r32": "the same beside a float branch of rank 32",
}
# What a model is quantized by where nothing is asked for.
DEFAULT = "hadanorm-auto-w4a8"
FORMATS = ("w4a4", "w4a8", "w4a8-g32", "w8a8", "w8a8-static")
_NAME = re.compile(r"(?P<method>.+)-w(?P<w>\d+)a(?P<a>\d+)(-g(?P<g>\d+))?(?P<static>-static)?")


def named(name: str) -> Recipe:
    """The recipe of a name METHOD-wXaY[-gG][-static]. Raises UserError for a name or number that is not one."""
    match = _NAME.fullmatch(name)
    if not match or match["method"] not in METHODS:
        raise UserError(
            f"unknown recipe {name!r}: names are METHOD-wXaY[-gG][-static] with METHOD one of {_list(METHODS)}"
        )
    return Recipe(
        name=name,
        weight_bits=int(match["w"]),
        activation_bits=int(match["a"]),
        group_size=int(match["g"]) if match["g"] else None,
        activations="tensor" if match["static"] else "token",
        **METHODS[match["method"]],
    )


def settle_centre(recipe: Recipe, steady: bool) -> Recipe:
    """A recipe for an input whose mean is steady, if it is: with a static centre for a dynamic one."""
    return dataclasses.replace(recipe, centre="static") if steady and recipe.centre == "dynamic" else recipe


def set_budget(recipe: Recipe, average_bits: float) -> Recipe:
    """A recipe whose linears share a budget of bits. Raises UserError for one that it cannot be spent on."""
    return dataclasses.replace(recipe, name=f"{recipe.name}-avg{average_bits:g}", average_bits=average_bits)


def from_json(fields: object) -> Recipe:
    """A recipe from its JSON object. Raises UserError for missing or unknown fields and impossible values."""
    if not isinstance(fields, dict):
        raise UserError("a recipe is a JSON object of fields, such as `Recipe.to_json` gives")
    known = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(Recipe)}
    if unknown := sorted(set(fields) - set(known)):
        raise UserError(f"recipe: unknown field {unknown[0]!r}; the fields are {_list(known)}")
    if missing := [name for name, required in known.items() if required and name not in fields]:
        raise UserError(f"recipe: the field {missing[0]!r} is missing")
    if not isinstance(fields["name"], str) or not fields["name"].isprintable():
        raise UserError(f"recipe: name is {fields['name']!r}, not a line of text")
    return Recipe(**fields)


def load(name_or_file: str) -> Recipe:
    """A named recipe, or one from a .json file."""
    if not name_or_file.endswith(".json"):
        return named(name_or_file)
    fields = read_json(name_or_file, "recipe file")
    try:
        return from_json(fields)
    except UserError as error:
        raise UserError(f"{name_or_file}: {error}") from None
