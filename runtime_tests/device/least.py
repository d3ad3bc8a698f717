"""The least private memory that the runner does its work with, as `prlimit --data` counts it."""

import dataclasses
from collections.abc import Callable

from runtime_tests.device.machine import HOST, Machine, RunnerError

MEGABYTE = 1_000_000


def limited(size: float) -> Machine:
    """This machine with so many bytes of private memory."""
    return dataclasses.replace(HOST, prefix=("prlimit", f"--data={int(size)}"))


def least_megabytes(work: Callable[[Machine], object], most: int = 4000, step: float = 0.01) -> int:
    """Megabytes, to a share of them, with which work(machine) goes through; it raises RunnerError where it does not.

    Raises what `work` does with the most.
    """
    work(limited(most * MEGABYTE))
    low, high = 0, most
    while high - low > max(1, step * high):
        middle = (low + high) // 2
        try:
            work(limited(middle * MEGABYTE))
            high = middle
        except RunnerError:
            low = middle
    return high
