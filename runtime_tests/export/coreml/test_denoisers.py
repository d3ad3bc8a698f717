"""export/coreml/: packages of quantized denoisers hold the checkpoint's codes and compute what is simulated.

An activation at the edge of a code falls to either side of it by its last bit, and a coarse grid makes much of that. So
programs and simulation are compared where no code moves as well: in float64, and in float16 at given codes.
"""

import copy
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import types

from edge_hadanorm.exporters.component import denoiser_component
from edge_hadanorm.exporters.coreml import package
from edge_hadanorm.exporters.coreml.audit import functions
from edge_hadanorm.exporters.coreml.simulation import codes
from edge_hadanorm.exporters.coreml.simulation.interpreter import Function
from edge_hadanorm.method import grids, linear
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import named
from edge_hadanorm.quantization import quantize as quantization
from runtime_tests.support.families import FAMILIES
from runtime_tests.support.helpers import relative_error
from runtime_tests.support.mil_programs import cast, functions_of, predicted, quantized, simulated

FP32, FP16, FP16_AT_CODES = 1e-5, 1e-2, 2e-3
# What is left in float64: nothing, and by token the 1 / 255 in float32 that coremltools multiplies by, not dividing.
EXACT = {"tensor": 1e-9, "token": 1e-6}
SPECIFICATION = {"iOS17": 8, "iOS18": 9}
CONSTEXPR = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}

# (family, recipe, precision, least system): every family, and every kind of transform, branch and grid.
PROGRAMS = [
    ("pixart", "hadanorm-w4a4-static", "fp32", "iOS18"),
    ("dit", "rtn-w8a8", "fp32", "iOS17"),
    ("dit", "svdquant-r16-w4a8-static", "fp32", "iOS18"),
    ("auraflow", "hadanorm-folded-w4a8-static", "fp32", "iOS18"),
    ("sd3", "hadanorm-w3a6-static", "fp32", "iOS18"),
    ("sd3.5", "smoothquant-w8a8-static", "fp32", "iOS17"),
    ("flux", "quarot-w4a4-static", "fp32", "iOS18"),
    ("sana", "vidit-q-w2a4-static", "fp32", "iOS18"),
    ("sana_sprint", "hadanorm-balanced-w4a8-g32-static", "fp32", "iOS18"),
    ("pixart", "hadanorm-balanced-w8a8-static", "fp16", "iOS17"),
    ("pixart", "hadanorm-w4a4-static", "fp16", "iOS18"),
    ("dit", "hadanorm-w3a6-static", "fp16", "iOS18"),
    ("sana", "hadanorm-folded-w8a8-static", "fp16", "iOS17"),
    ("flux", "hadanorm-w4a16-g32", "fp16", "iOS18"),
]
# Of a tiny member: two a block and stream, and one at the end. SD3's last block has one of the text, FLUX's single one
# has one, and AuraFlow has none at the end.
LAYER_NORMS = {
    "pixart": 3,
    "dit": 3,
    "auraflow": 6,
    "sd3": 8,
    "sd3.5": 8,
    "flux": 6,
    "sana": 3,
    "sana_sprint": 3,
}
SINGLE, HALF = ([given for given in PROGRAMS if given[2] == precision] for precision in ("fp32", "fp16"))


@pytest.fixture(scope="module")
def make(tmp_path_factory) -> Callable[..., SimpleNamespace]:
    """make(one of PROGRAMS): a denoiser's packages as `write` leaves them; once each."""

    @functools.cache
    def make(family: str, recipe: str, precision: str, target: str) -> SimpleNamespace:
        folder = tmp_path_factory.mktemp("coreml")
        made = quantized(family, named(recipe), folder)
        made.entry = package.write(folder, denoiser_component(made.saved), precision)
        made.family, made.folder, made.precision = family, folder, precision
        made.target, made.recipe = target, named(recipe)
        made.functions = {
            name: functions(folder / method["package"])[method["function"]]
            for name, method in made.entry["methods"].items()
        }
        return made

    return make


@pytest.fixture(params=PROGRAMS, ids="-".join)
def program(request, make) -> SimpleNamespace:
    return make(*request.param)


def of(programs: list[tuple]) -> pytest.MarkDecorator:
    """For a test of some of PROGRAMS."""
    return pytest.mark.parametrize("program", programs, indirect=True, ids="-".join)


def operators(program) -> list:
    return [op for function in program.functions.values() for op in function.operations]


def test_every_family_has_a_program_of_float32():
    assert {family for family, *_ in SINGLE} == set(FAMILIES)


def check(program: SimpleNamespace, functions: dict[str, Function], dtype: torch.dtype, error: float) -> None:
    """The functions make of the call what PyTorch does in this dtype, grids included."""
    call = cast(program.call, dtype)
    expected, found = simulated(copy.deepcopy(program.denoiser).to(dtype), call), predicted(functions, call)
    assert found[-1].dtype == dtype
    for actual, exact in zip(found, expected, strict=True):
        assert relative_error(actual, exact) < error


@of(SINGLE)
def test_a_program_of_float32_computes_what_is_simulated(program):
    check(program, functions_of(program.folder, program.entry), torch.float32, FP32)


@of(SINGLE)
def test_beyond_rounding_a_program_is_what_is_simulated(program):
    own = functions_of(program.folder, program.entry, "float64")
    check(program, own, torch.float64, EXACT[program.recipe.activations])


@of([given for given in HALF if named(given[1]).activation_bits >= 8])
def test_a_program_of_float16_computes_what_is_simulated(program):
    """On a grid of 8 bits; on a coarser one, codes that rounding moves come to more."""
    check(program, functions_of(program.folder, program.entry), torch.float32, FP16)


@of(HALF)
def test_at_given_codes_a_program_of_float16_computes_what_is_simulated(program, monkeypatch):
    """On any grid as nearly as without one."""
    recorded = recorded_codes(program, monkeypatch)
    own = functions_of(program.folder, program.entry)
    of_prepare = sum(step.function is codes.quantize for step in own["prepare"].steps)
    given = {"prepare": recorded[:of_prepare], "denoise": recorded[of_prepare:]}
    own = {name: at_codes(function, given[name]) for name, function in own.items()}
    check(program, own, torch.float32, FP16_AT_CODES)


def recorded_codes(program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Those of the simulation's activations, in order."""
    recorded, fake_quantize = [], linear.fake_quantize

    def recording(x, scale, zero_point, bits):
        grid = grids.Grid(bits, symmetric=False)
        recorded.append(grids.quantize(x, scale, zero_point, grid).to(torch.int8))
        return fake_quantize(x, scale, zero_point, bits)

    with monkeypatch.context() as patched:
        patched.setattr(linear, "fake_quantize", recording)
        simulated(program.denoiser, program.call)
    return recorded


def at_codes(function: Function, given: list[torch.Tensor]) -> Function:
    """The function with these codes as the results of its quantize operators, in their order."""
    left = [*given]
    steps = [
        dataclasses.replace(step, function=lambda **_: left.pop(0)) if step.function is codes.quantize else step
        for step in function.steps
    ]
    assert len(given) == sum(step.function is codes.quantize for step in function.steps)
    return dataclasses.replace(function, steps=steps)


def test_codes_are_the_checkpoints_and_nothing_else_is_compressed(program):
    found = Counter(
        op.inputs[CONSTEXPR[op.op_type]].val.astype(np.int8).tobytes()
        for op in operators(program)
        if op.op_type.startswith("constexpr_")
    )
    linears = [m for m in program.denoiser.modules() if isinstance(m, QuantizedLinear)]
    assert found == Counter(linear.codes.numpy().tobytes() for linear in linears)


def test_four_bits_are_stored_as_such(program):
    kinds = {op.inputs[CONSTEXPR[op.op_type]].dtype for op in operators(program) if op.op_type in CONSTEXPR}
    assert kinds == {types.int4 if program.recipe.weight_bits <= 4 else types.int8}


def test_the_least_system_is_what_the_weights_need(program):
    for method in program.entry["methods"].values():
        spec = ct.utils.load_spec(str(program.folder / method["package"]))
        assert spec.specificationVersion == SPECIFICATION[program.target]
    assert program.entry["minimum_deployment_target"] == program.target
    packages = {method["package"] for method in program.entry["methods"].values()}
    assert len(packages) == (1 if program.target == "iOS18" else 2)


def test_the_account_counts_linears(program):
    linears = [m for m in program.denoiser.modules() if isinstance(m, QuantizedLinear)]
    counts = Counter()
    for method in program.entry["methods"].values():
        counts.update({key: n for key, n in method["delegation"].items() if key.endswith("_linears")})
    static = program.recipe.activations == "tensor"
    assert counts["integer_linears" if static else "coded_linears"] == len(linears)
    assert counts["coded_linears" if static else "integer_linears"] == 0
    found = Counter(op.op_type for op in operators(program))
    assert found["quantize"] == found["dequantize"] == (len(linears) if static else 0)
    assert found["layer_norm"] == LAYER_NORMS[program.family]


def test_sines_are_on_an_island(program):
    sines = [op for op in operators(program) if op.op_type in ("sin", "cos", "rsqrt")]
    assert {"sin", "cos"} <= {op.op_type for op in sines}
    assert {op.outputs[0].dtype for op in sines} == {types.fp32}
    products = {op.outputs[0].dtype for op in operators(program) if op.op_type == "linear"}
    assert products == {types.fp16 if program.precision == "fp16" else types.fp32}


def test_features_are_the_manifests_names_without_dots(program):
    for name, method in program.entry["methods"].items():
        description = ct.utils.load_spec(str(program.folder / method["package"])).description
        if len(description.functions):
            (description,) = (function for function in description.functions if function.name == method["function"])
        for way, own in (("inputs", description.input), ("outputs", description.output)):
            assert {tensor["feature"] for tensor in method[way]} == {feature.name for feature in own}, name
            shapes = {feature.name: list(feature.type.multiArrayType.shape) for feature in own}
            for tensor in method[way]:
                assert tensor["feature"] == tensor["name"].replace(".", "_")
                assert tensor["shape"] == shapes[tensor["feature"]]


def test_large_linears_outside_the_recipe_have_8_bits_and_float_inputs(tmp_path, monkeypatch):
    """Beside static activations, in a package of 4-bit weights."""
    monkeypatch.setattr(quantization, "LARGE", 4096)
    made = quantized("dit", named("hadanorm-folded-w4a8-static"), tmp_path)
    names = {name for name, module in made.denoiser.named_modules() if isinstance(module, QuantizedLinear)}
    rest = names - set(made.denoiser.quantizable())
    assert rest
    assert {made.denoiser.get_submodule(name).recipe.name for name in rest} == {"rest-w8a16"}
    entry = package.write(tmp_path, denoiser_component(made.saved), "fp32")
    accounts = [method["delegation"] for method in entry["methods"].values()]
    assert sum(account["coded_linears"] for account in accounts) == len(rest)
    assert sum(account["integer_linears"] for account in accounts) == len(names - rest)
    *_, found = predicted(functions_of(tmp_path, entry), made.call)
    assert relative_error(found, made.call.run(made.denoiser)) < FP32
