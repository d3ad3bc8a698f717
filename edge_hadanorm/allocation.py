"""Weight bits of each linear under a budget of average bits, by measured sensitivity.

To first order a linear's output error e adds J e to the denoiser's prediction, J being the derivative of one by the
other. A random probe v of the prediction gives ||J e||^2 = E (v^T J e)^2 for all linears in one backward pass, so that
the measurement grows linearly with their number. Bits then go where a bit takes most error away.
"""

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import nn

from edge_hadanorm.linear import QuantizedLinear
from edge_hadanorm.recipe import BUDGET_BITS, Recipe
from edge_hadanorm.samples import Inputs

CALLS = 8
PROBES = 4
# Wider weights need no groups, and phones have kernels for groups of 4-bit weights only.
GROUPED_BITS = 4

# (name, own recipe) -> the linear quantized by it, for the input before any transform
Quantize = Callable[[str, Recipe], QuantizedLinear]


def allocate(denoiser: nn.Module, recipe: Recipe, quantize_one: Quantize, calls: list[Inputs]) -> dict[str, Recipe]:
    """The recipe of every quantizable linear: `recipe` with the bits that its average_bits pays for."""
    choices = [
        own_bits(recipe, bits) for bits in sorted({recipe.weight_bits, *BUDGET_BITS}) if bits >= recipe.weight_bits
    ]
    errors = sensitivities(denoiser, choices, quantize_one, calls)
    sizes = {name: denoiser.get_submodule(name).weight.numel() for name in errors}
    levels = spend(errors, sizes, [own.weight_bits for own in choices], recipe.average_bits * sum(sizes.values()))
    return {name: choices[level] for name, level in levels.items()}


def own_bits(recipe: Recipe, bits: int) -> Recipe:
    """A linear's recipe with weights of so many bits."""
    group_size = recipe.group_size if bits <= max(GROUPED_BITS, recipe.weight_bits) else None
    return dataclasses.replace(recipe, weight_bits=bits, group_size=group_size, average_bits=None)


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


def sensitivities(
    denoiser: nn.Module, choices: list[Recipe], quantize_one: Quantize, calls: list[Inputs]
) -> dict[str, list[float]]:
    """Squared error of the prediction that each linear alone causes to first order, by recipe, summed over calls."""
    names = denoiser.quantizable()
    quantized = {name: [quantize_one(name, own) for own in choices] for name in names}
    errors = {name: [0.0] * len(choices) for name in names}
    generator = torch.Generator().manual_seed(0)
    for call in calls[:: -(-len(calls) // CALLS)]:
        with torch.enable_grad():
            outputs, differences, prediction = _run(denoiser, quantized, call)
            for probe in _probes(prediction, generator):
                gradients = torch.autograd.grad(prediction, list(outputs.values()), probe, retain_graph=True)
                for name, gradient in zip(outputs, gradients, strict=True):
                    for i, difference in enumerate(differences[name]):
                        errors[name][i] += (gradient * difference).sum().item() ** 2 / PROBES
    return errors


def _run(
    denoiser: nn.Module, quantized: dict[str, list[QuantizedLinear]], call: Inputs
) -> tuple[dict[str, torch.Tensor], dict[str, list[torch.Tensor]], torch.Tensor]:
    """Outputs of every linear as nodes of the graph, what quantization changes in them, and the prediction."""
    outputs, differences = {}, {}

    def hook(name: str):
        def observe(linear: nn.Module, arguments: tuple, keywords: dict, output):
            keywords = {key: value for key, value in keywords.items() if key != "parts"}
            exact = linear.forward(*arguments, **keywords)
            with torch.no_grad():
                differences[name] = [other(*arguments, **keywords) - exact for other in quantized[name]]
            outputs[name] = exact
            return exact if torch.is_tensor(output) else list(exact.tensor_split(len(output), dim=-1))

        return observe

    handles = [denoiser.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in quantized]
    try:
        # Parameters are frozen: what makes the graph are the inputs.
        prompt = {name: tensor.clone().requires_grad_() for name, tensor in call.prompt.items()}
        conditioning = denoiser.prepare(**prompt)
        latents = call.latents.clone().requires_grad_()
        return outputs, differences, denoiser.denoise(latents, call.timestep, conditioning)
    finally:
        for handle in handles:
            handle.remove()


def _probes(prediction: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(PROBES):
        yield torch.randint(0, 2, prediction.shape, generator=generator).to(prediction) * 2 - 1
