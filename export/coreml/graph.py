"""Modules as exported programs in the operators that Core ML has a form for.

The denoisers compute means as products with a constant row, which XNNPACK takes whole. Core ML has reductions, which
float16 leaves exact where it would round 1 / d, and a layer norm, which the Neural Engine takes and which keeps its
sums of squares from overflowing; both are put in place of the products.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from edge_hadanorm.exporters.coreml import constants
from edge_hadanorm.exporters.coreml.lowering import CodedLinear, CoreMLLowering
from edge_hadanorm.exporters.graphs import drop_unused, lowered

ATEN = torch.ops.aten
# What large encoders are loaded in.
HALVES = (torch.bfloat16, torch.float16)


@torch.no_grad()
def export(model: nn.Module, inputs: tuple) -> ExportedProgram:
    """The program of a module's forward on inputs of these shapes, its quantized linears as Core ML computes them."""
    with lowered(model, CoreMLLowering):
        module = torch.export.export(model, inputs).module()
    rewrite(module.graph)
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
            for own, make in ((parent._parameters, _constant), (parent._buffers, torch.Tensor.float)):
                for name, tensor in own.items():
                    if tensor is not None and tensor.dtype in HALVES:
                        swap(own, name, make(tensor))
        yield
    finally:
        for owned, name, thing in before:
            owned[name] = thing


def _constant(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().float(), requires_grad=False)


def rewrite(graph: Graph) -> None:
    """Put means and layer norms in place of the products that compute them."""
    for rule in (_mean, _layer_norm):
        for node in list(graph.nodes):
            if (made := rule(graph, node)) is not None:
                made.meta = {key: value for key, value in node.meta.items() if key != "from_node"}
                node.replace_all_uses_with(made)
        graph.eliminate_dead_code()


def tell_apart(graph: Graph) -> None:
    """Compute outputs that are inputs, for the two have different names in a package."""
    output = graph.output_node()
    for node in dict.fromkeys(output.all_input_nodes):
        if node.op == "placeholder":
            with graph.inserting_before(output):
                copy = graph.call_function(ATEN.mul.Tensor, (node, 1))
            copy.meta = dict(node.meta)
            output.replace_input_with(node, copy)


def _mean(graph: Graph, node: Node) -> Node | None:
    """x [..., d] times a row of 1 / d, or rows of 1 / S times tokens [B, S, d]: the mean over features or tokens."""
    if node.target is ATEN.linear.default and len(node.args) == 2:
        (x, row), dim = node.args, -1
    elif node.target is ATEN.bmm.default:
        (row, x), dim = node.args, 1
    else:
        return None
    if row.target not in (ATEN.new_full.default, ATEN.full.default):
        return None
    *_, rows, count = row.meta["val"].shape
    if rows != 1 or not math.isclose(row.args[-1], 1 / count):
        return None
    with graph.inserting_before(node):
        return graph.call_function(ATEN.mean.dim, (x, [dim], True))


def _layer_norm(graph: Graph, node: Node) -> Node | None:
    """c rsqrt(mean(c c) + eps) with c = x - mean(x), means over the features."""
    if node.target is not ATEN.mul.Tensor or not _is(node.args[1], ATEN.rsqrt.default):
        return None
    centred, (shifted,) = node.args[0], node.args[1].args
    if not _is(shifted, ATEN.add.Tensor) or isinstance(shifted.args[1], Node):
        return None
    variance, eps = shifted.args
    if not _is_mean(variance) or not _is(variance.args[0], ATEN.mul.Tensor):
        return None
    if variance.args[0].args != (centred, centred) or not _is(centred, ATEN.sub.Tensor):
        return None
    x, mean = centred.args
    if not _is_mean(mean) or mean.args[0] is not x:
        return None
    with graph.inserting_before(node):
        return graph.call_function(ATEN.layer_norm.default, (x, [x.meta["val"].shape[-1]], None, None, eps))


def _is(node: object, target: object) -> bool:
    return isinstance(node, Node) and node.target is target


def _is_mean(node: object) -> bool:
    return _is(node, ATEN.mean.dim) and node.args[1:] == ([-1], True)
