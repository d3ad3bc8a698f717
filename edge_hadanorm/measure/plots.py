"""Figures of a report, as inline SVG. Legends, titles and captions are the page's."""

import io
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edge_hadanorm.measure.activations import Distribution

# Colours of the checkpoints, in order; as far apart as they go for readers who do not see all colours.
COLOURS = ("#10618f", "#e2902b", "#8d939b", "#4f9d69", "#a9568f", "#b8533a")
# Colours of raw inputs, and of what is quantized of them.
RAW, QUANTIZED = "#b8533a", "#10618f"
INK, RULE = "#4a525b", "#dde1e5"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "edge-hadanorm",  # the same figure is the same file
    "font.size": 8.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}
# Inches of a plot that stands alone or beside another, and of one in a row of three.
WIDE, NARROW = 5.2, 4.0
# Series of values in decibels, by label: (colour, values).
Series = Mapping[str, tuple[str, np.ndarray]]


def plot(width: float, height: float) -> Callable:
    """Make a function that draws on axes return a figure of so many inches, with `alt` as its alternative text."""

    def decorate(draw: Callable[..., None]) -> Callable[..., Markup]:
        @wraps(draw)
        def figure_of(*arguments, alt: str, **keywords) -> Markup:
            with matplotlib.rc_context(STYLE):
                figure = Figure(figsize=(width, height), layout="constrained")
                draw(figure.subplots(), *arguments, **keywords)
                return _svg(figure, alt)

        return figure_of

    return decorate


def _svg(figure: Figure, alt: str) -> Markup:
    """Write a figure as an <svg> element, without identifiers that would clash with those of the next."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=220, metadata=NO_METADATA, transparent=True)
    text = buffer.getvalue()
    head, body = text[text.index("<svg") :].split(">", 1)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    body = re.sub(r'<g id="[^"]*"', "<g", re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL))
    return Markup('<svg {} {} role="img" aria-label="{}">').format(Markup(spaces), Markup(box), alt) + Markup(body)


@plot(WIDE, 2.7)
def over_timesteps(axes: Axes, timesteps: list[float], series: Series) -> None:
    """Plot SQNR of the prediction over timesteps, from noise (left) to picture."""
    for colour, values in reversed(list(series.values())):  # the first on top
        axes.plot(timesteps, values, color=colour, marker="o", markersize=3.5, linewidth=1.6)
    axes.invert_xaxis()
    axes.set(xlabel="timestep, from noise to picture", ylabel="SQNR of the prediction, dB")


@plot(WIDE, 1.9)
def over_blocks(axes: Axes, blocks: list[int], series: Series, highest: float) -> None:
    """Plot SQNR of a layer kind in every block as bars; highest: dB that the axis of every kind reaches."""
    width = 0.8 / len(series)
    for i, (colour, values) in enumerate(series.values()):
        axes.bar(np.arange(len(blocks)) + (i + 0.5) * width - 0.4, values, 0.88 * width, color=colour)
    shown = np.linspace(0, len(blocks) - 1, min(len(blocks), 10)).round().astype(int)
    axes.set_xticks(shown, [blocks[i] for i in shown])
    axes.set(xlabel="block", ylabel="SQNR, dB", ylim=(min(0, axes.get_ylim()[0]), 1.05 * highest))


@plot(NARROW, 2.4)
def channels(axes: Axes, values: Distribution, colour: str, peak: float) -> None:
    """Plot ranges by channel: all values pale, 1 to 99 % dark; the axis goes to `peak` both ways."""
    low, first, last, high = values.percentiles
    edges = np.arange(len(low) + 1) - 0.5
    for bottom, top, alpha in ((low, high, 0.3), (first, last, 0.9)):
        axes.stairs(top, edges, baseline=bottom, fill=True, color=colour, alpha=alpha, linewidth=0, rasterized=True)
    axes.set(xlabel="channel", ylabel="value / RMS", xlim=(edges[0], edges[-1]), ylim=(-1.05 * peak, 1.05 * peak))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


@plot(NARROW, 2.4)
def histogram(axes: Axes, raw: Distribution, quantized: Distribution) -> None:
    """Plot densities of all values on a logarithmic scale, and that of the normal distribution, dashed."""
    for values, colour in ((raw, RAW), (quantized, QUANTIZED)):
        axes.stairs(values.density, values.edges, color=colour, linewidth=1.3)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    points = np.linspace(-6, 6, 200)
    axes.plot(points, np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi), color=INK, linewidth=0.9, linestyle="--")
    axes.set(xlabel="value / RMS", ylabel="density", ylim=(low, max(high, 1)))
