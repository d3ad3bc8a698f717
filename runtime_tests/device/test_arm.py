"""native/ on emulated ARM64 processors: what is simulated, on the kernels of the processor."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.exporters.targets import simulation
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.pipelines.drawing import Wish, picture
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.probing import probe
from runtime_tests.device import costs, programs
from runtime_tests.device.costs import KERNELS, PRODUCTS
from runtime_tests.device.machine import ARM, HOST, MACHINES, Ran
from runtime_tests.device.script import draw
from runtime_tests.support.helpers import an_original

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
    """Simulated, on this machine and on an emulated processor; also of a picture and its mask, by a stochastic plan."""
    made = programs.reference_bundle(recipe)
    wish = Wish(made.golden["prompt"], made.plan(STEPS), GUIDANCE, SEED, "blue star")
    stochastic = probe(FlowMatchEulerDiscreteScheduler(shift=1.5, stochastic_sampling=True), STEPS)
    begun = replace(wish, plan=stochastic.begun(0.5), original=an_original(made.image_size, masked=True))
    for i, wanted in enumerate((wish, begun)):
        drawn = [picture(simulation(made), wanted)]
        drawn += [draw(MACHINES[m], tmp_path / f"{m}-{i}", made, wanted)[0] for m in (HOST.name, "cortex-a76")]
        assert torch.equal(drawn[1], picture(ExecuTorchRunner(made), wanted))
        for one, other in itertools.combinations(map(to_pixels, drawn), 2):
            assert psnr_db(one, other) >= least
