"""A report of what quantization does to a model, as one HTML page that needs nothing else.

It is measured here, drawn in plots.py and laid out in report.html.j2.
"""

import base64
import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from edge_hadanorm import files
from edge_hadanorm.checkpoint import Checkpoint, check_config, float_model, quantized_model
from edge_hadanorm.errors import UserError
from edge_hadanorm.measure import activations, evaluation, inspection, plots
from edge_hadanorm.measure.activations import Activation
from edge_hadanorm.measure.evaluation import Original
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.measure.sizes import megabytes
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.models import denoiser
from edge_hadanorm.models.calls import Captured
from edge_hadanorm.pipelines.loading import FloatModel
from edge_hadanorm.pipelines.trajectories import evaluation_data
from edge_hadanorm.progress import Progress, silent
from edge_hadanorm.tables import is_number
from edge_hadanorm.version import VERSION

# Number of inputs whose distributions are shown.
SHOWN_INPUTS = 4
# Screen pixels a side that a small picture is enlarged to at most, by a whole number, and a large one reduced to.
PICTURE_SIDE = 96
NONE = "–"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A checkpoint on the page, under its own label. pictures: uint8 [N, C, H, W], or None without prompts."""

    path: Path
    label: str
    colour: str
    saved: Checkpoint
    metrics: dict
    pictures: torch.Tensor | None


def run(
    paths: list[Path],
    out: Path,
    inputs: Captured | None,
    reference: str | None,
    force: bool,
    progress: Progress = silent,
) -> str:
    """Write the page `out` about the first path, beside the others; returns a line with their labels.

    inputs: captured inputs to measure on instead of held-out prompts. reference: the float model, by default the one
    that the first was quantized from. force: replace an existing page. Raises UserError for checkpoints of several
    float models, for nothing to measure on, and for a file that cannot be written.
    """
    if out.suffix.lower() != ".html":
        raise UserError(f"{out} is no .html: a report is written as HTML")
    if out.is_file() and not force:
        raise UserError(f"{out} exists; use `force` to replace it or give another `out`")
    with files.new_file(out) as partial:
        model, saved = _load(list(dict.fromkeys(paths)), reference)
        calls, trajectories = evaluation_data(model, inputs, progress("evaluating"))
        original = Original.of(model.denoiser, calls, trajectories)
        entries = _measure(model, saved, original, progress("measuring"))
        page = _page(model, entries, original)
        partial.write_text(page, encoding="utf-8")
    return f"{out}: {', '.join(entry.label for entry in entries)}"


def _load(paths: list[Path], reference: str | None) -> tuple[FloatModel, dict[Path, Checkpoint]]:
    """Load the float model, and the checkpoints by path. Raises UserError where they are not all of one float model."""
    saved = {path: quantized_model(path) for path in paths}
    model = float_model(paths[0], saved[paths[0]], reference)
    for path in paths[1:]:
        if reference is None and _place(saved[path].source) != _place(model.name):
            raise UserError(
                f"{path} was quantized from {saved[path].source}, {paths[0]} from {model.name}: "
                "a report compares checkpoints of one float model"
            )
        check_config(path, saved[path], model)
    return model, saved


def _place(source: str) -> str:
    """Resolve a model's name where it is a path, so that two ways to it are equal."""
    return os.path.realpath(source) if os.path.exists(source) else source


def _measure(
    model: FloatModel, saved: dict[Path, Checkpoint], original: Original, progress: Callable[[Iterable], Iterable]
) -> list[Entry]:
    entries = []
    names = [content.recipe.name for content in saved.values()]
    for i, (path, content) in enumerate(progress(saved.items())):
        trajectories = original.trajectories
        pictures = None if trajectories is None else evaluation.pictures(content.denoiser, trajectories)
        layers = evaluation.layer_sqnr_db(model.denoiser, content.denoiser, original.inputs)
        metrics = evaluation.measure(original, content.denoiser, pictures, layers, content.recipe.name)
        label = names[i] if names.count(names[i]) == 1 else f"{names[i]} ({path})"
        entries.append(Entry(path, label, plots.COLOURS[i % len(plots.COLOURS)], content, metrics, pictures))
    return entries


def _page(model: FloatModel, entries: list[Entry], original: Original) -> str:
    first, inputs, trajectories = entries[0], original.inputs, original.trajectories
    loader = PackageLoader("edge_hadanorm.measure", "")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return template.get_template("report.html.j2").render(
        version=VERSION,
        model=model,
        entries=entries,
        calls=len(inputs),
        trajectories=trajectories,
        summary=_summary(model, entries),
        grid=trajectories and _grid(trajectories.prompts, _drawings(entries, original)),
        timesteps=_timesteps(entries),
        layers=_layers(entries),
        activations=[
            _activation(shown)
            for shown in activations.measure(model.denoiser, first.saved.denoiser, inputs, SHOWN_INPUTS)
        ],
        raw_colour=plots.RAW,
        quantized_colour=plots.QUANTIZED,
        linear_header=inspection.LINEAR_HEADER,
        linears=inspection.linear_rows(first.saved.denoiser, first.metrics["layers"]),
        is_number=is_number,
    )


def _summary(model: FloatModel, entries: list[Entry]) -> list[dict]:
    """Make the rows of the table at the head: the float model's, then the checkpoints'."""
    size = sum(t.numel() * t.element_size() for t in model.denoiser.state_dict().values()) / 1e6
    return [
        {
            "label": "float32",
            "colour": None,
            "notes": [f"{model.transformer_class} of {model.name}"],
            "cells": ["32", "32", "32", f"{size:.1f}", NONE, NONE, NONE, NONE],
        }
    ] + [
        {
            "label": entry.label,
            "colour": entry.colour,
            "notes": [settings(entry.saved.recipe), f"{entry.path}, of {entry.saved.source}"],
            "cells": _cells(entry.metrics),
        }
        for entry in entries
    ]


def _cells(metrics: dict) -> list[str]:
    bits = metrics["bits"]
    return [
        str(bits["weight"]),
        str(bits["activation"]),
        f"{bits['average']:.3g}",
        f"{megabytes(bits):.1f}",
        f"{100 * metrics['online_cost']:.0f}",
        _number(metrics["denoiser_sqnr_db"], 2),
        _number(metrics["image_psnr_db"], 1),
        _number(metrics["image_ssim"], 3),
    ]


def settings(recipe: Recipe) -> str:
    """Name the settings of a recipe besides its bits that are not the defaults."""
    shown = {
        field.name.replace("_", " "): getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if not field.name.endswith(("name", "_bits")) and getattr(recipe, field.name) != field.default
    }
    words = [name if value is True else f"{name} {value}" for name, value in shown.items()]
    return ", ".join(words) or "no transform"


def _number(value: float | None, digits: int) -> str:
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.{digits}f}" if math.isfinite(value) else "∞" if value > 0 else "−∞"


def _drawings(entries: list[Entry], original: Original) -> list[tuple[str, str | None, torch.Tensor]]:
    """List the pictures uint8 [N, C, H, W] with their label and colour, the float model's first."""
    drawings = [("float32", None, original.pictures), *((e.label, e.colour, e.pictures) for e in entries)]
    return [(label, colour, pictures) for label, colour, pictures in drawings if pictures is not None]


def _grid(prompts: list[str], drawings: list[tuple[str, str | None, torch.Tensor]]) -> dict:
    """Make rows of pictures, each with its PSNR to the first row's, and the size in screen pixels to show them at."""
    original = drawings[0][2]
    height, width = original.shape[2:]
    zoom = PICTURE_SIDE // width or PICTURE_SIDE / width  # whole pixels where there is room for them
    rows = []
    for label, colour, pictures in drawings:
        decibels = [f"{_number(psnr_db(drawn, exact), 1)} dB" for drawn, exact in zip(pictures, original, strict=True)]
        notes = [None] * len(pictures) if pictures is original else decibels
        rows.append({"label": label, "colour": colour, "cells": list(zip(map(_picture, pictures), notes, strict=True))})
    size = {"width": round(zoom * width), "height": round(zoom * height), "enlarged": zoom >= 1}
    return size | {"prompts": prompts, "rows": rows}


def _picture(pixels: torch.Tensor) -> str:
    """Encode a picture uint8 [3, H, W] as the data URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _timesteps(entries: list[Entry]) -> dict:
    """Plot SQNR over timesteps, and find where the first checkpoint's is least."""
    timesteps = list(entries[0].metrics["timesteps"])
    series = _series(entries, "timesteps", timesteps)
    decibels = entries[0].metrics["timesteps"]
    lowest = min(timesteps, key=decibels.get)
    alt = f"Signal to quantization noise ratio over {len(timesteps)} timesteps"
    return {
        "plot": plots.over_timesteps([float(timestep) for timestep in timesteps], series, alt=alt),
        "lowest": (f"{float(lowest):g}", _number(decibels[lowest], 1)),
    }


def _layers(entries: list[Entry]) -> dict:
    """Plot SQNR for each kind of linear, and find the first checkpoint's lowest linear."""
    decibels = entries[0].metrics["layers"]
    kinds: dict[str, dict[int, str]] = {}
    for name in decibels:
        kind, block = denoiser.kind(name)
        kinds.setdefault(kind, {})[block] = name
    highest = max((db for e in entries for db in e.metrics["layers"].values() if math.isfinite(db)), default=1.0)
    panels = {}
    for kind, names in kinds.items():
        series = _series(entries, "layers", list(names.values()))
        alt = f"SQNR of the output of {kind} in each block"
        panels[kind] = plots.over_blocks(list(names), series, highest, alt=alt)
    lowest = min(decibels, key=decibels.get)
    return {"panels": panels, "lowest": (lowest, _number(decibels[lowest], 1))}


def _series(entries: list[Entry], measured: str, keys: list[str]) -> plots.Series:
    """Decibels of these keys by label; an infinite value leaves a gap."""
    series = {}
    for entry in entries:
        values = np.array([entry.metrics[measured][key] for key in keys])
        series[entry.label] = entry.colour, np.where(np.isfinite(values), values, np.nan)
    return series


def _activation(shown: Activation) -> dict:
    """Make the three plots of an input, and the numbers that its caption names."""
    x, z = shown.x, shown.z
    peak = max(x.peak, z.peak) or 1.0
    return {
        "name": shown.name,
        "steps": ", ".join(shown.steps),
        "tokens": shown.tokens,
        "plots": [
            plots.channels(x, plots.RAW, peak, alt=f"Ranges by channel of the input of {shown.name}"),
            plots.channels(z, plots.QUANTIZED, peak, alt=f"The same of what is quantized for {shown.name}"),
            plots.histogram(x, z, alt=f"Histograms of both for {shown.name}"),
        ],
        "changes": [
            (what, _number(getattr(x, field), 1), _number(getattr(z, field), 1), unit)
            for what, field, unit in (
                ("peak", "peak", " RMS"),
                ("largest channel", "channel_ratio", " times the median one"),
                ("kurtosis", "kurtosis", " (normal: 3)"),
            )
        ],
    }
