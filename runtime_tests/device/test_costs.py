"""device/costs.json: what a call of each program costs emulated ARM64 processors, in instructions, which repeat."""

from itertools import pairwise

import pytest

from runtime_tests.device import costs, programs
from runtime_tests.device.costs import TOTAL
from runtime_tests.device.machine import ARM, MACHINES

on_every_arm = pytest.mark.parametrize("machine", [machine.name for machine in ARM])
# The others take minutes to make or to emulate.
COUNTED = [
    *costs.named("linear", "exact", "family"),
    *(f"reference hadanorm-{form}" for form in ("w8a8", "w4a8")),
    *(f"block {method}-w8a8" for method in ("rtn", "hadanorm")),
]


@pytest.mark.slow
@on_every_arm
@pytest.mark.parametrize("name", COUNTED)
def test_a_program_costs_what_it_did(emulator, machine, name):
    """Within 0.5 %, for another compiler or C library; where it is meant to: device/costs.py --write."""
    assert costs.ran(name, machine).counts[TOTAL] == pytest.approx(costs.golden()[name][machine], rel=0.005)


@pytest.mark.slow
@on_every_arm
def test_the_same_program_costs_the_same_to_the_instruction(emulator, machine):
    small = programs.subject("exact 8")
    counts = [MACHINES[machine].run(small.file, small.method, small.inputs, count=True).counts for _ in range(2)]
    assert counts[0] == counts[1]
    assert counts[0] == costs.ran("exact 8", machine).counts


def test_costs_are_of_programs_that_there_are():
    """A family may be without one, until somebody with an emulator counts it: device/costs.py --write."""
    counted = set(costs.golden())
    assert counted <= set(programs.SUBJECTS)
    assert {name for name in programs.SUBJECTS if not name.startswith("family")} <= counted
    assert all(set(row) == {machine.name for machine in ARM} for row in costs.golden().values())


def ratio(name: str, other: str, machine: str) -> float:
    """Instructions of one program over those of another, both counted now."""
    return costs.ran(name, machine).counts[TOTAL] / costs.ran(other, machine).counts[TOTAL]


@pytest.mark.slow
@on_every_arm
@pytest.mark.parametrize("step", [f"linear hadanorm-{form}" for form in programs.FORMS])
def test_a_static_centre_costs_less_than_a_dynamic_one(emulator, machine, step):
    rtn, static = (step.replace("hadanorm", method) for method in ("rtn", "hadanorm-folded"))
    assert 1 < ratio(static, rtn, machine) < ratio(step, rtn, machine)


@pytest.mark.slow
@on_every_arm
def test_smaller_blocks_cost_less(emulator, machine):
    sizes = [f"linear hadanorm-w8a8{size}" for size in (" block 16", "", " block 64", " block 128")]
    assert all(ratio(larger, smaller, machine) > 1 for smaller, larger in pairwise(sizes))


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "most"), [("cortex-a53", 1.10), ("cortex-a76", 1.10), ("i8mm", 1.15)])
def test_the_default_transform_costs_little(emulator, machine, most):
    """Of a step of a block of 1152 features on 256 tokens."""
    assert ratio("block hadanorm-w8a8", "block rtn-w8a8", machine) <= most
