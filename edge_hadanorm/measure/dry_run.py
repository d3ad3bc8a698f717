"""Dry run: a model quantized in shapes alone, with its linears, what folds, sizes, memory and programs."""

import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from edge_hadanorm import bundle
from edge_hadanorm.bundle.components import (
    Signature,
    decoder_signatures,
    denoiser_signatures,
    prompt_inputs,
    text_encoder_signatures,
)
from edge_hadanorm.checkpoint import Text
from edge_hadanorm.measure.inspection import LINEAR_HEADER, linear_rows, tensor_table
from edge_hadanorm.measure.sizes import bits_summary, megabytes, stored_bytes
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.models.denoiser import Denoiser, kind
from edge_hadanorm.pipelines.autoencoder import ImageDecoder
from edge_hadanorm.pipelines.loading import FloatModel
from edge_hadanorm.pipelines.text_encoders import LARGE_BYTES
from edge_hadanorm.pipelines.text_to_image import TextToImage, encoded_shapes, encoder_shapes
from edge_hadanorm.quantization.blockwise import CHUNK, TOKENS
from edge_hadanorm.quantization.quantize import outline
from edge_hadanorm.tables import Row, table
from edge_hadanorm.tensor_files import read_shapes, read_weights

# Bytes a weight that one linear is rounded in. On PixArts of 768 to 1536 features the estimate is within a fifth of
# what rounding to nearest took; what calls add is counted only.
ROUNDING = 40
# Kinds of float tensors that are shown one by one.
SHOWN = 8
FLOAT = 4


def describe(model: FloatModel, recipe: Recipe, given: str, text: Text | None) -> str:
    """A model of `source.outline` and a recipe that fits it.

    given: what it would be calibrated on, in words. text: what a transformer alone would be given of a prompt.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        exact = model.denoiser.to_empty(device="cpu")
        quantized = outline(exact, recipe)
        bits = sizes(quantized, recipe)
        parameters = sum(p.numel() for p in exact.parameters())
        needed = memory(exact, quantized, recipe, model.pipeline)
        programs = programs_of(exact, model.pipeline, text)
    total, whole = FLOAT * parameters / 1e6, megabytes(bits)
    lines = [
        f"dry run of {recipe.name} on {model.name} ({model.transformer_class}): nothing is read but shapes, nothing is "
        "written",
        f"float model: {parameters:,} parameters, {total:.2f} MB in float32",
        f"quantized: {bits['quantized_parameters']:,} parameters in {bits['average']:.3g} bits, "
        f"{bits['quantized_bytes'] / 1e6:.2f} MB; rest: {bits['rest_bytes'] / 1e6:.2f} MB; "
        f"together {whole:.2f} MB, {total / whole:.1f} times less",
        f"calibrated on: {given}",
        f"memory to quantize: about {needed / 1e9:.1f} GB",
    ]
    if recipe.search or recipe.average_bits is not None:
        what = " and ".join(["transforms"] * recipe.search + ["bits"] * (recipe.average_bits is not None))
        lines.append(f"{what} are chosen by measured error: those shown are where the choice starts")
    tables = [table(("linears", *LINEAR_HEADER[:-1], "MB"), by_kind(quantized)), float_table(quantized)]
    return "\n\n".join(["\n".join(lines), *tables, tensor_table(programs)])


def sizes(quantized: Denoiser, recipe: Recipe) -> dict:
    """The `bits_summary`, with what a budget of bits adds to the least that each linear gets."""
    bits = bits_summary(quantized)
    if recipe.average_bits is not None:
        extra = (recipe.average_bits - bits["average"]) * bits["quantized_parameters"]
        bits |= {"average": recipe.average_bits, "quantized_bytes": bits["quantized_bytes"] + math.ceil(extra / 8)}
    return bits


def by_kind(quantized: Denoiser) -> list[Row]:
    """Linears of one kind and shape, treated alike: how many, as `linear_rows` says, and bytes."""
    counts: Counter[Row] = Counter()
    bytes_of: Counter[Row] = Counter()
    for name, *cells, _ in linear_rows(quantized, {}):
        row = (kind(str(name))[0], *cells)
        counts[row] += 1
        bytes_of[row] += stored_bytes(cast(QuantizedLinear, quantized.get_submodule(str(name))))
    return [(count, *row, f"{bytes_of[row] / 1e6:.2f}") for row, count in counts.items()]


def float_table(quantized: nn.Module) -> str:
    """The table of tensors that stay in float, the largest first."""
    linears = {name for name, module in quantized.named_modules() if isinstance(module, QuantizedLinear)}
    counts: Counter[str] = Counter()
    bytes_of: Counter[str] = Counter()
    for key, tensor in quantized.state_dict().items():
        if not any(key.startswith(f"{name}.") for name in linears):
            name = kind(key.removesuffix(".weight").removesuffix(".bias"))[0]
            counts[name] += 1
            bytes_of[name] += tensor.numel() * tensor.element_size()
    ordered = [name for name, _ in bytes_of.most_common()]
    rows = [(name, counts[name], f"{bytes_of[name] / 1e6:.2f}") for name in ordered[:SHOWN]]
    if others := ordered[SHOWN:]:
        rows.append(("others", sum(counts[n] for n in others), f"{sum(bytes_of[n] for n in others) / 1e6:.2f}"))
    return table(("stays in float", "tensors", "MB"), rows)


def memory(exact: Denoiser, quantized: nn.Module, recipe: Recipe, pipeline: TextToImage | None) -> float:
    """Bytes at the peak of encoding prompts and of rounding, by a process that holds what this one does, its libraries.

    While rounding there is the float model, of which less is left with every block; the quantized one, of which there
    is more; and what one linear is rounded in.
    """
    linears = [module for module in quantized.modules() if isinstance(module, QuantizedLinear)]
    weights = FLOAT * sum(p.numel() for p in exact.parameters())
    rounding = ROUNDING * max(math.prod(m.shape) for m in linears)
    if recipe.needs_calls:
        widest = max(m.shape[1] for m in linears)
        rounding += 2 * FLOAT * TOKENS * widest + 6 * 8 * widest**2  # calls on their way; moments and their factors
    if recipe.search:
        rounding += 2 * FLOAT * CHUNK * max(_input_features(exact, names) for names in exact.stages())
    return resident_bytes() + weights + max(_encoders(pipeline), rounding)


def _input_features(exact: Denoiser, linears: list[str]) -> int:
    """Features that the linears of these names read, together."""
    return sum(cast(nn.Linear, exact.get_submodule(name)).in_features for name in linears)


def resident_bytes() -> int:
    """Bytes of memory that this process holds; where only that is known, those that it has held at most."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # not on Windows, which has no /proc either

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _encoders(pipeline: TextToImage | None) -> float:
    """Bytes of the text encoders as they are loaded."""
    if pipeline is None:
        return 0.0
    total = 0.0
    for name in pipeline.kind.encoders:
        folder = pipeline.folder / name
        count = sum(tensor.numel() for tensor in read_weights(folder, "model", read_shapes).values())
        large = sum(file.stat().st_size for file in folder.glob("*.safetensors")) > LARGE_BYTES
        total += count * (2 if large else FLOAT)
    return total


def programs_of(denoiser: Denoiser, pipeline: TextToImage | None, text: Text | None) -> dict[str, dict]:
    """The programs of an export as a manifest has them, without files; for a denoiser of fake tensors.

    text: what a transformer without a pipeline is given of a prompt; None with a pipeline, which knows.
    """
    if pipeline is not None:
        components = _component_signatures(denoiser, pipeline)
    else:
        inputs = prompt_inputs(denoiser, text.tokens, text.masked) if text else {}
        components = {"denoiser": denoiser_signatures(denoiser, inputs)}
    return {
        role: {"methods": {name: bundle.signature(own.inputs, own.outputs) for name, own in methods.items()}}
        for role, methods in components.items()
    }


def _component_signatures(denoiser: Denoiser, pipeline: TextToImage) -> dict[str, dict[str, Signature]]:
    """Signatures of a pipeline's components, none of which is loaded."""
    inputs = {
        name: torch.empty(tensor.shape) for name, tensor in encoded_shapes(pipeline).items()
    }  # fake, not meta tensors
    components = {"denoiser": denoiser_signatures(denoiser, inputs, pipeline.kind.gather)}
    for role in pipeline.tokenizers:
        components[role] = text_encoder_signatures(pipeline, role, encoder_shapes(pipeline, role))
    if pipeline.kind.decoder:
        decoder = ImageDecoder.outline(pipeline.folder / "vae", pipeline.kind.decoder)
        components[bundle.DECODER] = decoder_signatures(decoder, denoiser.latent_shape())
    return components
