"""What a backend makes a program of: a pipeline's component as modules with example inputs, and its manifest entry."""

from dataclasses import dataclass

import torch
from torch import nn

from edge_hadanorm import bundle


@dataclass(frozen=True)
class Method:
    """A module whose forward is a method of a program.

    inputs, outputs: example tensors by name, whose shapes the program keeps. arguments: the inputs as forward takes
    them, where that is not one after the other.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    arguments: tuple = ()

    @property
    def given(self) -> tuple:
        return self.arguments or tuple(self.inputs.values())

    def signature(self) -> dict:
        """Its entry in the manifest."""
        return bundle.signature(self.inputs, self.outputs)


@dataclass(frozen=True)
class Component:
    """A program to be.

    eight_bit: its linears, which are outside the recipe, get weights of 8 bits. wide: its activations may leave the
    range of float16, and stay in float32.
    """

    role: str
    methods: dict[str, Method]
    eight_bit: bool = False
    wide: bool = False
