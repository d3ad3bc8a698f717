"""What the online rotation of a quantized linear costs, by how it is lowered.

    python -m runtime_tests.benchmarks.rotation [--arm] [--json FILE]

A linear d -> 1152 with 8-bit weights per channel and 8-bit activations per token, on 256 tokens, one thread, behind no
rotation or one of `rotation_variants.VARIANTS`. Columns: milliseconds on this machine, and with --arm the instructions
of one call on an emulated Cortex-A76. Needs g++ for the fused kernel; --arm needs qemu-user, g++-aarch64-linux-gnu and
libc6-dev-arm64-cross. What is not there is said and left out.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edge_hadanorm import console

if __name__ == "__main__":
    console.silence_libraries()  # before they are imported

import click
import torch

from edge_hadanorm.bundle.runner import set_threads
from edge_hadanorm.tables import table
from runtime_tests.benchmarks.rotation_native import arm_machine
from runtime_tests.benchmarks.rotation_programs import Workshop
from runtime_tests.benchmarks.rotation_variants import VARIANTS, WIDTHS, case
from runtime_tests.device.machine import Machine
from runtime_tests.device.toolchain import Missing

CACHE = Path.home() / ".cache/edge-hadanorm/rotation"
ROUNDS = 40
# One rounding in 256 tokens that falls the other way, because a float sum was ordered differently, is below it.
ARM_TOLERANCE = 1e-3

Result = dict[str, object]


def measure(workshop: Workshop, rounds: int) -> list[Result]:
    """Times of every variant, the variants of a width in turn, and the relative error of what they compute."""
    results = []
    names = [name for name in VARIANTS if _registered(workshop, name)]
    for width in WIDTHS:
        calls = {name: workshop.load(name, width) for name in console.progress(f"building, width {width}")(names)}
        errors = {name: _relative(call(), case(width).exact) for name, call in calls.items()}
        times = _interleaved(calls, rounds, f"timing, width {width}")
        results += [
            {
                "variant": name,
                "width": width,
                "median_ms": statistics.median(times[name]),
                "min_ms": min(times[name]),
                "rel_error": errors[name],
                "arm_instructions": None,
                "arm_difference": None,
            }
            for name in calls
        ]
    return results


def count_on_arm(results: list[Result], workshop: Workshop, machine: Machine) -> None:
    """Add to each result its instructions, and how far the output is from this machine's; says where that is far."""
    for result in console.progress("emulating ARM64")(results):
        name, width = result["variant"], result["width"]
        ran = machine.run(workshop.program(name, width), "forward", [case(width).x.numpy()], count=True)
        result["arm_instructions"] = ran.counts["instructions"]
        expected = workshop.load(name, width)()
        result["arm_difference"] = _relative(torch.from_numpy(ran.output().copy()).view_as(expected), expected)
        if result["arm_difference"] > ARM_TOLERANCE:
            console.say(f"{name}, width {width}: ARM64 differs by {result['arm_difference']:.1e}: do not trust it")


def as_table(results: list[Result]) -> str:
    """Every result as a row, with the column of instructions where they were counted."""
    host = platform.machine()
    header = ["variant", "width", f"{host} median ms", f"{host} min ms"]
    rows = [[r["variant"], r["width"], f"{r['median_ms']:.2f}", f"{r['min_ms']:.2f}"] for r in results]
    if any(r["arm_instructions"] for r in results):
        header.append("ARM64 M instructions")
        for row, r in zip(rows, results, strict=True):
            row.append(f"{r['arm_instructions'] / 1e6:.2f}" if r["arm_instructions"] else "-")
    return table(header, rows)


def _registered(workshop: Workshop, name: str) -> bool:
    """Whether the operators of a variant are there; says which are not."""
    try:
        workshop.register(name)
    except Missing as missing:
        console.say(f"{name}: left out, {missing}")
        return False
    return True


def _interleaved(calls: dict[str, Callable], rounds: int, what: str) -> dict[str, list[float]]:
    """Milliseconds of each round of each call: of processor time, to which a busy machine adds no waiting."""
    times = {name: [] for name in calls}
    for _ in console.progress(what)(range(rounds)):
        for name, call in calls.items():
            started = time.process_time()
            call()
            times[name].append(1000 * (time.process_time() - started))
    return times


def _relative(y: torch.Tensor, expected: torch.Tensor) -> float:
    return ((y - expected).norm() / expected.norm()).item()


@click.command(help=__doc__.split("\n")[0])
@click.option("--arm", is_flag=True, help="Count instructions on an emulated ARM64 processor too.")
@click.option("--wheel", type=click.Path(path_type=Path, exists=True), help="ExecuTorch for aarch64: .whl or folder.")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the results here.")
def main(arm: bool, wheel: Path | None, rounds: int, json_file: Path | None) -> None:
    set_threads(1)
    workshop = Workshop(CACHE)
    results = measure(workshop, rounds)
    if arm:
        try:
            count_on_arm(results, workshop, arm_machine(wheel, workshop.folder))
        except Missing as missing:
            console.say(f"ARM64 instructions: left out, {missing}")
    print(as_table(results))
    if json_file:
        json_file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(console.run(lambda: main(standalone_mode=False)))
