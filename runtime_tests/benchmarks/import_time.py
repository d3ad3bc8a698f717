"""Seconds that an import takes, torch's own left out, and the modules that it loads.

    python -m runtime_tests.benchmarks.import_time [MODULE ...] [--runs 5]

Each run is a process of its own; the median is shown. Without MODULE: those that a library user or a command waits for.
"""

import json
import statistics
import subprocess
import sys

import click

from edge_hadanorm.tables import table

MODULES = (
    "edge_hadanorm",
    "edge_hadanorm.cli",
    "edge_hadanorm.method.recipe",
    "edge_hadanorm.models",
    "edge_hadanorm.quantization.quantize",
    "edge_hadanorm.bundle.runner",
    "edge_hadanorm.workflow",
)
SCRIPT = """
import importlib, json, sys, time
import torch
before, start = set(sys.modules), time.perf_counter()
importlib.import_module(sys.argv[1])
seconds = time.perf_counter() - start
new = set(sys.modules) - before
ours = sum(name.partition(".")[0] == "edge_hadanorm" for name in new)
print(json.dumps([seconds, ours, len(new), "diffusers" in sys.modules]))
"""


def measured(module: str) -> tuple[float, int, int, bool]:
    """Seconds, modules of ours and of all, and whether diffusers is among them."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, module], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


@click.command()
@click.argument("modules", nargs=-1)
@click.option("--runs", default=5, show_default=True)
def main(modules: tuple[str, ...], runs: int) -> None:
    """Print a table."""
    rows = []
    for module in modules or MODULES:
        results = [measured(module) for _ in range(runs)]
        seconds = statistics.median(result[0] for result in results)
        _, ours, new, diffusers = results[0]
        rows.append((module, f"{seconds:.2f}", ours, new, "yes" if diffusers else "no"))
    print(table(("import", "seconds after torch", "modules of ours", "all new modules", "with diffusers"), rows))


if __name__ == "__main__":
    main()
