"""Folding: what the layer that makes a linear's input can do of its transform offline.

A transform z = ((x - mu) / D) R splits into an absorbed part, which moves into the weights of the layer that makes x,
and an online part, which the device computes. These identities are exact:

- Attention makes x = P V, and the rows of P sum to one: ((x - mu) / D) R = P (((V - mu) / D) R) for an R within heads,
  so all of it goes into the linear that makes V. The rows of a linear attention's P miss one by a rest, as if that were
  the weight of one more value, 0, which is transformed like the others.
- An adaptive layer norm makes x = n (1 + s) + t: (x - mu) / D = n (1 + s) / D + (t - mu) / D, d numbers a step where
  S x d would be divided. A rotation does not commute with n (1 + s) and stays online.
- A gated linear unit makes x = f(g) u: x / D = f(g) (u / D). Mean and rotation stay online.

Of a dynamic mean the calibrated share is absorbed; online remains the mean over the tokens of what is left.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from torch import nn

from edge_hadanorm.method.transform import FeatureTransform


class Foldable(Protocol):
    """A denoiser, as far as folding looks into it."""

    def get_submodule(self, target: str) -> nn.Module: ...

    def quantizable(self) -> list[str]:
        """Names of the linears whose inputs are transformed."""

    def producers(self) -> "dict[str, Producer]":
        """Makers of the inputs of those linears, as far as a transform folds into them."""


F = TypeVar("F", bound=Foldable)
M = TypeVar("M")


class Producer(Protocol):
    """Makes the input of a quantized linear.

    head: features within which it can take a rotation, None where it takes none. mean: whether it can take a mean.
    """

    @property
    def name(self) -> str: ...

    @property
    def head(self) -> int | None: ...

    @property
    def mean(self) -> bool: ...

    def absorb(self, denoiser: Foldable, transform: FeatureTransform) -> None:
        """Let `denoiser` make the transform of what it made; replaces parameters, does not write into them."""


@dataclass(frozen=True)
class Values:
    """Attention, whose values are the output of `linear` from feature `first` on, in heads of `head` features."""

    linear: str
    first: int
    head: int
    name: ClassVar[str] = "values"
    mean: ClassVar[bool] = True

    def absorb(self, denoiser: Foldable, transform: FeatureTransform) -> None:
        linear = submodule(denoiser, self.linear)
        weight, values = linear.weight.double(), slice(self.first, None)
        bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.double()
        weight = torch.cat([weight[: self.first], transform.linear(weight[values].T).T])
        bias = torch.cat([bias[: self.first], transform(bias[values])[0]])
        replace(linear, weight=weight, bias=bias)


@dataclass(frozen=True)
class LinearValues(Values):
    """Values of a linear attention, the module `attention`, whose one more value is its parameter `rest` [d]."""

    attention: str

    def absorb(self, denoiser: Foldable, transform: FeatureTransform) -> None:
        super().absorb(denoiser, transform)
        attention: Any = denoiser.get_submodule(self.attention)
        replace(attention, rest=transform(attention.rest.double())[0])


@dataclass(frozen=True)
class Modulation:
    """An adaptive layer norm: n scale + shift, with parts (`modulation` + time) `gain` of a block, numbered."""

    block: str
    shift: int
    scale: int
    name: ClassVar[str] = "modulation"
    head: ClassVar[None] = None
    mean: ClassVar[bool] = True

    def absorb(self, denoiser: Foldable, transform: FeatureTransform) -> None:
        block: Any = denoiser.get_submodule(self.block)
        modulation, gain = (p.detach().double().clone() for p in (block.modulation, block.gain))

        shift, scale = (_part(index, block.width) for index in (self.shift, self.scale))
        if transform.centre is not None:
            modulation[..., shift] -= transform.centre / gain[..., shift]
        if transform.inverse_scale is not None:
            for part in (shift, scale):
                gain[..., part] *= transform.inverse_scale
        replace(block, modulation=modulation, gain=gain)


@dataclass(frozen=True)
class LinearModulation:
    """An adaptive layer norm from numbered parts of the output of `linear`, as wide as its input.

    A scale's 1 is in the bias.
    """

    linear: str
    shift: int
    scale: int
    name: ClassVar[str] = "modulation"
    head: ClassVar[None] = None
    mean: ClassVar[bool] = True

    def absorb(self, denoiser: Foldable, transform: FeatureTransform) -> None:
        linear = submodule(denoiser, self.linear)
        weight, bias = (p.detach().double().clone() for p in (linear.weight, linear.bias))

        shift, scale = (_part(index, weight.shape[1]) for index in (self.shift, self.scale))
        if transform.centre is not None:
            bias[shift] -= transform.centre
        if (inverse := transform.inverse_scale) is not None:
            for part in (shift, scale):
                weight[part] *= inverse[:, None]
                bias[part] *= inverse
        replace(linear, weight=weight, bias=bias)


def _part(index: int, width: int) -> slice:
    return slice(index * width, (index + 1) * width)


@dataclass(frozen=True)
class Gate:
    """A gated linear unit f(g) u, where u is the output of `linear` from feature `first` on."""

    linear: str
    first: int
    name: ClassVar[str] = "gate"
    head: ClassVar[None] = None
    mean: ClassVar[bool] = False

    def absorb(self, denoiser: Foldable, transform: FeatureTransform) -> None:
        linear, inverse = submodule(denoiser, self.linear), cast(torch.Tensor, transform.inverse_scale)
        factor = torch.cat([inverse.new_ones(self.first), inverse])
        bias = None if linear.bias is None else linear.bias.double() * factor
        replace(linear, weight=linear.weight.double() * factor[:, None], bias=bias)


@dataclass(frozen=True)
class Folding:
    """The two parts of one input's transform: online(absorbed(x)) is that transform of x."""

    absorbed: FeatureTransform
    online: FeatureTransform


def split(transform: FeatureTransform, head: int | None, mean: bool = True) -> Folding:
    """Split a transform into what a producer with this `head` and `mean` absorbs, and the rest, in float64."""
    within = 0
    for order, stride in transform.rotation:
        if head is None or head % (order * stride):
            break
        within += 1
    centre = None if transform.centre is None else transform.centre.double()
    scale = None if transform.inverse_scale is None else 1 / transform.inverse_scale.double()
    absorbed = FeatureTransform(centre if mean else None, scale=scale, rotation=transform.rotation[:within])
    left = None if mean or centre is None else absorbed.linear(centre)
    return Folding(absorbed, FeatureTransform(left, transform.dynamic, rotation=transform.rotation[within:]))


Choose = Callable[[str, torch.Tensor], FeatureTransform]


def fold(denoiser: F, choose: Choose) -> tuple[F, dict[str, Folding]]:
    """A copy of a float denoiser that computes the same with the transforms folded in, and each linear's folding.

    choose: see `fold_into`. Tensors that no transform touches are shared with `denoiser`.
    """
    folded = shared_copy(denoiser)
    return folded, fold_into(folded, denoiser.quantizable(), choose)


@torch.no_grad()
def fold_into(denoiser: Foldable, names: list[str], choose: Choose) -> dict[str, Folding]:
    """Fold transforms of the inputs of these linears into a float denoiser; returns each linear's folding.

    names: in order of execution, and with every linear the linears that its producer writes into.
    choose(name, weight) -> the transform of a linear's input, for its weight [m, d] float64 as folded so far.
    Then a linear takes and multiplies the absorbed transform of its input; the online one is left to the caller.
    """
    producers, foldings = denoiser.producers(), dict[str, Folding]()
    # Consumers first: what an attention's output linear folds into the values changes the weight that makes them.
    for name in reversed(names):
        linear, producer = submodule(denoiser, name), producers.get(name)
        weight, bias = linear.weight.double(), None if linear.bias is None else linear.bias.double()
        foldings[name] = Folding(FeatureTransform(), choose(name, weight))
        if producer is not None:
            foldings[name] = split(foldings[name].online, producer.head, producer.mean)
        absorbed = foldings[name].absorbed
        if producer is not None and not absorbed.is_identity:
            producer.absorb(denoiser, absorbed)
            folded_weight, folded_bias = absorbed.fold(weight, bias)
            replace(linear, weight=folded_weight, bias=folded_bias)
    return foldings


def refold(denoiser: F, quantized: Foldable, names: list[str]) -> F:
    """The float denoiser with what a quantized one has absorbed of these linears' inputs, so that they compare."""
    folded = shared_copy(denoiser)
    fold_into(folded, names, lambda name, _: cast(FeatureTransform, quantized.get_submodule(name).absorbed))
    return folded


def shared_copy(denoiser: M) -> M:
    """A copy of a module with modules of its own and the same tensors."""
    module = cast(nn.Module, denoiser)
    kept: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(denoiser, memo=kept)


def submodule(denoiser: Foldable, name: str) -> nn.Linear:
    """The linear of a name."""
    return cast(nn.Linear, denoiser.get_submodule(name))


def replace(module: nn.Module, **tensors: torch.Tensor | None) -> None:
    """New parameters of a module, in the dtype of the old."""
    for name, tensor in tensors.items():
        if tensor is not None:
            old = getattr(module, name)
            dtype = cast(torch.Tensor, module.weight if old is None else old).dtype
            setattr(module, name, nn.Parameter(tensor.to(dtype), requires_grad=False))
