"""A quantized checkpoint to a bundle: programs, tokenizer, sampler tables, golden picture, manifest."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

import edge_hadanorm
from edge_hadanorm import bundle
from edge_hadanorm.checkpoint import Checkpoint
from edge_hadanorm.errors import UserError
from edge_hadanorm.export.program import Denoise, Prepare, export
from edge_hadanorm.export.quantizer import EightBitQuantizer
from edge_hadanorm.export.xnnpack import lower
from edge_hadanorm.linear import DEVICE_BITS
from edge_hadanorm.metrics import save_png
from edge_hadanorm.runtime import ExecuTorchRunner, picture

TARGETS = ("xnnpack",)
STEP_COUNTS = (*range(1, 21), 25, 28, 30, 40, 50)
GOLDEN_SEED = 0
# What a device may lose against the golden picture by its own rounding: a value that falls to the other side moves by a
# step of its grid. The first row whose weight and activation bits the recipe has at least.
GOLDEN_PSNR_DB = ((8, 8, 40.0), (2, 8, 30.0), (2, 2, 24.0))
Report = Callable[[str], None]


def check_target(target: str, saved: Checkpoint) -> None:
    """Raises UserError for an unknown target, or a recipe that its backend has no integer kernels for."""
    if target not in TARGETS:
        raise UserError(f"unknown target {target!r}; targets: {', '.join(TARGETS)}")
    recipe = saved.recipe
    if recipe.activations == "tensor":
        raise UserError(f"recipe {recipe.name}: xnnpack quantizes activations per token; quantize without -static")
    if max(recipe.activation_bits, recipe.weight_bits) > DEVICE_BITS:
        raise UserError(f"recipe {recipe.name}: xnnpack needs weights and activations of at most 8 bits")
    if recipe.group_size and (recipe.weight_bits > 4 or recipe.group_size % 32):
        raise UserError(
            f"recipe {recipe.name}: xnnpack takes groups of multiples of 32, with weights of at most 4 bits"
        )


def write_bundle(folder: Path, source: Path, saved: Checkpoint, target: str, report: Report = lambda _: None) -> None:
    """Write the bundle of a checkpoint, which lies in `source`, into an existing empty folder."""
    check_target(target, saved)
    report("lowering the denoiser")
    programs = {"denoiser": _denoiser_program(folder, saved)}
    if saved.pipeline is not None:
        report("lowering the text encoder")
        programs["text_encoder"] = _text_encoder_program(folder, saved)
        shutil.copy(source / "tokenizer/tokenizer.json", folder / "tokenizer.json")
    shutil.copytree(source, folder / "simulation")
    channels, height, width = saved.denoiser.latent_shape()
    manifest = {
        "schema": bundle.SCHEMA,
        "generator": f"edge-hadanorm {edge_hadanorm.__version__}",
        "target": target,
        "family": saved.denoiser.source_class,
        "recipe": saved.recipe.name,
        "image": {"width": width, "height": height, "channels": channels},
        "latents": {"shape": [channels, height, width]},
        "programs": programs,
        "tokenizer": _tokenizer(saved),
        "sampling": _sampling(saved),
        "noise": bundle.NOISE,
        "golden": None,
        "simulation": "simulation",
        "licence": saved.pipeline.licence if saved.pipeline else "that of the source model",
    }
    written = bundle.write_manifest(folder, manifest)
    if saved.pipeline is not None:
        report("drawing the golden picture")
        bundle.write_manifest(folder, manifest | {"golden": _golden(written, saved)})


def _denoiser_program(folder: Path, saved: Checkpoint) -> dict:
    """denoiser.pte for the guidance batch; returns its entry in the manifest."""
    denoiser = saved.denoiser
    batch = 2  # with and without the prompt
    shapes = denoiser.prompt_shapes(saved.text.tokens, saved.text.masked)
    given = {name: torch.ones(batch, *shape) for name, shape in shapes.items()}
    latents, timestep = torch.zeros(batch, *denoiser.latent_shape()), torch.zeros(1)
    conditioning = denoiser.prepare(**given)
    methods = {
        "prepare": export(Prepare(denoiser, given), tuple(given.values())),
        "denoise": export(Denoise(denoiser), (latents, timestep, conditioning)),
    }
    named = {f"conditioning.{i}": tensor for i, tensor in enumerate(conditioning)}
    program, account = lower(methods)
    (folder / "denoiser.pte").write_bytes(program.buffer)
    signatures = {
        "prepare": _signature(given, named),
        "denoise": _signature({"latents": latents, "timestep": timestep, **named}, {"prediction": latents}),
    }
    return {
        "file": "denoiser.pte",
        "methods": {name: signature | {"delegation": account[name]} for name, signature in signatures.items()},
    }


def _text_encoder_program(folder: Path, saved: Checkpoint) -> dict:
    """text_encoder.pte, its linears in 8 bits; returns its entry in the manifest."""
    ids = saved.pipeline.ids("")
    program, account = lower({"encode": export(saved.pipeline.text_encoder, (ids,), EightBitQuantizer())})
    (folder / "text_encoder.pte").write_bytes(program.buffer)
    signature = _signature({"ids": ids}, {"text": saved.pipeline.text("")})
    return {"file": "text_encoder.pte", "methods": {"encode": signature | {"delegation": account["encode"]}}}


def _signature(inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> dict:
    def describe(tensors: dict[str, torch.Tensor]) -> list[dict]:
        return [
            {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
            for name, tensor in tensors.items()
        ]

    return {"inputs": describe(inputs), "outputs": describe(outputs)}


def _tokenizer(saved: Checkpoint) -> dict | None:
    if saved.pipeline is None:
        return None
    tokenizer = saved.pipeline.tokenizer
    return {
        "file": "tokenizer.json",
        "length": tokenizer.length,
        "pad_id": tokenizer.pad_id,
        "unknown_id": tokenizer.unknown_id,
    }


def _sampling(saved: Checkpoint) -> dict | None:
    if saved.pipeline is None:
        return None
    tables = {str(steps): saved.pipeline.table(steps).to_json() for steps in STEP_COUNTS}
    return {"steps": saved.pipeline.steps, "guidance": saved.pipeline.guidance, "tables": tables}


def _golden(written: bundle.Bundle, saved: Checkpoint) -> dict:
    """Draw one picture with the bundle's own programs, for any device to compare its own with."""
    pipeline = saved.pipeline
    prompt = pipeline.prompts[0] if pipeline.prompts else ""
    latents = picture(ExecuTorchRunner(written), prompt, pipeline.table(pipeline.steps), pipeline.guidance, GOLDEN_SEED)
    (written.folder / "golden").mkdir()
    save_png(latents, written.folder / "golden/picture.png")
    return {
        "file": "golden/picture.png",
        "prompt": prompt,
        "seed": GOLDEN_SEED,
        "steps": pipeline.steps,
        "guidance": pipeline.guidance,
        "psnr_db": next(
            db
            for weight, activation, db in GOLDEN_PSNR_DB
            if saved.recipe.weight_bits >= weight and saved.recipe.activation_bits >= activation
        ),
    }
