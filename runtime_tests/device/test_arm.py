"""native/ on emulated ARM64 processors: what is simulated, on the kernels of the processor."""

import numpy as np
import pytest
import torch

from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.exporters.targets import simulation
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.pipelines.drawing import Wish, picture
from edge_hadanorm.pipelines.pictures import to_pixels
from runtime_tests.device import costs, programs
from runtime_tests.device.costs import KERNELS, PRODUCTS
from runtime_tests.device.machine import ARM, HOST, MACHINES, Ran
from runtime_tests.device.script import draw

REFERENCE = ("hadanorm-w8a8", "hadanorm-w4a8")
STEPS, GUIDANCE, SEED = 4, 1.5, 3
on_every_arm = pytest.mark.parametrize("machine", [machine.name for machine in ARM])


@on_every_arm
@pytest.mark.parametrize("bits", [8, 4])
def test_an_emulated_processor_multiplies_integers_exactly(emulator, machine, bits):
    """Every product of a code and an 8-bit activation: an emulator that gets one wrong says nothing of programs."""
    subject = programs.subject(f"exact {bits}")
    assert np.array_equal(costs.ran(f"exact {bits}", machine).output(), subject.expected.ravel())


@pytest.mark.slow
@on_every_arm
@pytest.mark.parametrize("name", costs.named("linear", "exact", "family"))
def test_arm_computes_what_is_simulated_and_what_this_machine_computes(emulator, machine, name):
    assert costs.error(name, machine) <= costs.tolerance(name)
    assert costs.error(name, HOST.name) <= costs.tolerance(name)
    arm, here = (costs.ran(name, m).output() for m in (machine, HOST.name))
    assert costs.relative(arm, here) <= costs.tolerance(name)


def products(ran: Ran) -> dict[str, int]:
    """Multiply-adds of integers by kind of instruction."""
    return {kind: size * ran.counts[kind] for kind, size in PRODUCTS.items()}


@pytest.mark.slow
@on_every_arm
@pytest.mark.parametrize("name", costs.named("linear"))
def test_a_linear_runs_on_the_integer_kernels_of_its_processor(emulator, machine, name):
    """All its products, and no more than the mean's row and a last tile add."""
    found = products(costs.ran(name, machine))
    used = sum(found.pop(kind) for kind in KERNELS[machine])
    assert 1 <= used / (programs.TOKENS * programs.WIDTH**2) <= 1.05
    assert not any(found.values())


@pytest.mark.slow
@on_every_arm
@pytest.mark.parametrize("name", costs.named("family"))
def test_a_family_runs_on_the_integer_kernels_of_its_processor(emulator, machine, name):
    found = products(costs.ran(name, machine))
    assert sum(found.pop(kind) for kind in KERNELS[machine]) > 0
    assert not any(found.values())


# The reference model.


@pytest.mark.slow
@on_every_arm
@pytest.mark.parametrize("recipe", REFERENCE)
def test_a_step_of_the_reference_model(emulator, machine, recipe):
    name = f"reference {recipe}"
    arm, here, simulated = (
        costs.ran(name, machine).output(),
        costs.ran(name, HOST.name).output(),
        programs.subject(name).expected,
    )
    for a, b in ((arm, simulated), (here, simulated), (arm, here)):
        assert costs.relative(a, b) <= 2e-2
    found = products(costs.ran(name, machine))
    assert sum(found.pop(kind) for kind in KERNELS[machine]) > 0
    assert not any(found.values())


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "least"), zip(REFERENCE, (40, 33), strict=True))
def test_a_picture_of_the_reference_model(emulator, tmp_path, recipe, least):
    """Simulated, on this machine and on an emulated processor."""
    made = programs.reference_bundle(recipe)
    wish = Wish(made.golden["prompt"], made.plan(STEPS), GUIDANCE, SEED, "blue star")
    drawn = [picture(simulation(made), wish)]
    drawn += [draw(MACHINES[m], tmp_path / m, made, wish)[0] for m in (HOST.name, "cortex-a76")]
    pixels = [to_pixels(x) for x in drawn]
    assert torch.equal(drawn[1], picture(ExecuTorchRunner(made), wish))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert psnr_db(pixels[i], pixels[j]) >= least
