"""A component as one ExecuTorch program whose methods are Core ML delegates: the programs of `package.py` in a .pte.

ExecuTorch converts each method by itself; `converting` lets it do so as our packages are made, with float32 islands,
converters that keep every argument and the deployment target that the weights need.
"""

import contextlib
import functools
import operator
import tempfile
from collections.abc import Iterator
from pathlib import Path

import coremltools as ct
from coremltools.converters.mil import mil
from coremltools.models import MLModel
from executorch.backends.apple.coreml.compiler import CoreMLBackend
from executorch.backends.apple.coreml.compiler.coreml_preprocess import MULTIMETHOD_WEIGHT_SHARING_STRATEGY
from executorch.backends.apple.coreml.partition import CoreMLPartitioner
from executorch.exir import EdgeProgramManager, to_edge_transform_and_lower
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.delegate import executorch_call_delegate
from torch.export import ExportedProgram

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.runner import BundleRunner
from edge_hadanorm.exporters.component import Component
from edge_hadanorm.exporters.coreml import package
from edge_hadanorm.exporters.coreml.audit import AuditError, account, audit, functions, requirements
from edge_hadanorm.exporters.coreml.conversion import convert_program, converters
from edge_hadanorm.exporters.coreml.simulation.interpreter import Function
from edge_hadanorm.exporters.coreml.simulation.pte import PACKAGE, Delegate, delegate_data, folder_files, load_delegates
from edge_hadanorm.exporters.coreml.simulation.runner import runner as simulated
from edge_hadanorm.exporters.delegation import delegation

check, notes = package.check, package.notes


def write(folder: Path, component: Component, precision: str | None) -> dict:
    """Write ROLE.pte, audited; returns its entry in the manifest. Raises AuditError where parts are not delegated."""
    programs = package.export_methods(component)
    precision, target = package.precision_of(component, precision), package.target_of(programs)
    with converting(precision, target):
        edge = to_edge_transform_and_lower(programs, partitioner={name: [partitioner(target)] for name in programs})
    for name in programs:
        found = delegation(edge.exported_program(name))
        if found["delegates"] != 1 or found["outside"]:
            raise AuditError(f"{component.role}.{name} is not one Core ML delegate: {found}; take `target` coreml")
    file = folder / f"{component.role}.pte"
    file.write_bytes(edge.to_executorch().buffer)
    delegates, written = {delegate.method: delegate for delegate in load_delegates(file)}, written_functions(file)
    methods = {}
    for name, method in component.methods.items():
        audit(written[name], requirements(method.module, programs[name], precision == "fp16"))
        names = features(edge, name, delegates[name])
        methods[name] = package.manifest_signature(method, *names) | {"delegation": account(written[name])}
    return {"file": file.name, "methods": methods, **package.program_form(precision, target)}


def partitioner(target: ct.target) -> CoreMLPartitioner:
    """A partitioner that makes a package, which devices compile, of a whole method; each has weights of its own."""
    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=target, model_type=CoreMLBackend.MODEL_TYPE.MODEL
    )
    apart = MULTIMETHOD_WEIGHT_SHARING_STRATEGY.DISABLED
    specs.append(CoreMLBackend.generate_multimethod_weight_sharing_strategy_compile_spec(apart))
    return CoreMLPartitioner(compile_specs=specs)


@contextlib.contextmanager
def converting(precision: str, target: ct.target) -> Iterator[None]:
    """Let ExecuTorch convert as `conversion.py` does, while inside: it has no settings for most of that."""
    own = CoreMLBackend.__dict__["_convert_to_mlmodel"]

    def convert(program: ExportedProgram, specs: list, skip_model_load: bool = True) -> MLModel:
        return convert_program(program, list(program.graph_signature.user_outputs), precision, target)

    CoreMLBackend._convert_to_mlmodel = staticmethod(convert)
    try:
        with converters():  # also for the partitioner, which asks what can be converted
            yield
    finally:
        CoreMLBackend._convert_to_mlmodel = own


def written_functions(file: Path) -> dict[str, mil.Function]:
    """The function in the package of each method's delegate, by method."""
    made = {}
    for method, data in delegate_data(deserialize_pte_binary(file.read_bytes())):
        with tempfile.TemporaryDirectory() as name:
            for path, content in folder_files(data).items():
                (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(name) / path).write_bytes(content)
            made[method] = functions(Path(name) / PACKAGE)[package.MAIN]
    return made


def features(edge: EdgeProgramManager, method: str, delegate: Delegate) -> tuple[list[str], list[str]]:
    """Names in the delegate of a method's inputs and outputs, which it has in an order of its own.

    What does not pass through it has the name that it has in the method.
    """
    program = edge.exported_program(method)
    (call,) = (node for node in program.graph.nodes if node.target is executorch_call_delegate)
    names = {node.name: name for node, name in zip(call.args[1:], delegate.inputs, strict=True)}
    for node in call.users:
        if node.target is operator.getitem:
            names[node.name] = delegate.outputs[node.args[1]]
    outputs = [node.name for node in program.graph.output_node().args[0]]
    own = program.graph_signature.user_inputs, outputs
    inputs, results = ([names.get(name, name) for name in part] for part in own)
    return inputs, results


def runner(bundle: Bundle) -> BundleRunner:
    """The delegates of a bundle's programs, simulated; each program is read once."""
    read = functools.cache(lambda file: {delegate.method: delegate.function for delegate in load_delegates(file)})

    def function(role: str, method: str) -> Function:
        return read(bundle.file(role))[method]

    return simulated(bundle, function)
