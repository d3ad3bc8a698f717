"""MIL programs and packages for tests, written with coremltools, and those of quantized denoisers."""

import dataclasses
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, Var, types
from coremltools.proto import MIL_pb2, Model_pb2
from torch import nn

from edge_hadanorm.checkpoint import Checkpoint, Text
from edge_hadanorm.exporters.coreml import conversion, graph
from edge_hadanorm.exporters.coreml.simulation.interpreter import Function as Simulation
from edge_hadanorm.exporters.coreml.simulation.interpreter import load
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.pipelines import loading
from edge_hadanorm.quantization.calibration import calibrate
from edge_hadanorm.quantization.quantize import quantize
from runtime_tests.support.families import FAMILIES, last

logging.getLogger("coremltools").setLevel(logging.ERROR)
MODEL = "com.apple.CoreML/model.mlmodel"
# Arguments that MIL takes as constants alone.
CONSTANT = {"weight", "bias", "gamma", "beta", "mean", "variance", "scale", "zero_point"}
# Of each kind of block in a family's members the least.
SHORT = {
    "pixart": dict(num_layers=1),
    "dit": dict(num_layers=1),
    "auraflow": dict(num_mmdit_layers=1, num_single_dit_layers=1),
    "flux": dict(num_layers=1, num_single_layers=1),
    "sana": dict(num_layers=1),
    "sana_sprint": dict(num_layers=1),
}


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


def traced(module: nn.Module, inputs: tuple) -> torch.export.ExportedProgram:
    """A module's forward in the operators that are converted."""
    return conversion.decompose(graph.export(module, inputs))


def converted(program: torch.export.ExportedProgram, path: Path, target: str, precision: str) -> Path:
    """The package of a traced program; its inputs keep their names, and its outputs are y_0, y_1, ..."""
    outputs = [f"y_{i}" for i in range(len(program.graph_signature.user_outputs))]
    conversion.convert_program(program, outputs, precision, getattr(ct.target, target)).save(str(path))
    return path


# Quantized denoisers.


def cast(call: Inputs, dtype: torch.dtype = torch.float32) -> Inputs:
    prompt = {name: tensor.to(dtype) for name, tensor in call.prompt.items()}
    return Inputs(call.latents.to(dtype), call.timestep.to(dtype), prompt)


def quantized(family_name: str, recipe: Recipe, folder: Path) -> SimpleNamespace:
    """A tiny member of a family, quantized, and a call of it."""
    family = FAMILIES[family_name]
    family = dataclasses.replace(family, config=family.config | SHORT.get(family_name, {}))
    denoiser = loading.load(str(family.save(folder / "transformer"))).denoiser
    calls = [cast(family.call(denoiser, seed, timestep=t)) for seed, t in ((0, 900.0), (20, 100.0))]
    run = [lambda call=call: call.run(denoiser) for call in calls]
    made = quantize(denoiser, recipe, calibrate(denoiser, run), run, [])
    text = Text(family.tokens, family.masked) if "text" in denoiser.prompt_shapes(1) else Text(0)
    call = last(cast(family.call(made, seed=40)))
    return SimpleNamespace(denoiser=made, call=call, saved=Checkpoint(family_name, recipe, made, text, None))


@torch.no_grad()
def simulated(denoiser: nn.Module, call: Inputs) -> list[torch.Tensor]:
    """The conditioning and the prediction of a call, in PyTorch."""
    conditioning = denoiser.prepare(**call.prompt)
    return [*conditioning, denoiser.denoise(call.latents, call.timestep, conditioning)]


def functions_of(folder: Path, entry: dict, precision: str = "declared") -> dict[str, Simulation]:
    """A component's methods as `package.write` left them in a folder, with its account."""
    methods = entry["methods"].items()
    return {name: load(folder / method["package"], precision)[method["function"]] for name, method in methods}


def predicted(functions: dict[str, Simulation], call: Inputs) -> list[torch.Tensor]:
    """The same by a denoiser's packages."""
    prepare, denoise = functions["prepare"], functions["denoise"]
    prepared = prepare({name: call.prompt[name] for name in prepare.inputs})
    given = {"latents": call.latents, "timestep": call.timestep, **prepared}
    conditioning = [prepared[f"conditioning_{i}"] for i in range(len(prepared))]
    return [*conditioning, denoise({name: given[name] for name in denoise.inputs})["prediction"]]
