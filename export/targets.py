"""The targets that programs are written for."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType

from edge_hadanorm import bundle as bundles
from edge_hadanorm.checkpoint import Checkpoint, carried
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.drawing import Runner, TorchRunner

# Targets whose programs no runtime runs on this machine, but an interpreter.
NOT_HERE = ("coreml", "coreml-pte")


def simulation(loaded: bundles.Bundle) -> Runner:
    """A bundle's checkpoint in PyTorch; or its own programs, where they are Core ML's and their tools are here."""
    if loaded.target in NOT_HERE and find_spec("coremltools"):
        return backend(loaded.target).runner(loaded)
    saved = carried(loaded)
    return TorchRunner(saved.denoiser, saved.pipeline, loaded.decode_side)


# By target, the module that has
#     check(recipe, precision), which raises UserError for what its programs cannot have;
#     notes(recipe) -> lines that a user of them should read;
#     write(folder, component, precision) -> the manifest's entry of the program that it writes;
#     runner(bundle) -> who runs such programs on this machine.
# Each is imported with its tools, which take seconds, when it is asked for.
TARGETS = {
    "xnnpack": "edge_hadanorm.exporters.xnnpack.target",
    "coreml": "edge_hadanorm.exporters.coreml.package",
    "coreml-pte": "edge_hadanorm.exporters.coreml.pte",
}


def backend(target: str) -> ModuleType:
    """The module of a target. Raises UserError for an unknown one."""
    if target not in TARGETS:
        raise UserError(f"unknown target {target!r}; targets: {', '.join(TARGETS)}")
    try:
        return importlib.import_module(TARGETS[target])
    except ImportError as error:
        raise UserError(f"target {target} needs {error.name}, which is not here: pip install {error.name}") from None


def check_target(target: str, saved: Checkpoint, precision: str | None = None) -> None:
    """Raises UserError for an unknown target, and for a recipe or precision that its programs cannot have."""
    backend(target).check(saved.recipe, precision)


@dataclass(frozen=True)
class Options:
    """prompts: encoded here and carried, in place of text encoders. tile: side of the latents to decode at once.

    precision: of the floats in a program, fp16 or fp32, where the target leaves a choice; None: the target's own.
    """

    prompts: tuple[str, ...] = ()
    tile: int | None = None
    precision: str | None = None
