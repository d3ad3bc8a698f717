"""The benchmark of runtimes as a function."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_hadanorm import files
from edge_hadanorm.errors import UserError
from edge_hadanorm.extras import needed
from edge_hadanorm.progress import Progress, Status, quiet, silent

# What a quick run times: the smallest case, on one thread, programs of ExecuTorch alone.
QUICK = ("executorch-", "edge-")


def bench(
    *,
    quick: bool = False,
    names: Sequence[str] = (),
    blocks: Sequence[int] = (),
    tokens: Sequence[int] = (),
    threads: Sequence[int] = (),
    json_file: str | Path | None = None,
    chart_file: str | Path | None = None,
    cache: str | Path | None = None,
    progress: Progress = silent,
    status: Status = quiet,
) -> Iterator[list[dict]]:
    """Time one PixArt-sized model on every runtime that is installed; yields the results of each size as they come.

    quick: 2 blocks, 256 tokens, 1 thread, ExecuTorch's programs only. names, blocks, tokens, threads: only these; all
    by default. json_file: has the results, as far as they are. chart_file: a .png with the medians as bars. cache:
    folder of exported programs. status: is told what is left out. Raises UserError for an unknown name.
    """
    with needed("bench", "the benchmark"):
        from edge_hadanorm import bench as benchmark  # with it come the runtimes

    chosen = list(names or benchmark.BUILDERS)
    if unknown := [name for name in chosen if name not in benchmark.BUILDERS]:
        raise UserError(f"unknown name {unknown[0]!r}; the names are {', '.join(benchmark.BUILDERS)}")
    cases = [
        case
        for case in benchmark.CASES
        if case.blocks in (blocks or (case.blocks,)) and case.tokens in (tokens or (case.tokens,))
    ]
    counts = list(threads or (1, 2))
    if quick:
        chosen = [name for name in chosen if name.startswith(QUICK)]
        cases, counts = list(benchmark.CASES[:1]), [1]
    results: list[dict] = []
    for part in benchmark.run(cases, counts, chosen, Path(cache or benchmark.CACHE), progress=progress, status=status):
        results += part
        if json_file:  # as far as it is, should a long run be interrupted
            with files.new_file(json_file) as partial:
                files.write_json(partial, results)
        yield part
    if chart_file:
        with files.new_file(chart_file) as partial:
            benchmark.chart(results).savefig(partial, dpi=120)
