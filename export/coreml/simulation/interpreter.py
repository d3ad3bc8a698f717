"""Runs the program in an .mlpackage on any CPU, in torch: what Core ML computes, where there is no Core ML.

    functions = load("denoiser.mlpackage")
    prediction = functions["main"]({"latents": latents, "timestep": timestep})["prediction"]

Every operator is computed in float32 and its result rounded to the dtype that the program declares for it; a device
may accumulate in less, and in another order. In float64 a program shows what function it is, beyond rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coremltools.proto import MIL_pb2

from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.coreml.simulation.builder import Builder
from edge_hadanorm.exporters.coreml.simulation.reader import Constant, Package, Type
from edge_hadanorm.exporters.coreml.simulation.steps import PRECISIONS, Precision, Step, as_declared, with_last_reads

ROUNDED = {"fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Function:
    """A function of a program: called with its inputs by name it gives its outputs by name.

    inputs, outputs: their types. steps: its operators in order. constants: what they read that is no result.
    """

    where: str
    precision: Precision
    inputs: dict[str, Type]
    outputs: dict[str, Type]
    steps: list[Step]
    constants: Mapping[str, Constant]

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, torch.Tensor | np.ndarray]) -> dict[str, torch.Tensor]:
        """Outputs have their declared dtype, or the precision's where that does not round.

        Raises UserError for a missing, unknown or unfit input, and where an operator cannot be computed.
        """
        if unknown := sorted(set(inputs) - set(self.inputs)):
            raise UserError(f"{self.where} has no input {unknown[0]!r}; its inputs: {', '.join(self.inputs)}")
        values: dict[str, Any] = dict(self.constants)
        for name, declared in self.inputs.items():
            if name not in inputs:
                raise UserError(f"{self.where}: input {name!r} ({declared}) is missing")
            values[name] = self._taken(name, torch.as_tensor(inputs[name]), declared)
        for step in self.steps:
            values |= step.run(values, self.precision)
            for name in step.last:
                del values[name]
        return {name: self._given(values[name], declared) for name, declared in self.outputs.items()}

    def _taken(self, name: str, given: torch.Tensor, declared: Type) -> torch.Tensor:
        """An input as its type asks for, floats of any size as floats and integers of any as integers that hold it."""
        taken = given if declared.floating else given.to(declared.held)
        if not declared.fits(given.shape) or given.is_floating_point() != declared.floating:
            found = f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
            raise UserError(f"{self.where}: input {name!r} is {found}, the program takes {declared}")
        if not declared.floating and not torch.equal(taken.to(given.dtype), given):
            raise UserError(f"{self.where}: input {name!r} has numbers beyond {declared.dtype}")
        return as_declared(taken, declared, self.precision, f"{self.where}: input {name!r}")

    def _given(self, value: torch.Tensor, declared: Type) -> torch.Tensor:
        rounded = declared.floating and self.precision.rounded
        return value.to(ROUNDED[declared.dtype]) if rounded else value.clone()


def load(package: str | Path, precision: str = "declared") -> dict[str, Function]:
    """The functions of an .mlpackage by name; a package that was converted alone has one, `main`.

    precision: a key of PRECISIONS. Raises UserError for a missing, broken or foreign package, for an operator that is
    not known here, and for one whose arguments or types make no sense.
    """
    source = Package(Path(package))
    return {name: _function(source, name, proto, PRECISIONS[precision]) for name, proto in source.functions.items()}


def _function(package: Package, name: str, proto: MIL_pb2.Function, precision: Precision) -> Function:
    where = f"Core ML package {package.folder.name}, function {name!r}"
    if (block := proto.block_specializations.get(proto.opset)) is None:
        raise UserError(f"{where} has no operators for its opset {proto.opset!r}; convert the model again")
    builder = Builder(package, where, precision)
    for value in proto.inputs:
        builder.declare(value)
    inputs = dict(builder.types)
    builder.check_known(block.operations)
    for operation in block.operations:
        builder.add(operation)
    if missing := [output for output in block.outputs if output not in builder.types]:
        raise UserError(f"{where}: nothing computes its output {missing[0]!r}; convert the model again")
    outputs = {output: builder.types[output] for output in block.outputs}
    steps = with_last_reads(builder.steps, inputs, outputs)
    needed = {source for step in steps for source in step.read()} | set(outputs)
    constants = {key: value for key, value in builder.constants.items() if key in needed}
    return Function(where, precision, inputs, outputs, steps, constants)
