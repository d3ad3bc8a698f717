"""Audit of a converted program: the package as it was written is read again and compared with what was asked for.

What is asked of a program is in the exported graph that it was converted from, and in the modules that graph is of.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.converters.mil.mil import Function, Operation, Var
from torch import nn
from torch.export import ExportedProgram

from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.coreml.conversion import GELU_MODES, on_island
from edge_hadanorm.exporters.coreml.lowering import emulated
from edge_hadanorm.method.grids import Grid
from edge_hadanorm.method.linear import DEVICE_BITS, QuantizedLinear

WEIGHTS = "Data/com.apple.CoreML/weights"
# Operators that hold compressed constants, with the argument that has the codes.
CODED = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}
PRODUCTS = ("linear", "matmul")
# Of a scale, by its rounding to float16.
SCALE_ERROR = 2.0**-10


class AuditError(UserError):
    """A converted program is not what was asked for."""


@dataclass(frozen=True)
class Weight:
    """Requirements of one linear: its codes int8 [m, d] and scales [m, groups], and the grid of its input.

    bits, scale, zero_point: of a static grid; bits None: of none. emulated: quantized by float operators.
    """

    name: str
    codes: np.ndarray
    weight_scale: np.ndarray
    bits: int | None = None
    scale: float = 1.0
    zero_point: int = 0
    emulated: bool = False

    @property
    def key(self) -> tuple:
        return self.codes.shape, self.codes.astype(np.int8).tobytes()


@dataclass(frozen=True)
class Requirements:
    """A program as it was to be.

    weights: of the coded linears. gelus: how many of each mode. half: whether floats are float16.
    """

    weights: list[Weight]
    gelus: Counter
    half: bool


def functions(package: Path) -> dict[str, Function]:
    """The functions of a package by name, as they were written."""
    spec = ct.utils.load_spec(str(package))
    program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=str(package / WEIGHTS))
    return dict(program.functions)


def requirements(model: nn.Module, program: ExportedProgram, half: bool) -> Requirements:
    """Requirements of a program that was exported from a model, whose linears may be as they were before."""
    buffers, weights, gelus = program.graph_signature.inputs_to_buffers, [], Counter[str]()
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.gelu.default:
            gelus[GELU_MODES[node.kwargs.get("approximate", "none")] or "EXACT"] += 1
        if node.op == "placeholder" and node.users and buffers.get(node.name, "").endswith(".codes"):
            weights.append(_weight(model, buffers[node.name].removesuffix(".codes"), program))
    return Requirements(weights, gelus, half)


def _weight(model: nn.Module, path: str, program: ExportedProgram) -> Weight:
    """The weight with the codes at a path, whose owner is a linear of the checkpoint or one in 8 bits."""
    tensors, lowering = program.state_dict, ".lowering.stored"
    name = path.removesuffix(lowering)
    if not path.endswith(lowering):
        scale = tensors[f"{path}.scale"].numpy()
        return Weight(path.removesuffix(".stored"), tensors[f"{path}.codes"].numpy(), scale.reshape(len(scale), -1))
    linear = cast(QuantizedLinear, model.get_submodule(name))
    codes, scale = cast(torch.Tensor, linear.codes).numpy(), cast(torch.Tensor, linear.weight_scale).numpy()
    bits, step, zero_point = linear.recipe.activation_bits, linear.activation_scale, linear.activation_zero_point
    if step is None or zero_point is None or bits > DEVICE_BITS:
        return Weight(name, codes, scale, emulated=emulated(linear.recipe))
    return Weight(name, codes, scale, bits, step.item(), int(zero_point))


def audit(function: Function, wanted: Requirements) -> None:
    """Raises AuditError with everything that is not as asked."""
    complaints = [complaint for check in CHECKS for complaint in check(function, wanted)]
    if complaints:
        more = f" (and {len(complaints) - 3} more)" if len(complaints) > 3 else ""
        raise AuditError(
            f"the Core ML program is not what was asked for: {'; '.join(complaints[:3])}{more}; convert with "
            "coremltools 9.0 and `precision` fp32, or report this"
        )


def account(function: Function) -> dict:
    """Count what runs how; see `inspection.py`. coded_linears: with integer weights alone; operators: by type."""
    operators = Counter(op.op_type for op in function.operations if op.op_type != "const")
    linears = Counter(_kind(op) for op in function.operations if op.op_type == "linear")
    return {
        "delegates": 1,
        "integer_linears": linears["integer"],
        "coded_linears": linears["coded"],
        "float_linears": linears["float"],
        "outside": {},
        "operators": dict(operators.most_common()),
    }


def _kind(op: Operation) -> str:
    if not _is_a(op.weight.op, *CODED):
        return "float"
    return "integer" if _is_a(op.x.op, "dequantize") else "coded"


# The checks: each yields what is not as asked.


def check_gelus(function: Function, wanted: Requirements) -> Iterator[str]:
    found = Counter(op.mode.val if op.mode else "EXACT" for op in _of_type(function, "gelu"))
    if found != wanted.gelus:
        yield f"its gelus are {dict(found)}, not {dict(wanted.gelus)}"


def check_codes(function: Function, wanted: Requirements) -> Iterator[str]:
    """Every weight that was asked for is there as its codes."""
    found = {_key(op) for op in _of_type(function, *CODED)}
    for weight in wanted.weights:
        if weight.key not in found:
            yield f"the weight of {weight.name} is not there as its codes"


def check_nothing_else_is_compressed(function: Function, wanted: Requirements) -> Iterator[str]:
    """Rotations, embeddings, tables stay as they are."""
    keys = {weight.key for weight in wanted.weights}
    for op in function.operations:
        if op.op_type.startswith("constexpr_") and (op.op_type not in CODED or _key(op) not in keys):
            yield f"{op.name} {list(op.outputs[0].shape)} is compressed, which nobody asked for"


def check_weight_scales(function: Function, wanted: Requirements) -> Iterator[str]:
    found = {_key(op): np.asarray(op.scale.val, np.float64) for op in _of_type(function, *CODED)}
    for weight in wanted.weights:
        scale = found.get(weight.key)
        if scale is not None and not _close(scale.reshape(weight.weight_scale.shape), weight.weight_scale):
            yield f"the weight scales of {weight.name} are not the checkpoint's"


def check_operands(function: Function, wanted: Requirements) -> Iterator[str]:
    """A coded weight is multiplied, and on a static grid with what is on its grid."""
    weights = {weight.key: weight for weight in wanted.weights}
    for op in _of_type(function, *CODED):
        if (weight := weights.get(_key(op))) is None:
            continue
        products = op.outputs[0].child_ops
        if not products or any(product.op_type not in PRODUCTS for product in products):
            yield f"the weight of {weight.name} is not multiplied as it is"
            continue
        for product in products:
            if weight.bits is not None and (reason := _off_grid(product.x, weight)):
                yield f"the input of {weight.name} {reason}"
            if weight.emulated and not _rounded(product.x):
                yield f"the input of {weight.name} is not rounded"


def _off_grid(x: Var, weight: Weight) -> str | None:
    """Why a value is not what int8 codes on the linear's own grid stand for."""
    back = x.op
    if not _is_a(back, "dequantize") or not _is_a(back.input.op, "quantize"):
        return "is not quantized"
    for op in (back, back.input.op):
        zero_point = 0 if op.zero_point is None else int(op.zero_point.val)
        if not _close(op.scale.val, weight.scale) or zero_point != weight.zero_point:
            return "is quantized on another grid"
    if weight.bits is None or weight.bits == DEVICE_BITS:
        return None
    grid, clip = Grid(weight.bits, symmetric=False), back.input.op.input.op
    if not _is_a(clip, "clip"):
        return f"is not clipped to its {weight.bits} bits"
    ends = [(end - weight.zero_point) * weight.scale for end in (grid.qmin, grid.qmax)]
    far = max(abs(clip.alpha.val - ends[0]), abs(clip.beta.val - ends[1]))
    return f"is not clipped to its {weight.bits} bits" if far > weight.scale / 4 else None


def _rounded(x: Var) -> bool:
    """Tell whether a value is (clamp(round(..) + zero point) - zero point) scale."""
    op = x.op
    for operator in ("mul", "sub", "clip", "add"):
        if not _is_a(op, operator):
            return False
        op = op.x.op
    return _is_a(op, "round")


def check_islands(function: Function, wanted: Requirements) -> Iterator[str]:
    """Operators that float16 would spoil are computed in float32."""
    for op in function.operations:
        if on_island(op) and op.outputs[0].dtype is ct.converters.mil.mil.types.fp16:
            yield f"{op.name} ({op.op_type}) is computed in float16"


def check_precision(function: Function, wanted: Requirements) -> Iterator[str]:
    """Products are of the precision that was asked for, outside islands."""
    types = ct.converters.mil.mil.types
    expected = types.fp16 if wanted.half else types.fp32
    for op in _of_type(function, *PRODUCTS):
        if op.outputs[0].dtype is not expected and not on_island(op):
            yield f"{op.name} ({op.op_type}) is not computed in {types.builtin_to_string(expected)}"


Check = Callable[[Function, Requirements], Iterator[str]]
CHECKS: tuple[Check, ...] = (
    check_gelus,
    check_codes,
    check_nothing_else_is_compressed,
    check_weight_scales,
    check_operands,
    check_islands,
    check_precision,
)


def _of_type(function: Function, *types: str) -> list[Operation]:
    return [op for op in function.operations if op.op_type in types]


def _is_a(op: Operation | None, *types: str) -> bool:
    return op is not None and op.op_type in types


def _key(op: Operation) -> tuple:
    codes = op.inputs[CODED[op.op_type]].val
    return codes.shape, codes.astype(np.int8).tobytes()


def _close(found: Any, expected: Any) -> bool:
    return bool(np.allclose(found, expected, rtol=SCALE_ERROR, atol=0))
