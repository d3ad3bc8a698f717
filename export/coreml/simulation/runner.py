"""A bundle's Core ML programs in torch, operator by operator: what a Mac or a phone computes, on any machine."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.runner import BundleRunner, Method
from edge_hadanorm.exporters.coreml.simulation.interpreter import Function


@dataclass(frozen=True)
class Simulated:
    """A function, which is called by names, as a method, which is called in order.

    An output of a method may be one of its inputs, and an input be read by nothing.
    """

    function: Function
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Call the function; results are in float32, as the signatures of methods are."""
        given = dict(zip(self.inputs, tensors, strict=True))
        values = given | self.function({name: given[name] for name in self.function.inputs})
        return [values[name].float() for name in self.outputs]


def runner(loaded: Bundle, function: Callable[[str, str], Function]) -> BundleRunner:
    """The programs of a bundle by function(role, method), whose tensors have the manifest's `feature` names."""
    methods: dict[tuple[str, str], Method] = {}
    for role, program in loaded.programs.items():
        for name, method in program["methods"].items():
            inputs, outputs = (tuple(tensor["feature"] for tensor in method[way]) for way in ("inputs", "outputs"))
            methods[role, name] = Simulated(function(role, name), inputs, outputs)
    return BundleRunner(loaded, methods)
