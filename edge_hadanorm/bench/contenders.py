"""Contenders of the benchmark: one builder a name, from a case to a call that makes one prediction.

Peers are given the unchanged diffusers module. A builder whose import fails is left out by name.
"""

import contextlib
import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from edge_hadanorm.bench.case import Case
from edge_hadanorm.method import recipe
from edge_hadanorm.models import PixArtDenoiser
from edge_hadanorm.quantization import calibration, quantize


@dataclass(frozen=True)
class Contender:
    """run() -> prediction, a tensor or array [1, C, H, W]; size: bytes of the program or the weights."""

    run: Callable[[], object]
    size: int


INT4: torch.dtype = vars(torch)["int4"]  # torch's type stubs leave it out
Builder = Callable[[Case, int, Path], Contender]


def _weights_size(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def torch_eager(case: Case, threads: int, cache_folder: Path, dtype: torch.dtype = torch.float32) -> Contender:
    """Run the module in eager PyTorch."""
    model = case.transformer if dtype == torch.float32 else copy.deepcopy(case.transformer).to(dtype)
    arguments = [tensor.to(dtype) for tensor in case.arguments]
    return Contender(lambda: model(*arguments).float(), _weights_size(model))


def torch_compiled(case: Case, threads: int, cache_folder: Path) -> Contender:
    """Run the module by torch.compile with its default backend."""
    compiled = torch.compile(case.transformer)
    return Contender(lambda: compiled(*case.arguments), _weights_size(case.transformer))


def _onnx(case: Case, cache_folder: Path) -> Path:
    file = cache_folder / f"onnx-{case.blocks}x{case.tokens}" / "model.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        names = ["latents", "timestep", "text"]
        torch.onnx.export(case.transformer, case.arguments, file, input_names=names, opset_version=17, dynamo=False)
    return file


def onnxruntime(case: Case, threads: int, cache_folder: Path, kind: str) -> Contender:
    """Run it on ONNX Runtime's CPU provider: float, dynamic int8, or MatMulNBits with 4-bit weights in blocks of 32."""
    import onnx
    import onnxruntime as ort

    source = _onnx(case, cache_folder)
    file = source.with_name(f"{kind}.onnx") if kind != "fp32" else source
    if kind == "int8" and not file.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(source, file, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])
    elif kind == "int4" and not file.exists():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=32, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        quantizer.model.save_model_to_file(str(file))
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feeds = dict(zip(("latents", "timestep", "text"), (t.numpy() for t in case.arguments), strict=True))
    return Contender(lambda: session.run(None, feeds)[0], file.stat().st_size)


def openvino(case: Case, threads: int, cache_folder: Path, kind: str) -> Contender:
    """Run it on OpenVINO's CPU plugin: float, or 8- and 4-bit weights with dynamically quantized activations."""
    import openvino as ov

    model = ov.Core().read_model(_onnx(case, cache_folder))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    if kind != "fp32":
        import nncf

        mode = {"int8": nncf.CompressWeightsMode.INT8_SYM, "int4": nncf.CompressWeightsMode.INT4_SYM}[kind]
        groups = {} if kind == "int8" else {"group_size": 32, "ratio": 1.0, "all_layers": True}
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            model = nncf.compress_weights(model, mode=mode, **groups)
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 64
    compiled = ov.compile_model(model, "CPU", settings)
    feeds = [tensor.numpy() for tensor in case.arguments]
    bits = {"fp32": 32, "int8": 8, "int4": 4.5}[kind]
    return Contender(lambda: compiled(feeds)[0], int(sum(p.numel() for p in case.transformer.parameters()) * bits / 8))


def executorch_program(file: Path, method: str, inputs: list[torch.Tensor]) -> Contender:
    """Run a method of a program on ExecuTorch's Python runtime, with these inputs at every call."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(file)
    loaded = program.load_method(method)
    # The closure keeps the program, which its methods do not.
    return Contender(lambda: (program, loaded.execute(inputs)[0])[1], file.stat().st_size)


def executorch_stock(case: Case, threads: int, cache_folder: Path, kind: str) -> Contender:
    """Run the stock route: torchao's quantize_ on the unchanged module, torch.export, XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    file = cache_folder / f"stock-{kind}-{case.blocks}x{case.tokens}.pte"
    if not file.exists():
        module = copy.deepcopy(case.transformer)
        weights: dict[str, tuple[torch.dtype, Any]] = {"8da8w": (torch.int8, PerAxis(0)), "8da4w": (INT4, PerGroup(32))}
        if kind in weights:
            dtype, granularity = weights[kind]
            config = Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=granularity)
            quantize_(module, config, lambda m, name: isinstance(m, nn.Linear) and "transformer_blocks" in name)
        program = torch.export.export(module, case.arguments)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        file.write_bytes(lowered.to_executorch().buffer)
    return executorch_program(file, "forward", list(case.arguments))


@cache
def _denoiser(case: Case) -> tuple[PixArtDenoiser, dict]:
    """Convert the transformer of a case, and calibrate the moments of its inputs."""
    transformer = case.transformer.transformer
    config = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
    denoiser = PixArtDenoiser.from_diffusers(config, transformer.state_dict()).eval().requires_grad_(False)
    return denoiser, calibration.calibrate(denoiser, [partial(case.inputs.run, denoiser)])


def forget(case: Case) -> None:
    """Free the memory of a case."""
    _denoiser.cache_clear()
    for cached in ("transformer", "inputs"):
        vars(case).pop(cached, None)


def quantized_case(case: Case, name: str) -> PixArtDenoiser:
    """Quantize the model of a case by a recipe."""
    denoiser, moments = _denoiser(case)
    return cast(PixArtDenoiser, quantize.quantize(denoiser, recipe.named(name), moments))


@torch.no_grad()
def edge_program(case: Case, cache_folder: Path, name: str) -> tuple[Path, list[torch.Tensor]]:
    """Export the program of a recipe into the cache, and make its denoise inputs, with the prompt prepared."""
    from edge_hadanorm.exporters.component import Denoise
    from edge_hadanorm.exporters.xnnpack.program import export
    from edge_hadanorm.exporters.xnnpack.target import lower

    file = cache_folder / f"edge-{name}-{case.blocks}x{case.tokens}.pte"
    quantized = quantized_case(case, name)
    conditioning = [tensor.contiguous() for tensor in quantized.prepare(**case.inputs.prompt)]
    inputs = (case.inputs.latents, case.inputs.timestep, conditioning)
    if not file.exists():
        program, _ = lower({"denoise": export(Denoise(quantized), inputs)})
        file.write_bytes(program.buffer)
    return file, [*inputs[:2], *conditioning]


def edge(case: Case, threads: int, cache_folder: Path, name: str) -> Contender:
    """Run the denoise method of a recipe of ours, as a device does at every step."""
    file, inputs = edge_program(case, cache_folder, name)
    return executorch_program(file, "denoise", inputs)


EDGE_METHODS = ("rtn", "hadanorm-balanced", "hadanorm-folded")
EDGE_RECIPES = [f"{method}-{form}" for form in ("w8a8", "w4a8") for method in EDGE_METHODS]
BUILDERS: dict[str, Builder] = {
    "torch-fp32": torch_eager,
    "torch-bf16": partial(torch_eager, dtype=torch.bfloat16),
    "torch-compile": torch_compiled,
    **{f"onnxruntime-{kind}": partial(onnxruntime, kind=kind) for kind in ("fp32", "int8", "int4")},
    **{f"openvino-{kind}": partial(openvino, kind=kind) for kind in ("fp32", "int8", "int4")},
    **{f"executorch-{kind}": partial(executorch_stock, kind=kind) for kind in ("fp32", "8da8w", "8da4w")},
    **{f"edge-{name}": partial(edge, name=name) for name in EDGE_RECIPES},
}
