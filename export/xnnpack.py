"""Exported programs to one ExecuTorch program on XNNPACK, and an account of what runs where."""

import gc
from collections import Counter

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchProgramManager, to_edge_transform_and_lower
from executorch.exir.lowered_backend_module import get_lowered_backend_modules
from torch.export import ExportedProgram
from torch.fx import Node


def lower(methods: dict[str, ExportedProgram]) -> tuple[ExecutorchProgramManager, dict[str, dict]]:
    """A program with these methods, and for each its delegation: see `delegation`."""
    for program in methods.values():
        for node in program.graph.nodes:
            node.meta.pop("from_node", None)  # a history that every pass would copy, a quarter of the time
    gc.disable()  # another quarter: passes make millions of small objects and free few
    try:
        edge = to_edge_transform_and_lower(methods, partitioner={name: [XnnpackPartitioner()] for name in methods})
        account = {name: delegation(edge.exported_program(name)) for name in methods}
        return edge.to_executorch(), account
    finally:
        gc.enable()


def delegation(program: ExportedProgram) -> dict:
    """delegates: calls of one; integer_linears, float_linears: inside them; outside: other operators by name."""
    inside = Counter()
    for lowered in get_lowered_backend_modules(program.graph_module):
        for node in lowered.original_module.graph.nodes:
            if node.op == "call_function" and _is(node, "aten.linear"):
                inside["integer" if _is(_origin(node.args[1]), "dequantize") else "float"] += 1
    calls = [n for n in program.graph.nodes if n.op == "call_function" and _name(n) != "getitem"]
    outside = Counter(_name(n) for n in calls if _name(n) != "executorch_call_delegate")
    return {
        "delegates": len(calls) - outside.total(),
        "integer_linears": inside["integer"],
        "float_linears": inside["float"],
        "outside": dict(outside.most_common()),
    }


def _origin(node: Node) -> Node:
    """The node behind views of a weight."""
    while isinstance(node, Node) and node.op == "call_function" and _is(node, ("permute", "view", "t_copy")):
        node = node.args[0]
    return node


def _name(node: Node) -> str:
    target = node.target
    name = getattr(target, "__name__", str(target))
    return name.removesuffix(".default")


def _is(node: Node, parts: str | tuple[str, ...]) -> bool:
    parts = (parts,) if isinstance(parts, str) else parts
    return any(part in _name(node) for part in parts)
