"""Where a step's time goes: the milliseconds of every operator inside the delegate, from an ETDump.

    python -m runtime_tests.benchmarks.operators [edge-RECIPE ...] [--blocks 2] [--tokens 256] [--cache FOLDER]

The model, the programs and their cache are those of `edge-hadanorm bench`; one thread.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

from edge_hadanorm import console
from edge_hadanorm.bundle.runner import set_threads

if __name__ == "__main__":
    console.silence_libraries()  # before they are imported

import click
import torch

from edge_hadanorm.bench import CACHE
from edge_hadanorm.bench.case import Case
from edge_hadanorm.bench.contenders import EDGE_RECIPES, edge_program

RUNS = 15
# What XNNPACK calls a product of 8-bit activations with 8-bit or 4-bit weights.
INTEGER_GEMM = ("QDU8", "QD8", "QP8")
W8A8 = [f"edge-{recipe}" for recipe in EDGE_RECIPES if recipe.endswith("w8a8")]


def operator_times(program: bytes, method: str, inputs: list[torch.Tensor]) -> tuple[Counter, float]:
    """Median milliseconds of a call by kind of operator, and of the whole call."""
    from executorch.devtools import Inspector
    from executorch.extension.pybindings import portable_lib

    loaded = portable_lib._load_for_executorch_from_buffer(program, enable_etdump=True)
    for _ in range(RUNS):
        loaded.run_method(method, inputs)
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "step.etdump"
        loaded.write_etdump_result_to_file(str(dump))
        events = Inspector(etdump_path=str(dump)).to_dataframe()
    times, whole = Counter(), 0.0
    for _, event in events.iterrows():
        name = str(event["event_name"]).split(" #")[0]
        if name == "Method::execute":
            whole = event["p50 (ms)"]
        elif not name.startswith(("Method::", "Program::", "DELEGATE_CALL", "OPERATOR_CALL")):
            times[name] += event["p50 (ms)"]
    return times, whole


@click.command(help=__doc__.split("\n")[0])
@click.argument("names", nargs=-1, type=click.Choice([f"edge-{recipe}" for recipe in EDGE_RECIPES]))
@click.option("--blocks", default=2, show_default=True)
@click.option("--tokens", default=256, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=CACHE)
def main(names: tuple[str, ...], blocks: int, tokens: int, cache: Path) -> None:
    set_threads(1)
    cache.mkdir(parents=True, exist_ok=True)
    for name in names or W8A8:
        file, inputs = edge_program(Case(blocks, tokens), cache, name.removeprefix("edge-"))
        times, whole = operator_times(file.read_bytes(), "denoise", inputs)
        integer = sum(ms for operator, ms in times.items() if any(kind in operator for kind in INTEGER_GEMM))
        click.echo(f"{name}: {whole:.1f} ms a step, integer products {integer / times.total():.0%} of its operators")
        for operator, ms in times.most_common():
            if ms >= 0.005:
                click.echo(f"  {ms:7.2f}  {operator}")


if __name__ == "__main__":
    sys.exit(console.run(lambda: main(standalone_mode=False)))
