"""The steps behind the commands: model -> calibrate -> quantize -> checkpoint -> evaluate, and bundle -> picture."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from edge_hadanorm import bundle as bundles
from edge_hadanorm import checkpoint, files
from edge_hadanorm.bundle.runner import ExecuTorchRunner, has_executorch
from edge_hadanorm.checkpoint import Checkpoint, Text, float_model
from edge_hadanorm.console import progress, say
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters import targets
from edge_hadanorm.measure import dry_run as plan
from edge_hadanorm.measure import evaluation
from edge_hadanorm.method import recipe as recipes
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.models.calls import Inputs, captured
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.drawing import Stopwatch, picture
from edge_hadanorm.pipelines.loading import Source
from edge_hadanorm.pipelines.pictures import save_png
from edge_hadanorm.pipelines.trajectories import (
    Trajectories,
    _has_prompts,
    calibration_prompts,
    evaluation_data,
    evaluation_prompts,
)
from edge_hadanorm.quantization import calibration
from edge_hadanorm.quantization import quantize as quantization

# PixArt-alpha's, where a transformer comes alone and without captured inputs.
DEFAULT_TEXT_TOKENS = 120


def pick_device(name: str) -> str:
    """A torch device by name; auto takes an accelerator where there is one."""
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if usable[device])
    if name not in usable:
        raise UserError(f"unknown device {name!r}; devices: auto, {', '.join(usable)}")
    if not usable[name]:
        raise UserError(f"device {name} is not available here; use --device auto")
    return name


def quantize(
    model_name: str,
    recipe_name: str,
    out: Path,
    prompts: list[str] | None = None,
    inputs_file: Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    average_bits: float | None = None,
) -> dict:
    """Quantize a model into the checkpoint folder `out`; returns its metrics. See `edge-hadanorm quantize --help`."""
    recipe = _recipe(recipe_name, average_bits)
    device = pick_device(device)
    target = Path(os.path.realpath(out))
    state = target.with_name(f".{target.name}.calibration.safetensors")
    with files.new_folder(out, force) as folder, _forgotten(state):
        model = loading.load(model_name)
        quantization.check_recipe(recipe, model.denoiser)
        denoiser = model.denoiser.to(device)
        run, inputs, record = _calibration_samples(model, recipe, prompts, inputs_file, steps, seed)
        moments = None
        if recipe.needs_moments:
            key = _fingerprint(model, [prompts, steps, seed], inputs)
            moments = calibration.calibrate(denoiser, run, progress("calibrating"), state, key)
        calls = record() if recipe.needs_calls else []
        if model.pipeline is not None:
            model.pipeline.release([*(prompts or []), *evaluation_prompts(model.pipeline.prompts)])
        original = evaluation.Original.of(denoiser.cpu(), *_held_out(model, inputs))
        layers = evaluation.Layers(denoiser, original.inputs)

        def done(stage: int, quantized: Denoiser) -> None:
            layers.compare(stage, denoiser, quantized)
            denoiser.release(stage)

        quantized = quantization.quantize(denoiser, recipe, moments, run, calls, progress("quantizing"), done)
        saved = Checkpoint(model.name, recipe, quantized, _text(model, inputs), model.pipeline)
        checkpoint.save(folder, saved)
        drawn = original.trajectories and evaluation.pictures(quantized, original.trajectories)
        metrics = evaluation.measure(original, quantized, drawn, layers.db(), recipe.name)
        files.write_json(folder / "metrics.json", metrics)
    calibration.forget(state)
    return metrics


@contextmanager
def _forgotten(state: Path) -> Iterator[None]:
    """Without a calibration's state after a mistake, which would come again; an interrupted one goes on from it."""
    try:
        yield
    except (UserError, OSError):
        calibration.forget(state)
        raise


def dry_run(
    model_name: str,
    recipe_name: str,
    prompts: list[str] | None = None,
    inputs_file: Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    average_bits: float | None = None,
) -> str:
    """What `quantize` would make of a model, and an export of that; no weight is read and nothing is written."""
    recipe, model = _recipe(recipe_name, average_bits), loading.outline(model_name)
    quantization.check_recipe(recipe, model.denoiser)
    count, inputs = 0, None
    if inputs_file is not None or (model.pipeline is not None and (prompts or model.pipeline.prompts)):
        run, inputs, _ = _calibration_samples(model, recipe, prompts, inputs_file, steps, seed)
        count = len(run)
    if inputs is not None:
        given = f"{count} captured inputs"
    elif count:
        given = f"{count} prompt{'s' * (count > 1)} of {steps or model.pipeline.steps} steps each"
    else:
        refused = f"nothing yet, which this recipe refuses: give {_ways_to_calibrate(model)}"
        given = refused if recipe.needs_calibration else "nothing"
    return plan.describe(model, recipe, given, None if model.pipeline else _text(model, inputs))


def _recipe(name: str, average_bits: float | None) -> Recipe:
    recipe = recipes.load(name)
    return recipe if average_bits is None else recipes.budgeted(recipe, average_bits)


def _calibration_samples(
    model: Source, recipe, prompts, inputs_file, steps, seed
) -> tuple[list, list[Inputs] | None, Callable[[], list[Inputs]]]:
    """Calls that run the float denoiser, captured inputs where they come from a file, and what records the inputs."""
    if inputs_file is not None:
        inputs = captured(inputs_file, model.denoiser)
        return [partial(call.run, model.denoiser) for call in inputs], inputs, lambda: inputs
    if model.pipeline is not None:
        prompts = prompts or calibration_prompts(model)
    if model.pipeline is None or not prompts:
        if recipe.needs_calibration:
            ways = _ways_to_calibrate(model)
            raise UserError(f"recipe {recipe.name} needs calibration data, and {model.name} has none: give {ways}")
        return [], None, list
    steps = model.pipeline.steps if steps is None else steps
    trajectories = Trajectories(model.pipeline, prompts, steps, model.pipeline.guidance, seed)
    record = partial(trajectories.record, model.denoiser, progress("recording"))
    return trajectories.samples(model.denoiser), None, record


def _ways_to_calibrate(model: Source) -> str:
    return "--prompts FILE or --inputs FILE" if model.pipeline else "--inputs FILE"


def _text(model: Source, inputs: list[Inputs] | None) -> Text:
    """What the exported programs will be given of a prompt."""
    if model.pipeline is not None:
        return Text.of(model.pipeline.prompt(""))
    if inputs is not None:
        return Text.of(inputs[0].prompt)
    return Text(DEFAULT_TEXT_TOKENS if "text" in model.denoiser.prompt_shapes(1) else 0)


def _held_out(model: Source, inputs: list[Inputs] | None) -> tuple[list[Inputs], Trajectories | None]:
    """What is measured on: held-out trajectories, else the captured inputs, else nothing but sizes."""
    return evaluation_data(model, None) if _has_prompts(model) else (inputs or [], None)


def evaluate(quantized: Path, inputs_file: Path | None, reference: str | None) -> dict:
    """Metrics of a checkpoint against its float model."""
    saved = checkpoint.load(quantized)
    model = float_model(quantized, saved, reference)
    inputs, trajectories = evaluation_data(model, inputs_file)
    return evaluation.evaluate(model.denoiser, saved.denoiser, inputs, trajectories, saved.recipe.name)


def generate(
    folder: Path,
    prompt: str,
    out: Path,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    backend: str = "auto",
) -> tuple[float | None, str]:
    """Draw a prompt with a bundle into a PNG; returns milliseconds a step and the runner's name."""
    loaded = bundles.load(folder)
    sampling = loaded.manifest["sampling"]
    if sampling is None:
        raise UserError(f"bundle {folder} holds a transformer alone: it cannot draw prompts")
    table = loaded.table(sampling["steps"] if steps is None else steps)
    if backend == "auto" and not targets.runs_here(loaded.target):
        backend = "simulation"
    if backend == "auto":
        backend = "executorch" if has_executorch() else "simulation"
        if backend == "simulation":
            say("edge-hadanorm: no ExecuTorch runtime here (pip install executorch): simulating in PyTorch")
    if backend == "executorch" and not targets.runs_here(loaded.target):
        hardware = targets.row(loaded.target).hardware
        raise UserError(f"bundle {folder} is for {loaded.target}, which runs on {hardware}: --backend simulation")
    if backend == "executorch" and not has_executorch():
        raise UserError("no ExecuTorch runtime here: pip install executorch, or use --backend simulation")
    runner = ExecuTorchRunner(loaded) if backend == "executorch" else targets.simulation(loaded)
    if out.suffix.lower() != ".png":
        raise UserError(f"{out} is no .png: pictures are written as PNG")
    watch = Stopwatch()
    guidance = sampling["guidance"] if guidance is None else guidance
    with files.new_file(out) as partial:
        save_png(picture(runner, prompt, table, guidance, seed, watch), partial)
    return watch.milliseconds, backend


def _fingerprint(model: Source, settings: list, inputs: list[Inputs] | None) -> str:
    """What a calibration state depends on: the weights and the samples."""
    own = [model.pipeline.prompts, model.pipeline.guidance] if model.pipeline else None
    digest = hashlib.blake2b(json.dumps([model.config, settings, own]).encode())
    tensors = [*model.denoiser.state_dict().values()]
    for call in inputs or []:
        tensors += [call.latents, call.timestep, *call.prompt.values()]
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
