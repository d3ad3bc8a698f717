"""Instructions of one call of each program on emulated ARM64 processors: a cost without noise, no prediction of time.

    python -m runtime_tests.device.costs [NAME...] [--write]

NAME: the first words of programs, see programs.py (default: all of them, a quarter of an hour and more). --write: keep
the counts in costs.json, which the tests hold programs to. With one thread they repeat exactly for the same program,
wheel, compiler and C library.
"""

import json
import sys
from functools import cache
from pathlib import Path

from edge_hadanorm import console

if __name__ == "__main__":
    console.silence_libraries()  # before they are imported

import click
import numpy as np

from edge_hadanorm.tables import table
from runtime_tests.device import programs
from runtime_tests.device.machine import ARM, MACHINES, Ran
from runtime_tests.device.toolchain import Missing

GOLDEN = Path(__file__).with_name("costs.json")
TOTAL = "instructions"
# Multiply-adds of one instruction of a kind.
PRODUCTS = {"int8 matrix": 32, "int8 dot": 16, "int8 multiply": 8, "int16 multiply": 4}
# What the integer products of a processor are made of.
KERNELS = {
    "cortex-a53": ("int8 multiply", "int16 multiply"),
    "cortex-a76": ("int8 dot",),
    "i8mm": ("int8 matrix",),
}
# Of what a program gives, to what it should, in the Frobenius norm. A float sum in another order lets a rounding fall
# to the other side now and then: of a linear's tokens one such step is 1e-4, and later layers carry it on. Blocks are
# compared with the float model: those of 4 bits are as far from it as their weights.
TOLERANCES = {"exact": 0.0, "linear": 3e-4, "family": 2e-2, "reference": 2e-2, "block": 0.25}


@cache
def ran(name: str, machine: str) -> Ran:
    """A program on a machine, with its instructions where it is emulated. Raises Missing, RunnerError."""
    subject = programs.subject(name)
    return MACHINES[machine].run(subject.file, subject.method, subject.inputs, count=MACHINES[machine] in ARM)


def error(name: str, machine: str) -> float:
    """Relative L2 of what a program gives on a machine to what it should."""
    return relative(ran(name, machine).output(), programs.subject(name).expected)


def named(*kinds: str) -> list[str]:
    """The programs whose names begin so."""
    return [name for name in programs.SUBJECTS if name.startswith(kinds)]


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual.ravel() - expected.ravel()) / np.linalg.norm(expected))


def tolerance(name: str) -> float:
    return TOLERANCES[name.split()[0]]


def count(names: list[str]) -> dict[str, dict[str, int]]:
    """{program: {processor: instructions}}. Raises RuntimeError where one computes something else."""
    counts = {}
    for name in console.progress("emulating ARM64")(names):
        for machine in (m.name for m in ARM):
            if (off := error(name, machine)) > tolerance(name):
                raise RuntimeError(f"{name} on {machine} is off by {off:.1e}: the emulator or the program is broken")
            counts.setdefault(name, {})[machine] = ran(name, machine).counts[TOTAL]
    return counts


def baselines(name: str) -> list[str]:
    """The programs that one is compared with: of the same form without a transform, and the stock export."""
    kind, _, rest = name.partition(" ")
    method, _, form = rest.partition("-w")
    if kind in ("exact", "family") or not form:
        return []
    form = form.split()[0]  # without the size of the rotation's blocks
    found = [] if method == "rtn" else [f"{kind} rtn-w{form}"]
    return found + ([f"block stock-8da{form[0]}w"] if kind == "block" else [])


def as_table(counts: dict[str, dict[str, int]]) -> str:
    """Millions of instructions, and of each program how many times those of another."""
    machines = [machine.name for machine in ARM]
    rows = [[name, "M instructions", *(f"{row[m] / 1e6:.2f}" for m in machines)] for name, row in counts.items()]
    for name, row in counts.items():
        for other in baselines(name):
            if other in counts:
                rows.append([name, f"x {other}", *(f"{row[m] / counts[other][m]:.3f}" for m in machines)])
    return table(["program", "", *machines], rows)


def golden() -> dict[str, dict[str, int]]:
    return json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


@click.command(help=__doc__.split("\n")[0])
@click.argument("names", nargs=-1)
@click.option("--write", is_flag=True, help=f"Keep the counts in {GOLDEN.name}.")
def main(names: tuple[str, ...], write: bool) -> None:
    try:
        counts = count(named(*(names or [""])))
    except Missing as missing:
        raise click.ClickException(str(missing)) from None
    print(as_table(counts))
    if write:
        kept = golden() | counts
        rows = {name: kept[name] for name in programs.SUBJECTS if name in kept}
        GOLDEN.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(console.run(lambda: main(standalone_mode=False)))
