"""Exported programs to Core ML programs: names, deployment target, precision, and converters that keep every argument.

coremltools reads a gelu's `approximate` only where it is positional; torch.export gives it by keyword, and the exact
gelu would come out without a word. `converters` mends that while a program is converted, and every keyword that no
converter would read is refused.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.frontend.torch.ops import NUM_TO_NUMPY_DTYPE, _get_inputs, noop
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.mil import Operation
from coremltools.models import MLModel
from torch.export import ExportedProgram

from edge_hadanorm.exporters.coreml.lowering import NIBBLE

PRECISIONS = ("fp16", "fp32")
# By torch's name; what a converter of coremltools cannot do is done by one of these.
GELU_MODES = {"none": None, "tanh": "TANH_APPROXIMATION"}
# Keywords that say where a tensor lies or what its shape will be, and nothing of what it holds.
HINTS = {"device", "layout", "memory_format", "pin_memory", "non_blocking", "output_size"}
# Passes that fail on our programs: fuse_linear_bias on a scalar that is added to a linear.
SKIPPED_PASSES = ("common::fuse_linear_bias",)


def needed_target(program: ExportedProgram) -> ct.target:
    """The least system that has operators for a program's weights: 4 bits and groups came with iOS 18."""
    operators = (
        torch.ops.torchao.dequantize_affine.default,
        torch.ops.quantized_decomposed.dequantize_per_channel.default,
    )
    for node in program.graph.nodes:
        if node.target is operators[0] or (node.target is operators[1] and tuple(node.args[4:6]) == NIBBLE):
            return ct.target.iOS18
    return ct.target.iOS17


def convert(
    program: ExportedProgram, inputs: list[str], outputs: list[str], precision: str, target: ct.target
) -> MLModel:
    """A model with one function, whose features have these names; floats among them are float32.

    precision: a key of SELECTORS. target: the least system that it is for, see `needed_target`.
    """
    model = convert_program(decompose(program), outputs, precision, target)
    spec = model.get_spec()
    for feature, name in zip([feature.name for feature in spec.description.input], inputs, strict=True):
        if feature != name:
            ct.utils.rename_feature(spec, feature, name, rename_outputs=False)
    return MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def decompose(program: ExportedProgram) -> ExportedProgram:
    """The program with the operators that no converter knows taken apart, and those alone."""
    program, rules = program.run_decompositions({}), torch.export.default_decompositions()
    with converters():
        called = {node.target for node in program.graph.nodes if node.op == "call_function"}
        unknown = [target for target in called if target in rules and _converter(target) is None]
    table = {target: rules[target] for target in unknown}
    return program.run_decompositions(table) if table else program


def convert_program(program: ExportedProgram, outputs: list[str], precision: str, target: ct.target) -> MLModel:
    """A program, as its operators are, as a model with outputs of these names."""
    with converters():
        check_keywords(program)
        return ct.convert(
            program,
            outputs=[ct.TensorType(name=name, dtype=_dtype(value)) for name, value in _results(program, outputs)],
            minimum_deployment_target=target,
            compute_precision=compute_precision(precision),
            pass_pipeline=pipeline(),
            skip_model_load=True,
        )


def pipeline() -> ct.PassPipeline:
    made = ct.PassPipeline()
    made.remove_passes(SKIPPED_PASSES)
    return made


def compute_precision(precision: str) -> object:
    """The setting of coremltools for a precision."""
    selector = SELECTORS[precision]
    return ct.transform.FP16ComputePrecision(selector) if selector else ct.precision.FLOAT32


def _results(program: ExportedProgram, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    yield from zip(names, (values[name] for name in program.graph_signature.user_outputs), strict=True)


def _dtype(value: torch.Tensor) -> type:
    return np.float32 if value.is_floating_point() else np.int32


# Arguments by keyword.


@contextlib.contextmanager
def converters() -> Iterator[None]:
    """Converters that read every argument, while inside; others in the process get coremltools' own back."""
    known = _TORCH_OPS_REGISTRY.name_to_func_mapping
    before = dict(known)
    known |= MENDED
    try:
        yield
    finally:
        known.clear()
        known |= before


def _gelu(context, node) -> None:
    keywords = node.kwinputs or {}
    (x, *mode) = _get_inputs(context, node, expected=(1, 2))
    approximate = mode[0].val if mode else keywords.get("approximate", ("none",))[0]
    context.add(mb.gelu(x=x, mode=GELU_MODES[approximate], name=node.name))


def _scalar_tensor(context, node) -> None:
    (value,) = _get_inputs(context, node, expected=1)
    (number,) = (node.kwinputs or {}).get("dtype", (None,))
    dtype = NUM_TO_NUMPY_DTYPE[number] if number is not None else np.float32
    context.add(mb.const(val=dtype(value.val), name=node.name))


MENDED: dict[str, Callable] = {"alias": noop, "gelu": _gelu, "scalar_tensor": _scalar_tensor}


def check_keywords(program: ExportedProgram) -> None:
    """Raises ValueError where a converter would lose an argument that is given by keyword, and is not its default."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not node.kwargs:
            continue
        converter = _converter(node.target)
        defaults = {argument.name: argument.default_value for argument in node.target._schema.arguments}
        for keyword, value in node.kwargs.items():
            if keyword in HINTS or value == defaults[keyword]:
                continue
            if converter is None or f'"{keyword}"' not in inspect.getsource(converter):
                raise ValueError(f"coremltools would lose {keyword}={value!r} of the operator {node.target}")


def _converter(target: torch._ops.OpOverload) -> Callable | None:
    """The converter of an operator, None where there is none."""
    return _TORCH_OPS_REGISTRY.get_func(target.name() if hasattr(target, "name") else target.__name__)


# Islands of float32 in float16.

SINES = frozenset({"mul", "add", "reshape", "expand_dims", "cast"})
SQUARES = frozenset({"mul", "add", "reduce_mean"})
SUMS = frozenset({"matmul", "add", "reshape"})


def on_island(op: Operation) -> bool:
    """Tell whether an operator is computed in float32 also in a program of float16.

    A timestep of 999.5 and its angles have no float16 nearby; an RMS norm's squares overflow from 256 on; the sums of
    linear attention, which it divides at last, grow with the tokens.
    """
    return _leads_to(op, _is_sine, SINES) or _leads_to(op, _is_rsqrt, SQUARES) or _leads_to(op, _divides_by_a_sum, SUMS)


def _leads_to(op: Operation, is_end: Callable[[Operation], bool], between: frozenset[str]) -> bool:
    """Tell whether an operator is an end, or feeds one through operators of the types between alone."""
    if is_end(op):
        return True
    return op.op_type in between and any(
        _leads_to(child, is_end, between) for output in op.outputs for child in output.child_ops
    )


def _is_sine(op: Operation) -> bool:
    return op.op_type in ("sin", "cos")


def _is_rsqrt(op: Operation) -> bool:
    return op.op_type == "rsqrt"


def _divides_by_a_sum(op: Operation) -> bool:
    if op.op_type != "real_div":
        return False
    divisor = op.y.op
    while divisor is not None and divisor.op_type in SUMS - {"matmul"}:
        divisor = divisor.x.op
    return divisor is not None and divisor.op_type == "matmul"


# What of a program is float16: nothing; tables that are looked up; all that is on no island.
SELECTORS: dict[str, Callable[[Operation], bool] | None] = {
    "fp32": None,
    "tables": lambda op: op.op_type == "gather",
    "fp16": lambda op: not on_island(op),
}
