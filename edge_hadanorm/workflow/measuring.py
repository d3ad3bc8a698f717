"""Measurements and descriptions of a model: evaluate, report, inspect."""

from pathlib import Path

from edge_hadanorm import checkpoint
from edge_hadanorm.checkpoint import Checkpoint
from edge_hadanorm.extras import needed
from edge_hadanorm.measure import evaluation
from edge_hadanorm.models.calls import Captured
from edge_hadanorm.pipelines.trajectories import evaluation_data
from edge_hadanorm.progress import Progress, Status, quiet, silent
from edge_hadanorm.workflow.quantizing import Model, load, told


def evaluate(
    quantized: Checkpoint | str | Path,
    *,
    inputs: Captured | None = None,
    reference: Model | None = None,
    progress: Progress = silent,
    status: Status = quiet,
) -> dict:
    """Measure a quantized model against the float one, on prompts that calibration has not seen.

    >>> metrics = edge_hadanorm.evaluate("checkpoint")
    >>> round(metrics["denoiser_sqnr_db"]), metrics["bits"]["weight"]
    (43, 8)

    quantized: a model or its folder. inputs: captured inputs to measure on instead. reference: the float model, by
    default the one that it was quantized from. progress, status: what is shown, nothing by default.

    Returns SQNR of the denoiser and the layers and PSNR of pictures in decibels, SSIM, bits and bytes; None is what
    there is nothing to measure on. Raises UserError where there is no float model, no data, or another config.
    """
    saved = quantized if isinstance(quantized, Checkpoint) else checkpoint.load(Path(quantized))
    name = saved.recipe.name if isinstance(quantized, Checkpoint) else quantized
    model = told(load(saved.source if reference is None else reference), status)
    checkpoint.check_config(name, saved, model)
    model = checkpoint.sampled_alike(model, saved)
    data = evaluation_data(model, inputs, progress("evaluating"))
    return evaluation.evaluate(model.denoiser, saved.denoiser, *data, saved.recipe.name)


def report(
    paths: list[str | Path],
    out: str | Path,
    *,
    inputs: Captured | None = None,
    reference: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> str:
    """Write an HTML page `out` about the first of some checkpoints or bundles of one float model, beside the others.

    force: replace an earlier page. Returns a line that says what is on it. See `evaluate` for the other arguments.
    Raises UserError as it does.
    """
    with needed("report", "a report"):
        from edge_hadanorm.measure import report as reports  # matplotlib and jinja2, which little else needs

    return reports.run([Path(path) for path in paths], Path(out), inputs, reference, force, progress)


def inspect(path: str | Path) -> str:
    """Describe what a checkpoint, a bundle or a float model holds. Raises UserError for another folder."""
    from edge_hadanorm.measure import inspection

    return inspection.describe(Path(path))
