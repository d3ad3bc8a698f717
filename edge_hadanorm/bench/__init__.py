"""A benchmark of one model on every runtime, interleaved in one run, so that ratios hold on a noisy machine."""

import gc
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from matplotlib.figure import Figure

from edge_hadanorm.bench.case import Case
from edge_hadanorm.bench.contenders import BUILDERS, Contender, forget
from edge_hadanorm.bundle.runner import set_threads
from edge_hadanorm.progress import Progress, Status, quiet, silent
from edge_hadanorm.tables import table

CASES = tuple(Case(blocks, tokens) for blocks in (2, 4) for tokens in (256, 1024))
ROUNDS = 9
CACHE = Path.home() / ".cache/edge-hadanorm/bench"


def run(
    cases: list[Case],
    threads: list[int],
    names: list[str],
    cache: Path,
    rounds: int = ROUNDS,
    progress: Progress = silent,
    status: Status = quiet,
) -> Iterator[list[dict]]:
    """Time each name in each case at each thread count; yields the results of one case and thread count at a time.

    A result has times in ms, the size in MB, and rel_error, the error of the prediction relative to PyTorch's in
    float32, in the Frobenius norm. cache: folder of exported programs. status: is told which names cannot run here;
    they are left out.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for case in cases:
        for count in threads:
            set_threads(count)
            building = progress(f"building, {case.blocks} blocks, {case.tokens} tokens")
            contenders = _build(case, count, building(names), cache, status)
            timing = progress(f"timing, {count} thread{'s' * (count > 1)}")
            yield _measure(case, count, contenders, timing(range(rounds)))
        forget(case)


@torch.no_grad()
def _build(case: Case, threads: int, names: Iterable[str], cache: Path, status: Status) -> dict[str, Contender]:
    built = {}
    for name in names:
        try:
            built[name] = BUILDERS[name](case, threads, cache)
        except ImportError as error:
            status(f"{name}: left out, {error.name or error} is not installed (pip install 'edge-hadanorm[bench]')")
        gc.collect()  # an export leaves gigabytes in cycles
    return built


@torch.no_grad()
def _measure(case: Case, threads: int, contenders: dict[str, Contender], rounds: Iterable[int]) -> list[dict]:
    """Time contenders in turn, after one warm call each, whose prediction is compared."""
    exact = case.transformer(*case.arguments)
    errors: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name, contender in contenders.items():
        prediction = torch.as_tensor(contender.run())
        reference = exact[:, : prediction.shape[1]]  # ours leaves out the learned variance
        errors[name] = ((prediction - reference).norm() / reference.norm()).item()
    for _ in rounds:
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender.run()
            times[name].append(1000 * (time.perf_counter() - started))
    return [
        {
            "name": name,
            "threads": threads,
            "tokens": case.tokens,
            "blocks": case.blocks,
            "median_ms": statistics.median(times[name]),
            "min_ms": min(times[name]),
            "max_ms": max(times[name]),
            "rel_error": errors[name],
            "size_mb": contender.size / 1e6,
        }
        for name, contender in contenders.items()
    ]


def as_table(results: list[dict]) -> str:
    """Format results as a text table, one a row."""
    header = ("name", "blocks", "tokens", "threads", "median ms", "min ms", "max ms", "rel. error", "MB")
    rows = [
        (
            *(r[key] for key in ("name", "blocks", "tokens", "threads")),
            *(f"{r[key]:.1f}" for key in ("median_ms", "min_ms", "max_ms")),
            f"{r['rel_error']:.4f}",
            f"{r['size_mb']:.0f}",
        )
        for r in results
    ]
    return table(header, rows)


def chart(results: list[dict]) -> Figure:
    """Draw the medians as bars, a panel for each case and thread count, ours in another colour."""
    panels: dict[tuple, list[dict]] = {}
    for result in results:
        panels.setdefault((result["blocks"], result["tokens"], result["threads"]), []).append(result)
    most = max(map(len, panels.values()))
    figure = Figure(figsize=(7, (0.28 * most + 0.8) * len(panels)), layout="constrained")
    for axis, ((blocks, tokens, threads), rows) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
    ):
        rows = sorted(rows, key=lambda r: -r["median_ms"])
        colours = ["tab:orange" if r["name"].startswith("edge-") else "tab:gray" for r in rows]
        bars = axis.barh([r["name"] for r in rows], [r["median_ms"] for r in rows], color=colours)
        axis.bar_label(bars, fmt=" %.0f", fontsize=8)
        axis.tick_params(axis="y", labelsize=8)
        axis.set_title(
            f"ms a step: {blocks} blocks, {tokens} tokens, {threads} thread{'s' * (threads > 1)}", fontsize=9
        )
        axis.spines[["top", "right"]].set_visible(False)
    return figure
