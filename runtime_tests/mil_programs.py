"""MIL programs and packages for tests, written with coremltools."""

import json
import logging
import math
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, Var, types
from coremltools.proto import MIL_pb2, Model_pb2
from torch import nn

logging.getLogger("coremltools").setLevel(logging.ERROR)
MODEL = "com.apple.CoreML/model.mlmodel"
# Converting stumbles over a linear and a scalar that is added to it.
BROKEN_PASSES = {"common::fuse_linear_bias"}
# Arguments that MIL takes as constants alone.
CONSTANT = {"weight", "bias", "gamma", "beta", "mean", "variance", "scale", "zero_point"}


def write_package(folder: Path, **model: object) -> Path:
    """An .mlpackage of a Model with these fields; its weights are there already."""
    (folder / "Data/com.apple.CoreML/weights").mkdir(parents=True, exist_ok=True)
    manifest = {"rootModelIdentifier": "model", "itemInfoEntries": {"model": {"path": MODEL}}}
    (folder / "Manifest.json").write_text(json.dumps(manifest))
    (folder / "Data" / MODEL).write_bytes(Model_pb2.Model(specificationVersion=9, **model).SerializeToString())
    return folder


def exported(function: Function, folder: Path, target: ct.target) -> MIL_pb2.Program:
    """A program of one function as protobuf, with its weights where the package will be."""
    program = Program()
    program.add_function("main", function)
    weights = folder / "Data/com.apple.CoreML/weights"
    weights.mkdir(parents=True)
    return MILProtoExporter(program, str(weights), target).export()


def package(function: Function, folder: Path, target: ct.target) -> Path:
    """As the function is, without the passes of a conversion."""
    return write_package(folder, mlProgram=exported(function, folder, target))


def call(kind: str, arguments: dict[str, object]) -> list[Var]:
    """The results of an operator in the current function."""
    results = getattr(mb, kind)(**arguments)
    return list(results) if isinstance(results, (list, tuple)) else [results]


def inputs_of(kind: str, arguments: dict[str, object]) -> dict[str, np.ndarray]:
    """The arrays among an operator's arguments that a program takes as inputs; those in a list by number."""
    found = {}
    for name, given in arguments.items():
        for i, one in enumerate(given if isinstance(given, list) else [given]):
            if isinstance(one, np.ndarray) and not kind.startswith("constexpr_") and name not in CONSTANT:
                found[f"{name}_{i}"] = one
    return found


def function_of(kind: str, arguments: dict[str, object], target: ct.target) -> Function:
    """A function of one operator."""
    arrays = inputs_of(kind, arguments)
    dtypes = {name: types.numpy_type_to_builtin_type(array.dtype) for name, array in arrays.items()}
    places = {name: mb.placeholder(array.shape, dtypes[name], allow_rank0_input=True) for name, array in arrays.items()}
    with Function(places, opset_version=target) as function:
        own = {}
        for name, given in arguments.items():
            found = [function.inputs.get(f"{name}_{i}") for i in range(len(given) if isinstance(given, list) else 1)]
            listed = isinstance(given, list) and found[0] is not None
            own[name] = found if listed else given if found[0] is None else found[0]
        function.set_outputs(call(kind, own))
    return function


def inferred(kind: str, arguments: dict[str, object], target: ct.target) -> list[np.ndarray | None]:
    """What coremltools itself computes of constants."""
    with Function({}, opset_version=target) as function:
        results = call(kind, arguments)
        function.set_outputs(results)
        if kind.startswith("constexpr_") or (kind == "dequantize" and results[0].val is None):
            return [results[0].op.materialized_val_inference()]
        return [result.val for result in results]


def gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    """By its definition, which conversion finds; of torch's operator it takes the exact form always."""
    if approximate == "none":
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


# Operators that coremltools converts to others, or not at all.
DEFINITIONS = {
    torch.ops.aten.gelu.default: gelu,
    torch.ops.aten.alias.default: torch.clone,
    torch.ops.aten.where.ScalarOther: lambda condition, x, y: torch.where(condition, x, torch.full_like(x, y)),
}


def traced(module: nn.Module, inputs: tuple) -> torch.export.ExportedProgram:
    """A module's forward in the operators that coremltools converts."""
    with torch.no_grad():
        return torch.export.export(module, inputs).run_decompositions(DEFINITIONS)


def rounds_well(operation: object) -> bool:
    """All but what makes the angles of a timestep, whose rounding to fp16 would be most of an angle's error."""
    results = [operation, *(child for output in operation.outputs for child in output.child_ops)]
    return not any(one.op_type in ("sin", "cos") for one in results)


PRECISIONS = {
    "FLOAT32": ct.precision.FLOAT32,
    "FLOAT16": ct.transform.FP16ComputePrecision(op_selector=rounds_well),
}


def converted(program: torch.export.ExportedProgram, path: Path, target: str, precision: str) -> Path:
    """The package of a program, as `ct.convert` makes it."""
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes(BROKEN_PASSES)
    ct.convert(
        program,
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=PRECISIONS[precision],
        pass_pipeline=pipeline,
        skip_model_load=True,
    ).save(str(path))
    return path
