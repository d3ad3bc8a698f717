"""Constant folding: parts of a graph that depend on no input and no weight, such as masks of ones and positions.

As operators coremltools would lose arguments of some (the dtype of a `new_ones`), and a device compute them each time.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

ATEN = torch.ops.aten
# Of a tensor these read the shape alone.
FILLED = {
    ATEN.new_zeros.default: 0,
    ATEN.zeros_like.default: 0,
    ATEN.new_ones.default: 1,
    ATEN.ones_like.default: 1,
}
FILLED_AS_ASKED = (ATEN.new_full.default, ATEN.full_like.default)
# Larger ones stay as operators: a program would carry them.
MOST_BYTES = 4 << 20


def fold(module: GraphModule) -> None:
    """Put constants in place of what can be known; a random operator's result cannot."""
    known: dict[Node, torch.Tensor] = {}
    for node in list(module.graph.nodes):
        value = _value(node, known)
        if isinstance(value, torch.Tensor) and value.numel() * value.element_size() <= MOST_BYTES:
            known[node] = value
    for node, value in known.items():
        if all(user in known for user in node.users):
            continue
        name = f"constant_{node.name}"
        module.register_buffer(name, value.contiguous())
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        constant.meta = {key: kept for key, kept in node.meta.items() if key == "val"}
        node.replace_all_uses_with(constant)
    module.graph.eliminate_dead_code()


def _value(node: Node, known: dict[Node, torch.Tensor]) -> object:
    """The value of a node, if it is the same whatever the inputs are; else None."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return None
    shape, dtype = node.meta["val"].shape, node.meta["val"].dtype
    if node.target in FILLED:
        return torch.full(shape, FILLED[node.target], dtype=dtype)
    if node.target in FILLED_AS_ASKED:
        return torch.full(shape, cast(float, node.args[-1]), dtype=dtype)
    if not all(given in known for given in node.all_input_nodes):
        return None
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return None
    args, kwargs = map_arg((node.args, dict(node.kwargs)), known.__getitem__)
    return cast(Callable, node.target)(*args, **kwargs)
