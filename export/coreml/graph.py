"""Modules as exported programs in the operators that Core ML has a form for."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Graph

from edge_hadanorm.exporters.coreml import constants
from edge_hadanorm.exporters.coreml.lowering import OPERATORS, CodedLinear, CoreMLLowering
from edge_hadanorm.exporters.graphs import drop_unused, lowered

ATEN = torch.ops.aten
# What large encoders are loaded in.
HALVES = (torch.bfloat16, torch.float16)


@torch.no_grad()
def export(model: nn.Module, inputs: tuple) -> ExportedProgram:
    """The program of a module's forward on inputs of these shapes, its quantized linears as Core ML computes them."""
    with lowered(model, CoreMLLowering, OPERATORS):
        module = torch.export.export(model, inputs).module()
    tell_apart(module.graph)
    constants.fold(module)
    drop_unused(module)
    module.recompile()
    return torch.export.export(module, inputs)


@contextlib.contextmanager
def eight_bit(model: nn.Module) -> Iterator[None]:
    """Let the linears of a float model have weights of 8 bits, while inside; all else is in float32, as it is."""
    before: list[tuple[dict, str, object]] = []

    def swap(owned: dict, name: str, other: object) -> None:
        before.append((owned, name, owned[name]))
        owned[name] = other

    try:
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Linear:
                    swap(parent._modules, name, CodedLinear(child))
        for parent in list(model.modules()):
            for name, parameter in parent._parameters.items():
                if parameter is not None and parameter.dtype in HALVES:
                    swap(parent._parameters, name, _constant(parameter))
            for name, buffer in parent._buffers.items():
                if buffer is not None and buffer.dtype in HALVES:
                    swap(parent._buffers, name, buffer.float())
        yield
    finally:
        for owned, name, thing in before:
            owned[name] = thing


def _constant(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().float(), requires_grad=False)


def tell_apart(graph: Graph) -> None:
    """Compute outputs that are inputs, for the two have different names in a package."""
    output = graph.output_node()
    for node in dict.fromkeys(output.all_input_nodes):
        if node.op == "placeholder":
            with graph.inserting_before(output):
                copy = graph.call_function(ATEN.mul.Tensor, (node, 1))
            copy.meta = dict(node.meta)
            output.replace_input_with(node, copy)
