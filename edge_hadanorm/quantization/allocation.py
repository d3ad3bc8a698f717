"""Weight bits of each linear under a budget of average bits, by measured sensitivity.

To first order a linear's output error e adds J e to the denoiser's prediction, J being the derivative of one by the
other. A random probe v of the prediction gives ||J e||^2 = E (v^T J e)^2 for all linears in one backward pass, so that
the measurement grows linearly with their number. That pass goes block by block, on what a pass without gradients left
between the blocks, so that memory holds the graph of one block. Bits then go where a bit takes most error away.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from edge_hadanorm.method.fold import submodule
from edge_hadanorm.method.hardware import PHONE_CPU
from edge_hadanorm.method.linear import QuantizedLinear, equal_parts
from edge_hadanorm.method.recipe import BUDGET_BITS, Recipe
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import Denoiser, State

CALLS = 8
PROBES = 4

# (name, own recipe) -> the linear quantized by it, for the input before any transform
Quantize = Callable[[str, Recipe], QuantizedLinear]


def allocate(denoiser: Denoiser, recipe: Recipe, quantize_one: Quantize, calls: Sequence[Inputs]) -> dict[str, Recipe]:
    """The recipe of every quantizable linear: `recipe` with the bits that its average_bits pays for."""
    choices = [
        own_bits(recipe, bits) for bits in sorted({recipe.weight_bits, *BUDGET_BITS}) if bits >= recipe.weight_bits
    ]
    errors = sensitivities(denoiser, choices, quantize_one, calls)
    sizes = {name: submodule(denoiser, name).weight.numel() for name in errors}
    budget = recipe.average_bits or recipe.weight_bits
    levels = spend(errors, sizes, [own.weight_bits for own in choices], budget * sum(sizes.values()))
    return {name: choices[level] for name, level in levels.items()}


def own_bits(recipe: Recipe, bits: int) -> Recipe:
    """Give a linear's recipe weights of so many bits; wide ones need no groups, for which there may be no kernels."""
    group_size = recipe.group_size if bits <= max(PHONE_CPU.grouped_bits, recipe.weight_bits) else None
    return replace(recipe, weight_bits=bits, group_size=group_size, average_bits=None)


def spend(errors: dict[str, list[float]], sizes: dict[str, int], bits: list[int], budget: float) -> dict[str, int]:
    """An index into `bits` for each linear, of so many weights, whose error at these bits is known; budget in bits.

    One step at a time where it takes most error away for its bits, while any fits.
    """
    levels = dict.fromkeys(errors, 0)
    left = budget - bits[0] * sum(sizes.values())

    def price(name: str) -> float:
        return (bits[levels[name] + 1] - bits[levels[name]]) * sizes[name]

    while affordable := [name for name, level in levels.items() if level + 1 < len(bits) and price(name) <= left]:
        best = max(affordable, key=lambda n: (errors[n][levels[n]] - errors[n][levels[n] + 1]) / price(n))
        left -= price(best)
        levels[best] += 1
    return levels


@dataclass(frozen=True)
class Run:
    """A linear's in a call: what it was given, what it made [B, S, m], and each probe's gradient by that [B, S, m]."""

    name: str
    given: tuple
    named: dict
    made: torch.Tensor
    gradients: tuple[torch.Tensor, ...] = ()

    @torch.no_grad()
    def error(self, quantized: QuantizedLinear) -> float:
        """||J e||^2 for what this linear, quantized, makes instead, by the mean over probes."""
        difference = quantized(*self.given, **self.named) - self.made
        return sum((gradient * difference).sum().item() ** 2 for gradient in self.gradients) / len(self.gradients)


# By place in a state: the gradient of each probe by that tensor.
Cotangents = dict[int, list[torch.Tensor]]


def sensitivities(
    denoiser: Denoiser, choices: list[Recipe], quantize_one: Quantize, calls: Sequence[Inputs]
) -> dict[str, list[float]]:
    """Squared error of the prediction that each linear alone causes to first order, by recipe, summed over calls."""
    errors = {name: [0.0] * len(choices) for name in denoiser.quantizable()}
    generator = torch.Generator().manual_seed(0)
    for call in calls[:: -(-len(calls) // CALLS)]:
        for run in _runs(denoiser, call, generator):
            for i, own in enumerate(choices):
                errors[run.name][i] += run.error(quantize_one(run.name, own))
    return errors


def _runs(denoiser: Denoiser, call: Inputs, generator: torch.Generator) -> Iterator[Run]:
    """Runs of every linear in a call, the last one's first."""
    states = _states(denoiser, call)
    steps: list[Callable[[State], State]] = [partial(denoiser.advance, i) for i in range(len(denoiser.stages()))]
    steps.append(lambda state: (denoiser.finish(state),))
    begun, cotangents = states[0], {0: list(_probes(call.latents, generator))}
    # A step whose state is that of the beginning runs all blocks before it itself, and leaves none.
    while cotangents:
        runs, cotangents = _back(denoiser, steps.pop(), states.pop(), begun, cotangents)
        while runs:
            yield runs.pop()


@torch.no_grad()
def _states(denoiser: Denoiser, call: Inputs) -> list[State]:
    """Before the first block, and after every one."""
    states = [denoiser.begin(call.latents, call.timestep, **call.prompt)]
    for stage in range(len(denoiser.stages())):
        states.append(denoiser.advance(stage, states[-1]))
    return states


def _back(
    denoiser: Denoiser, step: Callable[[State], State], state: State, begun: State, cotangents: Cotangents
) -> tuple[list[Run], Cotangents]:
    """The linears of one step, and the cotangents of the state before it, from those of what it makes.

    What is in the state from the beginning on, `begun`, depends on no linear and has none.
    """
    state = tuple(tensor if any(tensor is first for first in begun) else _leaf(tensor) for tensor in state)
    leaves = {i: tensor for i, tensor in enumerate(state) if tensor is not None and tensor.requires_grad}
    with torch.enable_grad(), _recorded(denoiser) as runs:
        made = step(state)
    ends = {i: made[i] for i in cotangents if made[i].requires_grad}
    if not ends:
        return [], {}
    nodes = [*(run.made for run in runs), *leaves.values()]
    gradients = [
        torch.autograd.grad(list(ends.values()), nodes, list(probe), retain_graph=True, allow_unused=True)
        for probe in zip(*(cotangents[i] for i in ends), strict=True)
    ]
    by_node = [probes if probes[0] is not None else () for probes in zip(*gradients, strict=True)]
    before = {i: list(probes) for i, probes in zip(leaves, by_node[len(runs) :], strict=True) if probes}
    found = zip(runs, by_node[: len(runs)], strict=True)
    return [replace(run, made=run.made.detach(), gradients=probes) for run, probes in found if probes], before


def _leaf(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A tensor as one that gradients are taken by."""
    return tensor if tensor is None else tensor.detach().requires_grad_(tensor.is_floating_point())


@contextlib.contextmanager
def _recorded(denoiser: Denoiser) -> Iterator[list[Run]]:
    """The runs of linears while inside, of which all that they made is a node of the graph."""
    runs = []

    def record(name: str, linear: nn.Module, given: tuple, named: dict, output: torch.Tensor | list[torch.Tensor]):
        named = {key: value for key, value in named.items() if key != "parts"}
        made = linear.forward(*given, **named)
        # Parameters are frozen: of the first linears the graph begins here.
        made = made if made.requires_grad else made.requires_grad_()
        runs.append(Run(name, tuple(map(_detached, given)), {key: _detached(t) for key, t in named.items()}, made))
        return made if torch.is_tensor(output) else equal_parts(made, len(output))

    with contextlib.ExitStack() as hooks:
        for name in denoiser.quantizable():
            linear = denoiser.get_submodule(name)
            hooks.callback(linear.register_forward_hook(partial(record, name), with_kwargs=True).remove)
        yield runs


def _detached(argument: object) -> object:
    return argument.detach() if torch.is_tensor(argument) else argument


def _probes(like: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(PROBES):
        yield torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1
