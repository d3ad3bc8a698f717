"""A component as one ExecuTorch program in XNNPACK's delegate."""

import gc
from dataclasses import dataclass
from pathlib import Path

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchBackendConfig, ExecutorchProgramManager, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from torch.export import ExportedProgram

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.component import Component
from edge_hadanorm.exporters.delegation import delegation
from edge_hadanorm.exporters.memory import delegate_bytes, planned_bytes
from edge_hadanorm.exporters.xnnpack.annotation import EightBitQuantizer
from edge_hadanorm.exporters.xnnpack.partitioning import searched_dependencies
from edge_hadanorm.exporters.xnnpack.program import export
from edge_hadanorm.method.hardware import PHONE_CPU
from edge_hadanorm.method.linear import FLOAT_BITS
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.pipelines.drawing import Runner

# New objects after which Python looks for garbage while a program is lowered. Passes make millions and free few: the
# usual 700 take a quarter of the time, and never looking twice the memory.
GARBAGE = 500_000
# A runtime copies inputs into memory that the program planned for them. This method, of whatever size, has a
# conditioning of up to 80 MB and gives none of its inputs back: it reads them where the caller has them.
IN_PLACE = "denoise"


def check(recipe: Recipe, precision: str | None) -> None:
    """Raises UserError for a recipe that XNNPACK has no integer kernels for, and for floats of another precision."""
    if recipe.activations == "tensor":
        raise UserError(f"recipe {recipe.name}: xnnpack quantizes activations per token; quantize without -static")
    if recipe.weight_bits == recipe.activation_bits == FLOAT_BITS:
        return
    if recipe.activation_bits > PHONE_CPU.activation_bits or recipe.weight_bits > max(PHONE_CPU.weight_bits):
        raise UserError(
            f"recipe {recipe.name}: xnnpack needs weights and activations of at most 8 bits, or both in float (w16a16)"
        )
    multiple, grouped = PHONE_CPU.group_multiple, PHONE_CPU.grouped_bits
    if recipe.group_size and (recipe.weight_bits > grouped or recipe.group_size % multiple):
        raise UserError(
            f"recipe {recipe.name}: xnnpack takes groups of multiples of {multiple}, with weights of at most {grouped} "
            "bits"
        )
    if precision not in (None, "fp32"):
        raise UserError(f"xnnpack computes floats in fp32; leave out `precision` {precision}")


def notes(recipe: Recipe) -> list[str]:
    return []


def write(folder: Path, component: Component, precision: str | None) -> dict:
    """Write ROLE.pte; returns its entry in the manifest."""
    others = [EightBitQuantizer()] if component.eight_bit else []
    programs = {name: export(method.module, method.given, *others) for name, method in component.methods.items()}
    lowered = lower_all(programs)
    file = folder / f"{component.role}.pte"
    file.write_bytes(lowered.program.buffer)
    methods = {
        name: method.signature() | {"activations": lowered.activations[name], "delegation": lowered.account[name]}
        for name, method in component.methods.items()
    }
    return {"file": file.name, "methods": methods}


def runner(bundle: Bundle) -> Runner:
    """The ExecuTorch runtime of this machine."""
    return ExecuTorchRunner(bundle)


@dataclass(frozen=True)
class Lowered:
    """A program. By method, account: its `delegation`; activations: bytes that it needs besides weights and inputs."""

    program: ExecutorchProgramManager
    account: dict[str, dict]
    activations: dict[str, int]


def lower(methods: dict[str, ExportedProgram]) -> tuple[ExecutorchProgramManager, dict[str, dict]]:
    """Lower exported programs to one program with these methods; returns it, and for each method its `delegation`."""
    lowered = lower_all(methods)
    return lowered.program, lowered.account


def lower_all(methods: dict[str, ExportedProgram]) -> Lowered:
    """Lower exported programs to one program with these methods, whose equal weights are in it once."""
    for program in methods.values():
        for node in program.graph.nodes:
            node.meta.pop("from_node", None)  # a history that every pass would copy, a quarter of the time
    usual = gc.get_threshold()
    gc.set_threshold(GARBAGE, 1, 1)
    try:
        with searched_dependencies():
            edge = to_edge_transform_and_lower(methods, partitioner={name: [XnnpackPartitioner()] for name in methods})
        account = {name: delegation(edge.exported_program(name)) for name in methods}
        inside = {name: delegate_bytes(edge.exported_program(name)) for name in methods}
        planning = {name: MemoryPlanningPass(alloc_graph_input=not name.startswith(IN_PLACE)) for name in methods}
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
        return Lowered(program, account, {name: inside[name] + size for name, size in planned_bytes(program).items()})
    finally:
        gc.set_threshold(*usual)
