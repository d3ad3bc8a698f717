"""An account of what runs where in a program of ExecuTorch, whoever its delegates are."""

from collections import Counter

from executorch.exir.lowered_backend_module import get_lowered_backend_modules
from torch.export import ExportedProgram
from torch.fx import Node

# Views of a weight between it and its product.
VIEWS = ("permute", "view", "t_copy")


def delegation(program: ExportedProgram) -> dict:
    """Count what runs where in an edge program.

    delegates: calls of one; integer_linears, float_linears: inside them; outside: other operators by name.
    """
    inside: Counter[str] = Counter()
    for lowered in get_lowered_backend_modules(program.graph_module):
        for node in lowered.original_module.graph.nodes:
            if node.op == "call_function" and "aten.linear" in _name(node):
                inside["integer" if "dequantize" in _name(_origin(node.args[1])) else "float"] += 1
    names = [_name(node) for node in program.graph.nodes if node.op == "call_function"]
    outside = Counter(name for name in names if name not in ("getitem", "executorch_call_delegate"))
    return {
        "delegates": names.count("executorch_call_delegate"),
        "integer_linears": inside["integer"],
        "float_linears": inside["float"],
        "outside": dict(outside.most_common()),
    }


def _origin(node: Node) -> Node:
    """The node behind views of a weight."""
    while node.op == "call_function" and any(view in _name(node) for view in VIEWS):
        node = node.all_input_nodes[0]
    return node


def _name(node: Node) -> str:
    """The name of a node's operator: aten.linear."""
    name: str = getattr(node.target, "__name__", str(node.target))
    return name.removesuffix(".default")
