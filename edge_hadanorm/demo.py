"""`edge-hadanorm demo`: the reference model by every method, one bundle of it, and the pictures side by side."""

import dataclasses
import time
from pathlib import Path
from typing import cast

import torch
from matplotlib.figure import Figure

from edge_hadanorm import files, workflow
from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.measure.evaluation import Original, denoiser_sqnr_db, mean_psnr_db
from edge_hadanorm.measure.sizes import bits_summary, megabytes
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.drawing import Runner, Stopwatch, TorchRunner
from edge_hadanorm.pipelines.pictures import save_png, to_pixels
from edge_hadanorm.pipelines.text_to_image import TextToImage
from edge_hadanorm.pipelines.trajectories import Trajectories, evaluation_trajectories
from edge_hadanorm.progress import Progress, Status, quiet, silent
from edge_hadanorm.tables import table

METHODS = ("rtn", "smoothquant", "quarot", "hadanorm", "hadanorm-balanced", "hadanorm-auto")
RECIPES = tuple(f"{method}-{form}" for form in ("w4a4", "w4a8") for method in METHODS)
EXPORTED = "hadanorm-auto-w4a8"
SHOWN = ("rtn-w4a4", "hadanorm-auto-w4a4", EXPORTED)
HEADER = ("recipe", "denoiser SQNR dB", "picture PSNR dB", "size MB", "simulated ms a step", "ExecuTorch ms a step")


@dataclasses.dataclass(frozen=True)
class Drawing:
    """latents [N, C, H, W] of some prompts, and the median milliseconds of a step."""

    latents: torch.Tensor
    milliseconds: float | None


def demo(out: str | Path, *, force: bool = False, progress: Progress = silent, status: Status = quiet) -> str:
    """Fill the folder `out`: checkpoint/, bundle/, pictures/, comparison.png, results.json; returns the table."""
    started = time.monotonic()
    with files.new_folder(out, force) as folder:
        model = workflow.load("reference")
        held_out, pipeline = evaluation_trajectories(model), cast(TextToImage, model.pipeline)
        calibration = workflow.calibrate(model)
        exact = Original.of(model.denoiser, held_out.record(model.denoiser, progress("recording")))
        original = _draw(TorchRunner(model.denoiser, pipeline), held_out)
        results, drawings = [], {"original, float32": original}
        for name in progress("quantizing")(RECIPES):
            quantized = workflow.quantize(model, name, calibration=calibration, measure=False)
            drawing = _draw(TorchRunner(quantized.denoiser, pipeline), held_out)
            results.append(_result(name, exact, quantized.denoiser, original, drawing))
            if name in SHOWN:
                drawings[f"{name}, simulated"] = drawing
            if name == EXPORTED:
                workflow.save(quantized, folder / "checkpoint")
        bundle = workflow.export(folder / "checkpoint", folder / "bundle", status=status)
        device = _draw(ExecuTorchRunner(bundle), held_out)
        exported = results[RECIPES.index(EXPORTED)]
        exported["executorch_ms"] = device.milliseconds
        exported["executorch_to_simulation_psnr_db"] = _psnr(device, drawings[f"{EXPORTED}, simulated"])
        drawings[f"{EXPORTED}, on ExecuTorch"] = device
        (folder / "pictures").mkdir()
        for prompt, latents in zip(held_out.prompts, device.latents, strict=True):
            save_png(latents, folder / "pictures" / f"{prompt.replace(' ', '-')}.png")
        comparison(drawings, held_out.prompts).savefig(folder / "comparison.png", dpi=110)
        files.write_json(folder / "results.json", results)
    agreement = exported["executorch_to_simulation_psnr_db"]
    return "\n".join(
        [
            table(HEADER, [_row(result) for result in results]),
            f"\n{EXPORTED}: pictures on ExecuTorch and simulated agree to {agreement:.1f} dB PSNR",
            f"{out}/comparison.png and {out}/bundle, in {time.monotonic() - started:.0f} s",
        ]
    )


def _draw(runner: Runner, trajectories: Trajectories) -> Drawing:
    """One picture a prompt."""
    watch = Stopwatch()
    drawn = [draw() for draw in trajectories.pictures(runner, watch)]
    return Drawing(torch.stack(drawn), watch.milliseconds)


def _psnr(a: Drawing, b: Drawing) -> float:
    return mean_psnr_db(to_pixels(a.latents), to_pixels(b.latents))


def _result(name: str, exact: Original, quantized: Denoiser, original: Drawing, drawing: Drawing) -> dict:
    return {
        "recipe": name,
        "denoiser_sqnr_db": denoiser_sqnr_db(exact, quantized),
        "image_psnr_db": _psnr(drawing, original),
        "megabytes": megabytes(bits_summary(quantized)),
        "simulated_ms": drawing.milliseconds,
        "executorch_ms": None,
    }


def _row(result: dict) -> tuple[str, ...]:
    numbers = [
        result[key] for key in ("denoiser_sqnr_db", "image_psnr_db", "megabytes", "simulated_ms", "executorch_ms")
    ]
    return result["recipe"], *(
        "-" if n is None else f"{n:.{digits}f}" for n, digits in zip(numbers, (2, 1, 1, 1, 1), strict=True)
    )


def comparison(drawings: dict[str, Drawing], prompts: list[str]) -> Figure:
    """A row of pictures for each drawing, a column for each prompt."""
    figure = Figure(figsize=(1.25 * len(prompts) + 1.9, 1.32 * len(drawings) + 0.5), layout="constrained")
    axes = figure.subplots(len(drawings), len(prompts), squeeze=False)
    for row, (label, drawing) in zip(axes, drawings.items(), strict=True):
        for axis, latents in zip(row, drawing.latents, strict=True):
            axis.imshow(to_pixels(latents).permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(label.replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=9)
    for axis, prompt in zip(axes[0], prompts, strict=True):
        axis.set_title(prompt.replace(" with ", "\nwith ").replace(" and ", "\nand "), fontsize=8)
    return figure
