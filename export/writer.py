"""A quantized checkpoint to a bundle: programs, tokenizer, sampler tables, golden picture, manifest."""

import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

import edge_hadanorm
from edge_hadanorm import bundle
from edge_hadanorm.checkpoint import Checkpoint
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.component import Component, Denoise, Method, Prepare
from edge_hadanorm.exporters.targets import Options, backend, check_target
from edge_hadanorm.files import link_or_copy
from edge_hadanorm.models.generic import GenericDenoiser
from edge_hadanorm.pipelines.decoder import TILE
from edge_hadanorm.pipelines.drawing import picture
from edge_hadanorm.pipelines.kinds import as_given, suffixed, tokenizer_of
from edge_hadanorm.pipelines.pictures import save_png
from edge_hadanorm.pipelines.text_to_image import TextToImage
from edge_hadanorm.tensor_files import write_tensors

STEP_COUNTS = (*range(1, 21), 25, 28, 30, 40, 50)
GOLDEN_SEED = 0
EMBEDDED = "prompts.safetensors"
# Components of more bytes are lowered one by one, each in a process of its own.
APART_BYTES = 1 << 30
# What a device may lose against the golden picture by its own rounding: a value that falls to the other side moves by a
# step of its grid. The first row whose weight and activation bits the recipe has at least.
GOLDEN_PSNR_DB = ((8, 8, 40.0), (2, 8, 30.0), (2, 2, 24.0))
Report = Callable[[str], None]


def write_bundle(
    folder: Path,
    source: Path,
    saved: Checkpoint,
    target: str,
    report: Report = lambda _: None,
    options: Options | None = None,
) -> dict:
    """Write the bundle of a checkpoint, which lies in `source`, into an existing empty folder; returns its manifest."""
    options = options or Options()
    check_target(target, saved, options.precision)
    pipeline = saved.pipeline
    if options.prompts and (pipeline is None or not pipeline.tokenizers):
        raise UserError(f"{source} has no text encoder to embed prompts with")
    report("lowering the denoiser")
    try:
        programs = {"denoiser": backend(target).write(folder, _denoiser(saved), options.precision)}
    except (OSError, UserError):
        raise
    except Exception as error:  # what an exporter says of a module that is not ours
        if not isinstance(saved.denoiser, GenericDenoiser):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{saved.denoiser.source_class} cannot be lowered to {target}: {reason}") from error
    programs["denoiser"]["notes"] = backend(target).notes(saved.recipe)
    prompt = None
    if pipeline is not None:
        encoders = {} if options.prompts else pipeline.tokenizers
        for role in encoders:
            report(f"lowering the {role.replace('_', ' ')}")
            programs[role] = apart(_text_encoder_program, folder, pipeline, target, options, role)
            shutil.copy(source / tokenizer_of(role) / "tokenizer.json", folder / f"{tokenizer_of(role)}.json")
        prompt = _prompt(folder, saved, options.prompts)
        if pipeline.kind.decoder:
            report("lowering the image decoder")
            shape = saved.denoiser.latent_shape()
            programs[bundle.DECODER] = apart(_decoder_program, folder, pipeline, target, options, shape)
    shutil.copytree(source, folder / "simulation", copy_function=link_or_copy)
    channels, height, width = saved.denoiser.latent_shape()
    image = {"width": width, "height": height, "channels": channels}
    if bundle.DECODER in programs:
        decode = programs[bundle.DECODER]["methods"]["decode"]
        scale = decode["outputs"][0]["shape"][-1] // decode["inputs"][0]["shape"][-1]
        image = {"width": scale * width, "height": scale * height, "channels": 3}
    manifest = {
        "schema": bundle.SCHEMA,
        "generator": f"edge-hadanorm {edge_hadanorm.__version__}",
        "target": target,
        "family": saved.denoiser.source_class,
        "recipe": saved.recipe.name,
        "image": image,
        "latents": {"shape": [channels, height, width]},
        "programs": programs,
        "prompt": prompt,
        "sampling": _sampling(saved),
        "noise": bundle.NOISE,
        "golden": None,
        "simulation": "simulation",
        "licence": pipeline.licence if pipeline else "that of the source model",
    }
    written = bundle.write_manifest(folder, manifest)
    if pipeline is not None:
        report("drawing the golden picture")
        written = bundle.write_manifest(folder, manifest | {"golden": _golden(written, saved, options)})
    return written.manifest


def apart(make: Callable[..., dict], folder: Path, pipeline: TextToImage, *arguments) -> dict:
    """make(folder, pipeline, *arguments); of large components in a process of its own, which gives its memory back."""
    sizes = [file.stat().st_size for file in pipeline.folder.glob("*/*.safetensors")]
    if sum(sizes) < APART_BYTES:
        return make(folder, pipeline, *arguments)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        fresh = partial(TextToImage, pipeline.folder, **pipeline.settings)
        return pool.submit(_made_apart, make, folder, fresh, *arguments).result()


def _made_apart(make: Callable[..., dict], folder: Path, fresh: Callable[[], TextToImage], *arguments) -> dict:
    return make(folder, fresh(), *arguments)


def _denoiser(saved: Checkpoint) -> Component:
    """Of the guidance batch."""
    denoiser, pipeline = saved.denoiser, saved.pipeline
    batch = 2  # with and without the prompt
    if pipeline is None:
        shapes = denoiser.prompt_shapes(saved.text.tokens, saved.text.masked)
        given, gather = {name: torch.ones(batch, *shape) for name, shape in shapes.items()}, as_given
    else:
        given, gather = pipeline.encode(""), pipeline.kind.gather
    latents, timestep = torch.zeros(batch, *denoiser.latent_shape()), torch.zeros(1)
    conditioning = denoiser.prepare(**gather(given))
    named = {f"conditioning.{i}": tensor for i, tensor in enumerate(conditioning)}
    stepped = {"latents": latents, "timestep": timestep, **named}
    methods = {
        "prepare": Method(Prepare(denoiser, given, gather), given, named),
        "denoise": Method(Denoise(denoiser), stepped, {"prediction": latents}, (latents, timestep, conditioning)),
    }
    return Component("denoiser", methods)


def _text_encoder_program(folder: Path, pipeline: TextToImage, target: str, options: Options, role: str) -> dict:
    """A text encoder's program, its linears in 8 bits; returns its entry in the manifest."""
    encoder, (ids, mask) = pipeline.encoder(role), pipeline.tokenizers[role].rows("")
    given = {"ids": ids} | ({"mask": mask} if encoder.form.masked else {})
    outputs = {suffixed(role, name): t for name, t in zip(encoder.widths, encoder(*given.values()), strict=True)}
    # Activations of T5 and Gemma go past the ends of float16.
    component = Component(role, {"encode": Method(encoder, given, outputs)}, eight_bit=True, wide=True)
    return backend(target).write(folder, component, options.precision)


def _decoder_program(
    folder: Path, pipeline: TextToImage, target: str, options: Options, latent_shape: tuple[int, int, int]
) -> dict:
    """The image decoder's program, in float; returns its entry in the manifest."""
    channels, height, width = latent_shape
    side = min(options.tile or TILE, height, width)
    latents = torch.zeros(1, channels, side, side)
    with torch.no_grad():
        method = Method(pipeline.decoder, {"latents": latents}, {"picture": pipeline.decoder(latents)})
    component = Component(bundle.DECODER, {"decode": method}, wide=pipeline.decoder.wide)
    return backend(target).write(folder, component, options.precision)


def _prompt(folder: Path, saved: Checkpoint, embedded: tuple[str, ...]) -> dict:
    """The manifest's `prompt`; writes what is carried encoded."""
    pipeline = saved.pipeline
    if embedded:
        rows = [pipeline.encode(prompt) for prompt in embedded]
        states = {name: torch.cat([rows[0][name][:1], *(row[name][1:] for row in rows)]) for name in rows[0]}
        write_tensors(folder / EMBEDDED, states)
    return {
        "encoders": {}
        if embedded
        else {
            role: {
                "tokenizer": f"{tokenizer_of(role)}.json",
                "length": tokenizer.length,
                "pad_id": tokenizer.pad_id,
                "unknown_id": tokenizer.unknown_id,
                "prefix": tokenizer.prefix,
            }
            for role, tokenizer in pipeline.tokenizers.items()
        },
        "lower": pipeline.kind.lower,
        "labels": pipeline.labels,
        "embedded": {"file": EMBEDDED, "prompts": list(embedded)} if embedded else None,
    }


def _sampling(saved: Checkpoint) -> dict | None:
    if saved.pipeline is None:
        return None
    tables = {str(steps): saved.pipeline.table(steps).to_json() for steps in STEP_COUNTS}
    return {"steps": saved.pipeline.steps, "guidance": saved.pipeline.guidance, "tables": tables}


def _golden(written: bundle.Bundle, saved: Checkpoint, options: Options) -> dict:
    """Draw one picture with the bundle's own programs, for any device to compare its own with."""
    pipeline = saved.pipeline
    prompt = next(iter([*options.prompts, *pipeline.prompts]), "")
    runner = backend(written.target).runner(written)
    drawn = picture(runner, prompt, pipeline.table(pipeline.steps), pipeline.guidance, GOLDEN_SEED)
    (written.folder / "golden").mkdir()
    save_png(drawn, written.folder / "golden/picture.png")
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
