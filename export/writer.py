"""The bundle of a quantized checkpoint: programs, tokenizers, sampling plans, golden picture, manifest."""

import multiprocessing
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

from edge_hadanorm import bundle
from edge_hadanorm.checkpoint import Checkpoint
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.component import (
    Component,
    decoder_component,
    denoiser_component,
    encoder_component,
    text_encoder_component,
)
from edge_hadanorm.exporters.targets import Options, backend, check_target, row
from edge_hadanorm.files import link_or_copy
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.drawing import Wish, picture
from edge_hadanorm.pipelines.kinds import tokenizer_of
from edge_hadanorm.pipelines.pictures import save_png
from edge_hadanorm.pipelines.text_to_image import TextToImage
from edge_hadanorm.tensor_files import write_tensors
from edge_hadanorm.version import VERSION

STEP_COUNTS = (*range(1, 21), 25, 28, 30, 40, 50)
# Plans of more steps can begin with a picture where that takes no rows of its own; those would fill the manifest.
MOST_BEGUN = 20
GOLDEN_SEED = 0
EMBEDDED = "prompts.safetensors"
# Components of a pipeline of more bytes are lowered one by one, each in a process of its own.
APART_BYTES = 1 << 30
# What a device may lose against the golden picture by its own rounding: a value that falls to the other side moves by a
# step of its grid. The first row whose weight and activation bits the recipe has at least.
GOLDEN_PSNR_DB = ((8, 8, 40.0), (2, 8, 30.0), (2, 2, 24.0))
Report = Callable[[str], object]


def write_bundle(
    folder: Path,
    source: Path,
    saved: Checkpoint,
    target: str,
    report: Report = lambda _: None,
    options: Options | None = None,
    others: Mapping[str, Denoiser] | None = None,
) -> dict:
    """Write the bundle of a checkpoint, which lies in `source`, into an existing empty folder; returns its manifest.

    others: the denoiser for further sizes, by their names. Raises UserError where the target's programs have one.
    """
    options, others = options or Options(), others or {}
    check_target(target, saved, options.precision)
    if others and not row(target).shares_weights:
        raise UserError(f"{target} has one `size` a bundle, for each would have weights of its own: export it for each")
    if options.prompts and (saved.pipeline is None or not saved.pipeline.tokenizers):
        raise UserError(f"{source} has no text encoder to embed prompts with")
    programs = write_programs(folder, saved, target, report, options, others)
    methods = {role: program.pop("sizes") for role, program in programs.items()}
    shutil.copytree(source, folder / "simulation", copy_function=link_or_copy)
    manifest = {
        "schema": bundle.SCHEMA,
        "generator": f"edge-hadanorm {VERSION}",
        "target": target,
        "family": saved.denoiser.source_class,
        "recipe": saved.recipe.name,
        "image": _image(saved.denoiser, programs),
        "latents": {"shape": list(saved.denoiser.latent_shape())},
        "sizes": {},
        "programs": programs,
        "prompt": None,
        "sampling": None,
        "noise": bundle.NOISE,
        "golden": None,
        "simulation": "simulation",
        "licence": "that of the source model",
    }
    if saved.pipeline is None:
        return bundle.write_manifest(folder, manifest).manifest
    manifest["licence"] = saved.pipeline.licence
    manifest["prompt"] = _write_prompt(folder, source, saved.pipeline, options.prompts)
    manifest["sampling"] = _sampling(saved.pipeline, options.guided)
    manifest["sizes"] = {
        name: {
            "image": _image(denoiser, programs),
            "latents": {"shape": list(denoiser.latent_shape())},
            "methods": {role: sizes[name] for role, sizes in methods.items() if sizes.get(name)},
            "plans": _plans_of_size(saved.pipeline, denoiser, options.guided),
        }
        for name, denoiser in others.items()
    }
    written = bundle.write_manifest(folder, manifest)
    report("drawing the golden picture")
    manifest["golden"] = _write_golden(written, saved.recipe, saved.pipeline)
    return bundle.write_manifest(folder, manifest).manifest


def write_programs(
    folder: Path,
    saved: Checkpoint,
    target: str,
    report: Report,
    options: Options,
    others: Mapping[str, Denoiser],
) -> dict[str, dict]:
    """Write a program for each component; returns their entries in the manifest by role, and their `sizes`."""
    report("lowering the denoiser")
    programs = {"denoiser": _write_denoiser(folder, saved, target, options.precision, others)}
    pipeline = saved.pipeline
    if pipeline is None:
        return programs
    shapes = {name: denoiser.latent_shape() for name, denoiser in {"": saved.denoiser, **others}.items()}
    write = partial(_write_component, folder, pipeline, target, options.precision)
    for role in () if options.prompts else pipeline.tokenizers:
        report(f"lowering the {role.replace('_', ' ')}")
        programs[role] = write(text_encoder_component, role)
    if pipeline.kind.decoder:
        report("lowering the image decoder")
        programs[bundle.DECODER] = write(decoder_component, shapes, options.tile, row(target).shares_weights)
        if options.encoder:
            report("lowering the image encoder")
            programs[bundle.IMAGE_ENCODER] = write(encoder_component, shapes, options.tile)
    return programs


def _write_denoiser(
    folder: Path, saved: Checkpoint, target: str, precision: str | None, others: Mapping[str, Denoiser]
) -> dict:
    """Write the denoiser's program. Raises UserError where a module of another library cannot be lowered."""
    try:
        entry = _write(folder, target, denoiser_component(saved, others), precision)
    except (OSError, UserError):
        raise
    except Exception as error:  # an exporter may fail in any way on a module that is not ours
        if not saved.denoiser.foreign:
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{saved.denoiser.source_class} cannot be lowered to {target}: {reason}") from error
    return entry | {"notes": backend(target).notes(saved.recipe)}


def _write(folder: Path, target: str, component: Component, precision: str | None) -> dict:
    return backend(target).write(folder, component, precision) | {"sizes": component.sizes}


def _write_component(
    folder: Path,
    pipeline: TextToImage,
    target: str,
    precision: str | None,
    build: Callable[..., Component],
    *arguments: object,
) -> dict:
    """Write the program of build(pipeline, *arguments); of a large pipeline in a process, which frees its memory."""
    sizes = [file.stat().st_size for file in pipeline.folder.glob("*/*.safetensors")]
    if sum(sizes) < APART_BYTES:
        return _write(folder, target, build(pipeline, *arguments), precision)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        reopen = partial(TextToImage, pipeline.folder, **pipeline.settings)
        return pool.submit(_write_reopened, folder, reopen, target, precision, build, *arguments).result()


def _write_reopened(
    folder: Path,
    reopen: Callable[[], TextToImage],
    target: str,
    precision: str | None,
    build: Callable[..., Component],
    *arguments: object,
) -> dict:
    return _write(folder, target, build(reopen(), *arguments), precision)


def _image(denoiser: Denoiser, programs: dict[str, dict]) -> dict:
    """The manifest's `image`: the decoder's pictures, or the latents where those are the picture."""
    channels, height, width = denoiser.latent_shape()
    if bundle.DECODER not in programs:
        return {"width": width, "height": height, "channels": channels}
    decode = programs[bundle.DECODER]["methods"]["decode"]
    scale = decode["outputs"][0]["shape"][-1] // decode["inputs"][0]["shape"][-1]
    return {"width": scale * width, "height": scale * height, "channels": 3}


def _write_prompt(folder: Path, source: Path, pipeline: TextToImage, embedded: tuple[str, ...]) -> dict:
    """The manifest's `prompt`; writes tokenizers, or the prompts that are carried encoded."""
    negatives = list(dict.fromkeys([pipeline.negative, ""]))
    if embedded:
        rows = [pipeline.encode(prompt) for prompt in embedded]
        rows += [pipeline.encode(prompt, negative=True) for prompt in negatives]
        write_tensors(folder / EMBEDDED, {name: torch.cat([row[name] for row in rows]) for name in rows[0]})
    encoders = {}
    for role, tokenizer in () if embedded else pipeline.tokenizers.items():
        file = f"{tokenizer_of(role)}.json"
        shutil.copy(source / tokenizer_of(role) / "tokenizer.json", folder / file)
        encoders[role] = {
            "tokenizer": file,
            "length": tokenizer.length,
            "pad_id": tokenizer.pad_id,
            "unknown_id": tokenizer.unknown_id,
            "prefix": tokenizer.prefix,
            "kept": tokenizer.kept and dict(zip(("prompt", "negative"), tokenizer.kept, strict=True)),
        }
    return {
        "encoders": encoders,
        "lower": pipeline.kind.lower,
        "labels": pipeline.labels,
        "embedded": {"file": EMBEDDED, "prompts": list(embedded), "negatives": negatives} if embedded else None,
    }


def _sampling(pipeline: TextToImage, guided: tuple[float, float] | None) -> dict:
    """The manifest's `sampling`."""
    return {
        "plan": str(pipeline.steps),
        "guidance": pipeline.guidance,
        "negative": pipeline.negative,
        "plans": _plans(pipeline, guided),
    }


def _plans(pipeline: TextToImage, guided: tuple[float, float] | None) -> dict[str, dict]:
    """Plans of the scheduler for every number of steps that it can make."""
    plans = {}
    for steps in sorted({*STEP_COUNTS, pipeline.steps}):
        try:
            plan = pipeline.plan(steps, starts=steps <= MOST_BEGUN or steps == pipeline.steps)
        except UserError:
            if steps == pipeline.steps:
                raise
            continue  # some schedulers know a few numbers of steps alone
        plans[str(steps)] = (plan if guided is None else plan.guided_between(*guided)).to_json()
    return plans


def _plans_of_size(
    pipeline: TextToImage, denoiser: Denoiser, guided: tuple[float, float] | None
) -> dict[str, dict] | None:
    """Plans for the size of a denoiser; None where they are those of the default size."""
    own = pipeline.of_tokens(denoiser.image_tokens())
    if own.plan(own.steps) == pipeline.plan(pipeline.steps):
        return None
    return _plans(own, guided)


def _write_golden(written: bundle.Bundle, recipe: Recipe, pipeline: TextToImage) -> dict:
    """The manifest's `golden`; draws the bundle's own picture, for any device to compare its own with."""
    embedded = (written.manifest["prompt"]["embedded"] or {"prompts": []})["prompts"]
    prompt, sampling = next(iter([*embedded, *pipeline.prompts]), ""), written.sampling
    name, guidance, negative = (sampling[key] for key in ("plan", "guidance", "negative"))
    wish = Wish(prompt, written.plan(name), guidance, GOLDEN_SEED, negative)
    drawn = picture(backend(written.target).runner(written), wish)
    (written.folder / "golden").mkdir()
    save_png(drawn, written.folder / "golden/picture.png")
    bits = recipe.weight_bits, recipe.activation_bits
    return {
        "file": "golden/picture.png",
        "prompt": prompt,
        "negative": negative,
        "seed": GOLDEN_SEED,
        "plan": name,
        "guidance": guidance,
        "psnr_db": next(db for *least, db in GOLDEN_PSNR_DB if bits[0] >= least[0] and bits[1] >= least[1]),
    }
