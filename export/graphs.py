"""Graphs that targets export, and passes over them that they share."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.fx import GraphModule

from edge_hadanorm.method.linear import Lowering, QuantizedLinear
from edge_hadanorm.method.operators import PRODUCTS, Operators, computed_by


@contextlib.contextmanager
def lowered(
    model: nn.Module, lowering: Callable[[QuantizedLinear], Lowering], operators: Operators = PRODUCTS
) -> Iterator[None]:
    """Let the quantized linears, norms and means of a model compute as a target's programs do, while inside."""
    linears = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    try:
        for linear in linears:
            linear.lowering = lowering(linear)
        with computed_by(operators):
            yield
    finally:
        for linear in linears:
            linear.lowering = None


def fold_constants(graph: GraphModule) -> None:
    """Make tensors of one value (the weights of a token mean) constants; as operators they would split delegates."""
    for node in list(graph.graph.nodes):
        if node.target not in (torch.ops.aten.new_full.default, torch.ops.aten.full.default):
            continue
        value = node.meta["val"]
        graph.register_buffer(node.name, torch.full(value.shape, node.args[-1], dtype=value.dtype))
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(node.name)
        constant.meta = {k: v for k, v in node.meta.items() if k == "val"}
        node.replace_all_uses_with(constant)
        graph.graph.erase_node(node)
    graph.recompile()


def drop_unused(graph: GraphModule) -> None:
    """Forget tensors that no node reads (float weights whose codes have taken over), which would fill the program."""
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    tensors = [*graph.named_buffers(remove_duplicate=False), *graph.named_parameters(remove_duplicate=False)]
    for name, _ in tensors:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(owner), leaf)
