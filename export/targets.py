"""The targets that programs are written for: a table with a row a target, and the contract of its implementation.

A new target is a file or a folder beside this one, with the functions of `Target`, and a row of TARGETS. The file is
imported when the target is asked for: its tools take seconds, and may not be installed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.hardware import APPLE, PHONE_CPU, Hardware

if TYPE_CHECKING:  # `--help` lists the targets, without waiting for torch
    from edge_hadanorm.bundle import Bundle
    from edge_hadanorm.checkpoint import Checkpoint
    from edge_hadanorm.exporters.component import Component
    from edge_hadanorm.method.recipe import Recipe
    from edge_hadanorm.pipelines.drawing import Runner


class Target(Protocol):
    """The functions of a target's module.

    Export calls `check` first, then `write` for each component of a pipeline (the denoiser, text encoders, the image
    decoder), `notes`, and `runner`, which draws the bundle's golden picture. A component's methods are modules in
    eager PyTorch. `graphs.lowered` lets their quantized linears, norms and means compute as the target wants while
    they are exported; what it is not told of is computed as in simulation. No target imports another.
    """

    def check(self, recipe: Recipe, precision: str | None) -> None:
        """Raise UserError for a recipe or a precision of floats that the target's programs cannot have."""

    def notes(self, recipe: Recipe) -> list[str]:
        """Lines that a user of programs of this recipe should read."""

    def write(self, folder: Path, component: Component, precision: str | None) -> dict:
        """Write a component's program into a folder and return its entry in the manifest.

        The entry has `file`, the program's path in the folder, and `methods`: by name the method's `signature()`, with
        an account of what runs where as its `delegation`. More keys are the target's own. The codes of the checkpoint
        are the codes in the program. Raises UserError for what cannot be written.
        """

    def runner(self, bundle: Bundle) -> Runner:
        """Return who runs a bundle's programs on this machine: a runtime, an interpreter of them, or else their
        checkpoint in PyTorch, `checkpoint_runner`.
        """


@dataclass(frozen=True)
class TargetRow:
    """A target, as far as it is known without its tools.

    module: path of the implementation of `Target`. summary: of its programs, for `--help`. hardware: where they run, in
    words. kernels: what checkpoints are rounded for there. runs_here: whether the ExecuTorch runtime of this machine
    runs them, too. shares_weights: whether equal weights of a program's methods are in it once. packages: of pip, named
    as they are imported, that its tools are in.
    """

    module: str
    summary: str
    hardware: str
    kernels: Hardware
    runs_here: bool
    shares_weights: bool
    packages: tuple[str, ...]


TARGETS = {
    "xnnpack": TargetRow(
        "edge_hadanorm.exporters.xnnpack.target",
        "ExecuTorch programs for CPUs",
        hardware="CPUs of phones and computers",
        kernels=PHONE_CPU,
        runs_here=True,
        shares_weights=True,
        packages=("executorch",),
    ),
    "coreml": TargetRow(
        "edge_hadanorm.exporters.coreml.package",
        "Core ML packages",
        hardware="Apple's systems",
        kernels=APPLE,
        runs_here=False,
        shares_weights=False,
        packages=("coremltools",),
    ),
    "coreml-pte": TargetRow(
        "edge_hadanorm.exporters.coreml.pte",
        "Core ML programs in ExecuTorch ones",
        hardware="Apple's systems",
        kernels=APPLE,
        runs_here=False,
        shares_weights=False,
        packages=("executorch", "coremltools"),
    ),
}


def names() -> list[str]:
    """Names of the targets."""
    return list(TARGETS)


def summary() -> str:
    """The targets in a line: each name, and what its programs are."""
    return "; ".join(f"{name}: {row.summary}" for name, row in TARGETS.items())


def row(target: str) -> TargetRow:
    """The row of a target. Raises UserError for an unknown one."""
    if target not in TARGETS:
        raise UserError(f"unknown target {target!r}; targets: {', '.join(names())}")
    return TARGETS[target]


def backend(target: str) -> Target:
    """The implementation of a target. Raises UserError for an unknown one, and where its tools are missing."""
    known = row(target)
    try:
        return cast(Target, importlib.import_module(known.module))
    except ImportError as error:
        packages = " ".join(known.packages)
        raise UserError(f"target {target} needs {error.name}, which is not here: pip install {packages}") from None


def check_target(target: str, saved: Checkpoint, precision: str | None = None) -> None:
    """Raise UserError for an unknown target, and for a recipe or precision that its programs cannot have."""
    backend(target).check(saved.recipe, precision)


def runs_here(target: str) -> bool:
    """Tell whether the ExecuTorch runtime of this machine runs a target's programs.

    Those of a target that is not in the table it may try: their bundle is another program's.
    """
    return target not in TARGETS or TARGETS[target].runs_here


def simulation(bundle: Bundle) -> Runner:
    """Make the simulation of a bundle: its checkpoint in PyTorch, or the target's `runner`, if that is no runtime."""
    if not runs_here(bundle.target) and all(find_spec(package) for package in row(bundle.target).packages):
        return backend(bundle.target).runner(bundle)
    return checkpoint_runner(bundle)


def checkpoint_runner(bundle: Bundle) -> Runner:
    """The checkpoint in a bundle, in PyTorch. Raises UserError where it is a transformer alone."""
    from edge_hadanorm.checkpoint import carried
    from edge_hadanorm.pipelines.drawing import TorchRunner

    saved = carried(bundle)
    if saved.pipeline is None:
        raise UserError(f"bundle {bundle.folder} holds a transformer alone: it cannot draw prompts")
    _, height, width = bundle.latent_shape
    return TorchRunner(saved.denoiser.resized(height, width), saved.pipeline, bundle.decode_window)


@dataclass(frozen=True)
class Options:
    """prompts: encoded here and carried, in place of text encoders. tile: side of the latents to decode at once, where
    they are more than its square.

    precision: of the floats in a program, fp16 or fp32, where the target leaves a choice; None: the target's own.
    guided: shares of the steps, from and to, that guidance is for; None: all. encoder: with an image encoder.
    """

    prompts: tuple[str, ...] = ()
    tile: int | None = None
    precision: str | None = None
    guided: tuple[float, float] | None = None
    encoder: bool = False
