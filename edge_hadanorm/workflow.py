"""The steps behind the commands: model -> calibrate -> quantize -> checkpoint -> evaluate, and bundle -> picture."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from edge_hadanorm import bundle as bundles
from edge_hadanorm import calibration, checkpoint, files, plan, samples, source
from edge_hadanorm import evaluate as evaluation
from edge_hadanorm import quantize as quantization
from edge_hadanorm import recipe as recipes
from edge_hadanorm.checkpoint import Checkpoint, Text
from edge_hadanorm.console import progress, say
from edge_hadanorm.errors import UserError
from edge_hadanorm.metrics import save_png
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.recipe import Recipe
from edge_hadanorm.runtime import ExecuTorchRunner, Runner, Stopwatch, TorchRunner, has_executorch, picture
from edge_hadanorm.samples import Inputs, Trajectories
from edge_hadanorm.source import Source

# PixArt-alpha's, where a transformer comes alone and without captured inputs.
DEFAULT_TEXT_TOKENS = 120
CALIBRATION_PROMPTS = 32
EVALUATION_PROMPTS = 8
# Targets whose programs no runtime runs on this machine, but an interpreter.
NOT_HERE = ("coreml", "coreml-pte")
# Far from the calibration's, which count from --seed.
EVALUATION_SEED = 1_000_000


def read_prompts(file: Path) -> list[str]:
    """The non-empty lines of a text file."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"prompts file {file} cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"prompts file {file} is not text in UTF-8; save it as such") from None
    if not lines:
        raise UserError(f"prompts file {file} is empty: one prompt a line")
    return lines


def spread(prompts: list[str], count: int, offset: float) -> list[str]:
    """`count` prompts evenly spaced over a list, the first at a fraction `offset` of the spacing."""
    spacing = max(1.0, len(prompts) / count)
    return [prompts[int((i + offset) * spacing)] for i in range(min(count, len(prompts)))]


def calibration_prompts(model: Source) -> list[str]:
    """Prompts of the model's own to calibrate on; `evaluation_prompts` has none of them."""
    return spread(model.pipeline.prompts, CALIBRATION_PROMPTS, 0)


def evaluation_prompts(prompts: list[str], count: int = EVALUATION_PROMPTS) -> list[str]:
    """Prompts that calibration does not take, where it leaves any."""
    taken = set(spread(prompts, CALIBRATION_PROMPTS, 0))
    return spread([prompt for prompt in prompts if prompt not in taken] or prompts, count, 0.5)


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
        model = source.load(model_name)
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
    recipe, model = _recipe(recipe_name, average_bits), source.outline(model_name)
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
        inputs = samples.captured(inputs_file, model.denoiser)
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


def _has_prompts(model: Source) -> bool:
    return model.pipeline is not None and bool(model.pipeline.prompts)


def evaluation_data(model: Source, inputs_file: Path | None) -> tuple[list[Inputs], Trajectories | None]:
    """Calls to evaluate on, of a captured file, else of the trajectories on held-out prompts, which come with them."""
    if inputs_file is not None:
        return samples.captured(inputs_file, model.denoiser), None
    if not _has_prompts(model):
        raise UserError(f"{model.name} has no prompts to evaluate on: give captured inputs as --inputs FILE")
    trajectories = evaluation_trajectories(model)
    return trajectories.record(model.denoiser, progress("evaluating")), trajectories


def evaluation_trajectories(model: Source, count: int = EVALUATION_PROMPTS) -> Trajectories:
    """Pictures of the model's own prompts and of seeds that calibration does not see."""
    pipeline = model.pipeline
    prompts = evaluation_prompts(pipeline.prompts, count)
    return Trajectories(pipeline, prompts, pipeline.steps, pipeline.guidance, EVALUATION_SEED)


def evaluate(quantized: Path, inputs_file: Path | None, reference: str | None) -> dict:
    """Metrics of a checkpoint against its float model."""
    saved = checkpoint.load(quantized)
    model = float_model(quantized, saved, reference)
    inputs, trajectories = evaluation_data(model, inputs_file)
    return evaluation.evaluate(model.denoiser, saved.denoiser, inputs, trajectories, saved.recipe.name)


def float_model(folder: Path, saved: Checkpoint, reference: str | None) -> Source:
    """What the checkpoint in `folder` was quantized from, or the `reference` where it is given."""
    model = source.load(reference or saved.source)
    check_config(folder, saved, model)
    return model


def check_config(folder: Path, saved: Checkpoint, model: Source) -> None:
    """Raises UserError where the checkpoint in `folder` cannot be of this model."""
    if saved.denoiser.config != model.denoiser.config:
        raise UserError(f"{model.name} has another transformer config than {folder}; give its model as --reference")


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
    if backend == "auto" and loaded.target in NOT_HERE:
        backend = "simulation"
    if backend == "auto":
        backend = "executorch" if has_executorch() else "simulation"
        if backend == "simulation":
            say("edge-hadanorm: no ExecuTorch runtime here (pip install executorch): simulating in PyTorch")
    if backend == "executorch" and loaded.target in NOT_HERE:
        raise UserError(f"bundle {folder} is for {loaded.target}, which runs on Apple's systems: --backend simulation")
    if backend == "executorch" and not has_executorch():
        raise UserError("no ExecuTorch runtime here: pip install executorch, or use --backend simulation")
    runner = ExecuTorchRunner(loaded) if backend == "executorch" else simulation(loaded)
    if out.suffix.lower() != ".png":
        raise UserError(f"{out} is no .png: pictures are written as PNG")
    watch = Stopwatch()
    guidance = sampling["guidance"] if guidance is None else guidance
    with files.new_file(out) as partial:
        save_png(picture(runner, prompt, table, guidance, seed, watch), partial)
    return watch.milliseconds, backend


def simulation(loaded: bundles.Bundle) -> Runner:
    """A bundle's checkpoint in PyTorch; or its own programs, where they are Core ML's and their tools are here."""
    if loaded.target in NOT_HERE and find_spec("coremltools"):
        from edge_hadanorm.export import writer

        return writer.backend(loaded.target).runner(loaded)
    saved = _carried(loaded)
    return TorchRunner(saved.denoiser, saved.pipeline, loaded.decode_side)


def quantized_model(path: Path) -> Checkpoint:
    """A checkpoint, or the one that a bundle carries."""
    return _carried(bundles.load(path)) if (path / bundles.MANIFEST).exists() else checkpoint.load(path)


def _carried(loaded: bundles.Bundle) -> Checkpoint:
    if loaded.manifest["simulation"] is None:
        raise UserError(
            f"bundle {loaded.folder} carries no checkpoint to simulate: draw with --backend executorch, or give the "
            "checkpoint that it was exported from"
        )
    return checkpoint.load(loaded.folder / loaded.manifest["simulation"])


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
