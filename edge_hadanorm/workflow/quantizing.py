"""Steps from a float model to a quantized one: load, calibrate, quantize, dry run, save."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from edge_hadanorm import checkpoint, files
from edge_hadanorm.checkpoint import Checkpoint, Text
from edge_hadanorm.errors import UserError
from edge_hadanorm.measure import dry_run as dry_runs
from edge_hadanorm.measure import evaluation
from edge_hadanorm.method import recipe as recipes
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.models.calls import Captured, Inputs, captured_size
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines import in_memory, loading
from edge_hadanorm.pipelines.loading import FloatModel, Size
from edge_hadanorm.pipelines.trajectories import Trajectories, evaluation_data, evaluation_prompts, has_prompts
from edge_hadanorm.progress import Progress, Status, quiet, silent
from edge_hadanorm.quantization import calibration as calibration_state
from edge_hadanorm.quantization import quantize as quantization
from edge_hadanorm.workflow import calibration_data
from edge_hadanorm.workflow.calibration_data import CalibrationData, Prompts, collect
from edge_hadanorm.workflow.sampling_defaults import Sampling

# PixArt-alpha's, where a transformer comes alone and without captured inputs.
DEFAULT_TEXT_TOKENS = 120

# The name of a model (`reference`, a folder of diffusers, a hub id), or one in memory: of `load`, or of diffusers.
Model = str | Path | FloatModel | object


def load(model: Model, *, size: tuple[int, int] | None = None) -> FloatModel:
    """Load a float model: `reference`, a diffusers pipeline or transformer folder, a hub id, or a diffusers object.

    >>> edge_hadanorm.load("reference").transformer_class
    'PixArtTransformer2DModel'

    size: width and height of its pictures in pixels, by default as its config has them. Raises UserError for what is
    missing, broken, unsupported or not finite, and for a size that the model cannot have.
    """
    return load_sized(model, Size(picture=size))


def load_sized(model: Model, size: Size) -> FloatModel:
    """Load a float model for a size of pictures or of latents."""
    if isinstance(model, FloatModel):
        return loading.resized(model, size)
    return loading.load(str(model), size) if isinstance(model, str | Path) else in_memory.from_memory(model, size)


def _size(size: tuple[int, int] | None, prompts: Prompts | None, inputs: Captured | None) -> Size:
    """The size that the user gives, or that captured inputs have. Raises UserError for prompts and inputs."""
    calibration_data.check_one(prompts, inputs)
    if size is not None or inputs is None:
        return Size(picture=size)
    return Size(latents=captured_size(inputs))


def told(model: FloatModel, status: Status) -> FloatModel:
    """The model, with its notes told."""
    for note in model.notes:
        status(note)
    return model


def calibrate(
    model: Model,
    *,
    prompts: Prompts | None = None,
    inputs: Captured | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    eta: float | None = None,
    scheduler: str | Path | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
) -> CalibrationData:
    """Collect calibration data of a float model for several `quantize` calls, which then measure it once.

    >>> model = edge_hadanorm.load("reference")
    >>> data = edge_hadanorm.calibrate(model, prompts=["red apple", "yellow star"], steps=2)
    >>> for name in ("smoothquant-w4a8", "hadanorm-balanced-w4a8"):
    ...     quantized = edge_hadanorm.quantize(model, name, calibration=data, measure=False)

    Raises UserError where there is nothing to calibrate on; see `quantize` for the arguments.
    """
    model = Sampling(steps, guidance, negative, eta, scheduler).of_model(
        load_sized(model, _size(size, prompts, inputs))
    )
    data = collect(model, prompts, inputs, seed)
    if data is None:
        raise UserError(f"{model.name} has nothing to calibrate on: give {calibration_data.missing(model)}")
    return data


def quantize(
    model: Model,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    out: str | Path | None = None,
    prompts: Prompts | None = None,
    *,
    inputs: Captured | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    eta: float | None = None,
    scheduler: str | Path | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    device: str = "auto",
    average_bits: float | None = None,
    calibration: CalibrationData | None = None,
    measure: bool = True,
    force: bool = False,
    progress: Progress = silent,
    status: Status = quiet,
) -> Checkpoint:
    """Quantize a model by a recipe; with `out`, write the checkpoint folder too.

    >>> quantized = edge_hadanorm.quantize("reference", "rtn-w8a8", out="checkpoint")
    >>> round(quantized.metrics["denoiser_sqnr_db"])
    43

    model: see `load`; one in memory is left as it is. recipe: a name of `recipes`, a .json file or a `Recipe`.
    prompts, inputs: what to calibrate on, see `calibration_data.collect`; by default the model's own prompts. steps,
    guidance, negative, eta, scheduler: of pictures, in calibration and as defaults of the checkpoint and its bundles,
    see `sampling_defaults.Sampling`; None: the pipeline's own. size: width and height of pictures in pixels, by default
    as the config, or captured inputs, have them. seed: of the first picture's noise. device: where
    calibration runs. average_bits: weight bits on average, more where it matters. calibration: data of this model, in
    place of prompts, inputs, seed and what sampling takes.
    measure: whether to fill `metrics` on held-back prompts, else on the inputs. force: replace an earlier `out`.
    progress, status: what is shown of long work, nothing by default.

    With `out`, a calibration that was interrupted goes on where it stopped. Raises UserError for a user's mistake, and
    then nothing is left at `out`.
    """
    recipe, device = _recipe(recipe, average_bits), pick_device(device)
    with _new_checkpoint(out, force) as (folder, state):
        borrowed = not isinstance(model, str | Path)
        model = Sampling(steps, guidance, negative, eta, scheduler).of_model(
            told(load_sized(model, _size(size, prompts, inputs)), status)
        )
        if calibration is not None and not _is_same(calibration.model, model):
            raise UserError(
                f"the calibration data are of {calibration.model.name} as loaded for them: give their `model`"
            )
        model = calibration.model if calibration is not None else model
        quantization.check_recipe(recipe, model.denoiser)
        denoiser = model.denoiser.to(device)
        data = calibration or collect(model, prompts, inputs, seed) or CalibrationData(model)
        if recipe.needs_calibration and not data.runs:
            ways = calibration_data.missing(model)
            raise UserError(f"recipe {recipe.name} needs calibration data, and {model.name} has none: give {ways}")
        moments = data.moments(progress, state) if recipe.needs_moments else None
        calls = data.calls(progress) if recipe.needs_calls else []
        denoiser.cpu()
        if model.pipeline is not None:
            model.pipeline.release([*data.prompts, *evaluation_prompts(model.pipeline.prompts)])
        original = evaluation.Original.of(denoiser, *_held_out(model, data.inputs, measure, progress))
        layers = evaluation.Layers(denoiser, original.inputs)

        def done(stage: int, quantized: Denoiser) -> None:
            layers.compare(stage, denoiser, quantized)
            if not borrowed:
                denoiser.release(stage)

        quantized = quantization.quantize(denoiser, recipe, moments, data.runs, calls, progress("quantizing"), done)
        saved = Checkpoint(model.name, recipe, quantized, _text(model, data.inputs), model.pipeline)
        if folder is not None:
            checkpoint.save(folder, saved)
        if measure:
            held_out = original.trajectories
            drawn = evaluation.pictures(quantized, held_out) if held_out else None
            saved = replace(saved, metrics=evaluation.measure(original, quantized, drawn, layers.db(), recipe.name))
        if folder is not None:
            checkpoint.save_metrics(folder, saved)
    return saved


def _is_same(model: FloatModel, other: FloatModel) -> bool:
    """Whether calibration data of one model are of the other: the same weights, at whatever size and sampling."""
    tensors = (next(own.denoiser.parameters()) for own in (model, other))
    return next(tensors).data_ptr() == next(tensors).data_ptr()


@contextmanager
def _new_checkpoint(out: str | Path | None, force: bool) -> Iterator[tuple[Path | None, Path | None]]:
    """A folder that becomes `out`, and the file of a calibration's state beside it; nothing without `out`.

    The state is left where the run is interrupted, so that the next one goes on from it, and removed after a mistake,
    which would come again.
    """
    if out is None:
        yield None, None
        return
    target = Path(os.path.realpath(out))
    state = target.with_name(f".{target.name}.calibration.safetensors")
    with files.new_folder(out, force) as folder:
        try:
            yield folder, state
        except (UserError, OSError):
            calibration_state.forget(state)
            raise
    calibration_state.forget(state)


def dry_run(
    model: str | Path,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    prompts: Prompts | None = None,
    *,
    inputs: Captured | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    eta: float | None = None,
    scheduler: str | Path | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    average_bits: float | None = None,
    status: Status = quiet,
) -> str:
    """Describe what `quantize` would make of a model, and an export of that: linears, folding, sizes, memory, programs.

    No weight is read and nothing is written. See `quantize` for the arguments. Raises UserError as it does.
    """
    recipe, outlined = (
        _recipe(recipe, average_bits),
        told(loading.outline(str(model), _size(size, prompts, inputs)), status),
    )
    outlined = Sampling(steps, guidance, negative, eta, scheduler).of_model(outlined)
    quantization.check_recipe(recipe, outlined.denoiser)
    data = collect(outlined, prompts, inputs, seed)
    if data is None:
        refused = f"nothing yet, which this recipe refuses: give {calibration_data.missing(outlined)}"
        source = refused if recipe.needs_calibration else "nothing"
    elif data.inputs is not None:
        source = f"{len(data.runs)} captured inputs"
    else:
        count = len(data.runs)
        each = outlined.pipeline.steps if outlined.pipeline else 0
        source = f"{count} prompt{'s' * (count > 1)} of {each} steps each"
    text = None if outlined.pipeline else _text(outlined, data.inputs if data else None)
    return dry_runs.describe(outlined, recipe, source, text)


def save(quantized: Checkpoint, out: str | Path, *, force: bool = False) -> None:
    """Write a quantized model as a checkpoint folder, which `load_checkpoint` reads.

    force: replace an earlier one. Raises UserError where it cannot be written, and then nothing is left at `out`.
    """
    with files.new_folder(out, force) as folder:
        checkpoint.save(folder, quantized)
        checkpoint.save_metrics(folder, quantized)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a quantized model from a checkpoint folder, or from a bundle that carries one.

    Raises UserError for a folder that is neither, and for a broken one.
    """
    return checkpoint.quantized_model(Path(folder))


def pick_device(name: str) -> str:
    """A torch device by name; auto takes an accelerator where there is one. Raises UserError for an unknown one."""
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if usable[device])
    if name not in usable:
        raise UserError(f"unknown device {name!r}; devices: auto, {', '.join(usable)}")
    if not usable[name]:
        raise UserError(f"device {name} is not available here; take `device` auto")
    return name


def _recipe(recipe: str | Path | Recipe, average_bits: float | None) -> Recipe:
    own = recipe if isinstance(recipe, Recipe) else recipes.load(str(recipe))
    return own if average_bits is None else recipes.set_budget(own, average_bits)


def _text(model: FloatModel, inputs: list[Inputs] | None) -> Text:
    """Size of a prompt as the exported programs will be given it."""
    if model.pipeline is not None:
        return Text.of(model.pipeline.prompt("", negative=True))
    if inputs is not None:
        return Text.of(inputs[0].prompt)
    return Text(DEFAULT_TEXT_TOKENS if "text" in model.denoiser.prompt_shapes(1) else 0)


def _held_out(
    model: FloatModel, inputs: list[Inputs] | None, measure: bool, progress: Progress
) -> tuple[list[Inputs], Trajectories | None]:
    """Choose what is measured on: held-out trajectories, else the captured inputs, else nothing but sizes."""
    if not measure:
        return [], None
    return evaluation_data(model, None, progress("evaluating")) if has_prompts(model) else (inputs or [], None)
