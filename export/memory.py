"""The memory that a method's activations take, worked out from its program before any device runs it."""

import math
from collections.abc import Collection
from typing import Any

from executorch.exir import ExecutorchProgramManager
from executorch.exir.lowered_backend_module import get_lowered_backend_modules
from torch.export import ExportedProgram
from torch.fx import Graph, Node

POINTER = 8
# Operators whose value lies in their input's memory.
VIEWS = ("view", "squeeze", "unsqueeze", "dequantize", "getitem", "clone")
# Those that write where they read, if nothing else reads it later.
IN_PLACE = (
    "add",
    "sub",
    "mul",
    "div",
    "exp",
    "gelu",
    "sigmoid",
    "tanh",
    "relu",
    "rsqrt",
    "neg",
    "clamp",
    "pow",
    "sqrt",
)


def planned_bytes(program: ExecutorchProgramManager) -> dict[str, int]:
    """Bytes of the buffers that an ExecuTorch program plans, by method."""
    return {plan.name: sum(plan.non_const_buffer_sizes) for plan in program.executorch_program.execution_plan}


def delegate_bytes(program: ExportedProgram) -> int:
    """Bytes that the delegates of an edge program need for what they compute inside.

    They share one workspace. It grows to what the next one needs, and is copied as it grows. Besides, every convolution
    keeps pointers to the pixels that it reads.
    """
    workspace = growing = pointers = 0
    for lowered in get_lowered_backend_modules(program.graph_module):
        graph, inputs = lowered.original_module.graph, lowered.original_module.graph_signature.user_inputs
        needed = peak_bytes(graph, inputs)
        if needed > workspace:
            growing, workspace = max(growing, workspace + needed), needed
        pointers += sum(map(_pointers, graph.nodes))
    return max(growing, workspace) + pointers


def _pointers(node: Node) -> int:
    """Bytes of the pointers of a convolution: one for each pixel of its output and each place of its kernel."""
    if node.op != "call_function" or not _is(node, ("convolution",)):
        return 0
    _, _, *places = node.all_input_nodes[1].meta["val"].shape
    _, _, *pixels = node.meta["val"].shape
    return POINTER * math.prod(pixels) * math.prod(places) if math.prod(places) > 1 else 0


def peak_bytes(graph: Graph, inputs: Collection = ()) -> int:
    """The most bytes of a graph's own tensors that are alive at once; what it is given and gives is not its own.

    inputs: names of what it is given, of which a convolution has a copy with the channels last, as of what it gives.
    """
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    origins: dict[Node, Node] = {}
    for node in nodes:
        origins[node] = _origin(node, origins)
    images = [node for node in nodes if _is(node, ("convolution", "max_pool", "avg_pool", "upsample"))]
    copied = {node.args[0] for node in images if isinstance(node.args[0], Node) and node.args[0].name in inputs}
    outputs = set() if images else {origins.get(node, node) for node in graph.output_node().all_input_nodes}
    last = {origins.get(read, read): i for i, node in enumerate(nodes) for read in (node, *node.all_input_nodes)}
    alive: dict[Node, int] = {}
    peak = 0
    for i, node in enumerate(nodes):
        if origins[node] is node and node not in outputs:
            size = _bytes(node.meta.get("val"))
            ending = [read for read in alive if last[read] == i and alive[read] == size]
            if ending and _is(node, IN_PLACE):
                del alive[ending[0]]
            alive[node] = size
        for read in copied.intersection(node.all_input_nodes):
            alive[read] = _bytes(read.meta.get("val"))
        peak = max(peak, sum(alive.values()))
        alive = {read: size for read, size in alive.items() if last[read] > i}
    return peak


def _origin(node: Node, origins: dict[Node, Node]) -> Node:
    """The node whose tensor a node's value lies in."""
    if not _is(node, VIEWS) or not node.all_input_nodes:
        return node
    first = node.all_input_nodes[0]
    return origins.get(first, first)


def _is(node: Node, names: tuple[str, ...]) -> bool:
    """Whether a node's operator, of whatever library, has one of these names or one that begins with it."""
    name: str = getattr(node.target, "__name__", str(node.target))
    return name.split(".", 1)[-1].startswith(names) or name.startswith(names)


def _bytes(value: Any) -> int:
    """Size of a node's value, a tensor or several."""
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return math.prod(value.shape) * value.element_size() if hasattr(value, "element_size") else 0
