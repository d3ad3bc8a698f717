"""Exported programs to one ExecuTorch program on XNNPACK, and an account of what runs where."""

import gc
from collections import Counter
from pathlib import Path

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchProgramManager, to_edge_transform_and_lower
from executorch.exir.lowered_backend_module import get_lowered_backend_modules
from torch.export import ExportedProgram
from torch.fx import Node

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.component import Component
from edge_hadanorm.exporters.xnnpack.annotation import EightBitQuantizer
from edge_hadanorm.exporters.xnnpack.partitioning import searched_dependencies
from edge_hadanorm.exporters.xnnpack.program import export
from edge_hadanorm.method.linear import DEVICE_BITS
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.pipelines.drawing import Runner

# New objects after which Python looks for garbage while a program is lowered. Passes make millions and free few: the
# usual 700 take a quarter of the time, and never looking twice the memory.
GARBAGE = 500_000


def check(recipe: Recipe, precision: str | None) -> None:
    """Raises UserError for a recipe that XNNPACK has no integer kernels for, and for floats of another precision."""
    if recipe.activations == "tensor":
        raise UserError(f"recipe {recipe.name}: xnnpack quantizes activations per token; quantize without -static")
    if max(recipe.activation_bits, recipe.weight_bits) > DEVICE_BITS:
        raise UserError(f"recipe {recipe.name}: xnnpack needs weights and activations of at most 8 bits")
    if recipe.group_size and (recipe.weight_bits > 4 or recipe.group_size % 32):
        raise UserError(
            f"recipe {recipe.name}: xnnpack takes groups of multiples of 32, with weights of at most 4 bits"
        )
    if precision not in (None, "fp32"):
        raise UserError(f"xnnpack computes floats in fp32; leave out --precision {precision}")


def notes(recipe: Recipe) -> list[str]:
    return []


def write(folder: Path, component: Component, precision: str | None) -> dict:
    """Write ROLE.pte; returns its entry in the manifest."""
    others = [EightBitQuantizer()] if component.eight_bit else []
    programs = {name: export(method.module, method.given, *others) for name, method in component.methods.items()}
    program, account = lower(programs)
    file = folder / f"{component.role}.pte"
    file.write_bytes(program.buffer)
    methods = {name: method.signature() | {"delegation": account[name]} for name, method in component.methods.items()}
    return {"file": file.name, "methods": methods}


def runner(loaded: Bundle) -> Runner:
    """The ExecuTorch runtime of this machine."""
    return ExecuTorchRunner(loaded)


def lower(methods: dict[str, ExportedProgram]) -> tuple[ExecutorchProgramManager, dict[str, dict]]:
    """A program with these methods, and for each its delegation: see `delegation`."""
    for program in methods.values():
        for node in program.graph.nodes:
            node.meta.pop("from_node", None)  # a history that every pass would copy, a quarter of the time
    usual = gc.get_threshold()
    gc.set_threshold(GARBAGE, 1, 1)
    try:
        with searched_dependencies():
            edge = to_edge_transform_and_lower(methods, partitioner={name: [XnnpackPartitioner()] for name in methods})
        account = {name: delegation(edge.exported_program(name)) for name in methods}
        return edge.to_executorch(), account
    finally:
        gc.set_threshold(*usual)


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
