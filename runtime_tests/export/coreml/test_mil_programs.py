"""Whole Core ML programs, simulated: what PyTorch computes, of every family and of what stands around it."""

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path

import coremltools as ct
import diffusers
import numpy as np
import pytest
import torch
import transformers
from coremltools.converters.mil.frontend.milproto import load as milproto
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function as MilFunction
from coremltools.converters.mil.mil import get_new_symbol, types
from executorch.backends.apple.coreml.compiler.coreml_preprocess import CoreMLBackend
from executorch.backends.apple.coreml.partition.coreml_partitioner import CoreMLPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.exporters.component import Denoise, Prepare
from edge_hadanorm.exporters.coreml.simulation.interpreter import Function, load
from edge_hadanorm.exporters.coreml.simulation.pte import load_delegates
from edge_hadanorm.exporters.coreml.simulation.reader import Package
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.autoencoder import ImageDecoder
from edge_hadanorm.pipelines.text_encoders import CLIP, T5, TextEncoder
from runtime_tests.support.families import FAMILIES
from runtime_tests.support.helpers import randn, relative_error
from runtime_tests.support.mil_programs import SHORT, converted, package, traced

# Target, precision, and the error of a program that is of them to PyTorch's float32.
FORMS = (("iOS17", "fp32", 1e-5), ("iOS18", "fp16", 1e-2))


def single(*shape: int, seed: int = 0) -> torch.Tensor:
    return randn(*shape, seed=seed, dtype=torch.float32)


def check(
    module: nn.Module, inputs: dict[str, torch.Tensor], arguments: tuple, folder: Path, forms=FORMS
) -> dict[str, set[str]]:
    """The module's programs give what it gives of the arguments, which are these inputs.

    The kinds of operators of each program, by target.
    """
    with torch.no_grad():
        expected = module(*arguments)
    expected = [expected] if isinstance(expected, torch.Tensor) else expected
    program, kinds = traced(module, arguments), {}
    for target, precision, error in forms:
        path = converted(program, folder / f"{target}-{precision}.mlpackage", target, precision)
        function = load(path)["main"]
        found = list(function({name: inputs[name] for name in function.inputs}).values())
        assert len(found) == len(expected)
        for actual, exact in zip(found, expected, strict=True):
            assert (actual.float() - exact).norm() <= error * exact.norm(), (target, precision)
        kinds[target] = operator_kinds(path)
    return kinds


def operator_kinds(package: Path) -> set[str]:
    (block,) = Package(package).functions["main"].block_specializations.values()
    return {operation.type for operation in block.operations}


class Step(nn.Module):
    """A prediction of all that a denoiser is given; a package of its own for each would be converted half as fast."""

    def __init__(self, denoiser: nn.Module, names: Iterable[str]):
        super().__init__()
        self.prepare, self.denoise = Prepare(denoiser, names), Denoise(denoiser)

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, *prompt: torch.Tensor) -> list[torch.Tensor]:
        conditioning = self.prepare(*prompt)
        return [self.denoise(latents, timestep, conditioning), *conditioning]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_denoiser(name, tmp_path):
    """Its prediction, and its conditioning of a prompt; those of float32 are in test_coreml_exact.py."""
    family = FAMILIES[name]
    family = dataclasses.replace(family, config=family.config | SHORT.get(name, {}))
    denoiser = loading.load(str(family.save(tmp_path / "transformer"))).denoiser.float()
    call = family.call(denoiser, batch=1)
    prompt = [tensor.float() for tensor in call.prompt.values()]
    arguments = (call.latents.float(), call.timestep.float(), *prompt)
    names = ("latents", "timestep", *(f"prompt_{i}" for i in range(len(prompt))))
    check(Step(denoiser, call.prompt), dict(zip(names, arguments, strict=True)), arguments, tmp_path, FORMS[1:])


def test_an_image_decoder(tmp_path):
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    autoencoder = diffusers.AutoencoderKL(block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4, **blocks)
    latents = single(1, 4, 4, 4)
    check(ImageDecoder(autoencoder.eval()), {"latents": latents}, (latents,), tmp_path)


SMALL = dict(vocab_size=32, num_hidden_layers=1, num_attention_heads=2)
ENCODERS = {
    "t5": lambda: TextEncoder(
        transformers.T5EncoderModel(transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1)), T5
    ),
    "clip": lambda: TextEncoder(
        transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                hidden_size=16, intermediate_size=32, projection_dim=8, max_position_embeddings=8, eos_token_id=2,
                **SMALL,
            )
        ),
        CLIP,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_a_text_encoder(name, tmp_path):
    torch.manual_seed(0)
    ids = torch.tensor([[5, 7, 31, 3, 2, 0, 0, 0]])
    check(ENCODERS[name]().eval(), {"ids": ids}, (ids,), tmp_path)


class Quantized(nn.Module):
    """With codes on the way, and weights as codes of a group of inputs each."""

    def __init__(self, bits: int, group: int):
        super().__init__()
        self.low, self.high, self.group = -(1 << bits - 1), (1 << bits - 1) - 1, group
        codes = torch.from_numpy(np.random.default_rng(0).integers(self.low, self.high + 1, (24, 32)))
        self.register_buffer("codes", codes.to(torch.int8))
        self.register_buffer("scale", single(24, 32 // group).abs() / 100)
        self.register_buffer("zero_point", torch.zeros(24, 32 // group, dtype=torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ops = torch.ops.quantized_decomposed
        x = ops.quantize_per_tensor(x, 0.03, -4, -128, 127, torch.int8)
        x = ops.dequantize_per_tensor(x, 0.03, -4, -128, 127, torch.int8)
        block = [1, self.group]
        weight = torch.ops.torchao.dequantize_affine(
            self.codes, block, self.scale, self.zero_point, torch.int8, self.low, self.high
        )
        q, k, v = F.linear(x, weight).split(8, dim=-1)
        return F.layer_norm(F.gelu(F.scaled_dot_product_attention(q, k, v), approximate="tanh"), (8,))


@pytest.mark.parametrize(
    ("bits", "group", "forms"),
    [
        (8, 32, [("iOS17", "fp32", 1e-5), ("iOS18", "fp16", 3e-2)]),  # fp16 moves numbers across a code's edge
        (4, 8, [("iOS18", "fp32", 1e-5)]),
    ],
    ids=["w8", "w4-groups"],
)
def test_quantized_weights_and_activations(bits, group, forms, tmp_path):
    x = single(2, 5, 32)
    kinds = check(Quantized(bits, group), {"x": x}, (x,), tmp_path, forms)
    common = {"quantize", "dequantize", "gelu", "layer_norm"}
    own = {
        "iOS17": {"constexpr_affine_dequantize", "softmax"},
        "iOS18": {"constexpr_blockwise_shift_scale", "scaled_dot_product_attention"},
    }
    for target, found in kinds.items():
        assert found >= common | own[target]


def test_constants_are_what_coremltools_reads(tmp_path):
    """With its native reader and its own arithmetic."""
    x = single(2, 5, 32)
    path = converted(traced(Quantized(4, 8), (x,)), tmp_path / "x.mlpackage", "iOS18", "fp16")
    weights = str(path / "Data/com.apple.CoreML/weights")
    program = milproto.load(ct.utils.load_spec(str(path)), ct.target.iOS18, file_weights_dir=weights)
    found = load(path)["main"].constants
    seen = set()
    for operation in program.functions["main"].operations:
        name = operation.outputs[0].name
        if name in found:
            stored = operation.op_type.startswith("constexpr_")
            exact = operation.materialized_val_inference() if stored else operation.outputs[0].val
            assert np.array_equal(found[name].numpy(), exact)
            seen.add(name)
    assert seen == set(found)
    assert any(found[name].shape == (24, 32) for name in seen)


# What a program is loaded and run as.


class Scores(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.linear = nn.Linear(16, width)

    def forward(self, x: torch.Tensor, gain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.softmax(self.linear(x) * gain, dim=-1), x - 1


X, GAIN = single(2, 16), single(2, 8, seed=1)


@pytest.fixture(scope="module")
def scores():
    torch.manual_seed(0)
    return Scores().eval()


@pytest.fixture(scope="module")
def half_package(scores, tmp_path_factory):
    program = traced(scores, (X, GAIN))
    return converted(program, tmp_path_factory.mktemp("scores") / "scores.mlpackage", "iOS18", "fp16")


@pytest.fixture(scope="module")
def multifunction(scores, half_package, tmp_path_factory):
    """That program twice, and another."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("multifunction")
    other = converted(traced(Scores(6).eval(), (X, GAIN[:, :6])), folder / "other.mlpackage", "iOS18", "fp16")
    packages = {"one": half_package, "same": half_package, "other": other}
    return combined(packages, folder / "all.mlpackage"), other


def combined(packages: dict[str, Path], path: Path) -> Path:
    """One package with the main functions of these by name."""
    functions = ct.utils.MultiFunctionDescriptor()
    for name, own in packages.items():
        functions.add_function(str(own), src_function_name="main", target_function_name=name)
    functions.default_function_name = next(iter(packages))
    ct.utils.save_multifunction(functions, str(path))
    return path


def test_each_function_of_a_package_is_its_own_program(multifunction, half_package):
    path, other = multifunction
    functions = load(path)
    assert set(functions) == {"one", "same", "other"}
    for name, alone, gain in (("one", half_package, GAIN), ("same", half_package, GAIN), ("other", other, GAIN[:, :6])):
        inputs = {"x": X, "gain": gain}
        for actual, exact in zip(functions[name](inputs).values(), load(alone)["main"](inputs).values(), strict=True):
            assert torch.equal(actual, exact)


def weights_of(function: Function) -> set[int]:
    """Where its larger constants are."""
    return {tensor.data_ptr() for tensor in function.constants.values() if tensor.numel() >= 6 * 16}


def test_functions_share_what_they_share_on_disk(multifunction):
    functions = load(multifunction[0])
    one, same, other = (weights_of(functions[name]) for name in ("one", "same", "other"))
    assert one == same
    assert one
    assert other
    assert not one & other


def test_functions_share_what_they_share_as_codes(tmp_path):
    x = single(2, 5, 32)
    alone = converted(traced(Quantized(4, 8), (x,)), tmp_path / "alone.mlpackage", "iOS18", "fp16")
    functions = load(combined({"one": alone, "same": alone}, tmp_path / "all.mlpackage"))
    assert weights_of(functions["one"]) == weights_of(functions["same"])
    assert weights_of(functions["one"])
    found, exact = functions["same"]({"x": x}), load(alone)["main"]({"x": x})
    for actual, expected in zip(found.values(), exact.values(), strict=True):
        assert torch.equal(actual, expected)


def test_floats_are_rounded_as_declared_or_not_at_all(tmp_path):
    with MilFunction({"x": mb.placeholder((2, 16), types.fp16)}, opset_version=ct.target.iOS17) as function:
        function.set_outputs([mb.sub(x=function.inputs["x"], y=np.float16(1))])
    path = package(function, tmp_path / "x.mlpackage", ct.target.iOS17)
    x = randn(2, 16)
    for precision, dtype in (("declared", torch.float16), ("float32", torch.float32), ("float64", torch.float64)):
        (y,) = load(path, precision)["main"]({"x": x}).values()
        assert y.dtype == dtype
        assert torch.equal(y, x.to(dtype) - 1)


def test_running_leaves_constants_and_inputs_as_they_are(half_package):
    function = load(half_package)["main"]
    before = {name: tensor.clone() for name, tensor in function.constants.items()}
    x, gain = X.clone(), GAIN.numpy().copy()
    first, second = function({"x": x, "gain": gain}), function({"x": x, "gain": gain})
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
    for name, tensor in before.items():
        assert torch.equal(tensor, function.constants[name])
    assert torch.equal(x, X)
    assert np.array_equal(gain, GAIN.numpy())


def test_a_value_is_dropped_after_its_last_reader(half_package):
    function = load(half_package)["main"]
    made = [*function.inputs, *(name for step in function.steps for name, _ in step.outputs)]
    dropped = [name for step in function.steps for name in step.last]
    assert sorted([*dropped, *function.outputs]) == sorted(made)
    for i, step in enumerate(function.steps):
        later = {name for other in function.steps[i + 1 :] for name in other.read()}
        assert not later & set(step.last)


def test_shapes_that_a_program_computes(tmp_path):
    """Of an input of any length."""
    with MilFunction({"x": mb.placeholder((get_new_symbol(), 4))}, opset_version=ct.target.iOS17) as function:
        length = mb.slice_by_index(x=mb.shape(x=function.inputs["x"]), begin=[0], end=[1])
        shape = mb.concat(values=[length, np.array([2, 2], np.int32)], axis=0)
        function.set_outputs([mb.reshape(x=function.inputs["x"], shape=shape)])
    run = load(package(function, tmp_path / "x.mlpackage", ct.target.iOS17))["main"]
    for length in (1, 3):
        x = single(length, 4)
        (y,) = run({"x": x}).values()
        assert torch.equal(y, x.reshape(length, 2, 2))


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML is on macOS alone")
@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-4), ("fp16", 3e-2)])
def test_core_ml_itself_gives_the_same(precision, error, tmp_path):
    x = single(2, 5, 32)
    path = converted(traced(Quantized(8, 32), (x,)), tmp_path / "x.mlpackage", "iOS17", precision)
    predicted = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY).predict({"x": x.numpy()})
    simulated = load(path)["main"]({"x": x})
    assert set(predicted) == set(simulated)
    for name, tensor in simulated.items():
        assert relative_error(torch.from_numpy(np.asarray(predicted[name], np.float32)), tensor) < error


# The delegates of ExecuTorch programs.


def lowered(methods: dict[str, tuple[nn.Module, tuple]], path: Path) -> Path:
    specs = CoreMLBackend.generate_compile_specs(
        model_type=CoreMLBackend.MODEL_TYPE.MODEL,
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
    )
    programs = {name: torch.export.export(module, inputs) for name, (module, inputs) in methods.items()}
    partitioners = {name: [CoreMLPartitioner(compile_specs=specs)] for name in methods}
    path.write_bytes(to_edge_transform_and_lower(programs, partitioner=partitioners).to_executorch().buffer)
    return path


@pytest.mark.parametrize("methods", [("forward",), ("prepare", "denoise")], ids=["one", "sharing weights"])
def test_delegates_of_a_program(methods, scores, tmp_path):
    path = lowered({name: (scores, (X, GAIN)) for name in methods}, tmp_path / "scores.pte")
    delegates = load_delegates(path)
    assert sorted(delegate.method for delegate in delegates) == sorted(methods)
    for delegate in delegates:
        assert set(delegate.inputs) == {"x", "gain"}
        found = delegate.function({"x": X, "gain": GAIN})
        with torch.no_grad():
            for name, exact in zip(delegate.outputs, scores(X, GAIN), strict=True):
                assert relative_error(found[name], exact) < 1e-6
