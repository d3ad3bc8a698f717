"""bundle/runner.py: programs are in memory where they are used, and refused before that where they are others."""

import pytest
import torch

from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.pipelines.drawing import Wish, picture

pytestmark = pytest.mark.slow  # they wait for the bundle


@pytest.fixture
def runner(tiny_bundle) -> ExecuTorchRunner:
    return ExecuTorchRunner(tiny_bundle("rtn-w8a8"))


def loaded(runner: ExecuTorchRunner) -> set[str]:
    return {name for _, name in runner._loaded}


def test_encoders_are_let_go_before_the_denoiser_is_loaded(runner):
    latents, timestep = torch.zeros(1, *runner.latent_shape), torch.tensor([500.0])
    assert loaded(runner) == set()
    conditionings = [runner.prepare("red a"), runner.prepare("", negative=True)]
    assert loaded(runner) == {"encode", "prepare"}
    for conditioning in conditionings:
        runner.denoise(latents, timestep, conditioning)
        assert loaded(runner) == {"denoise"}
    runner.prepare("red a")
    assert loaded(runner) == {"encode", "prepare"}


def test_a_runner_draws_again_what_it_has_drawn(runner):
    bundle = runner.bundle
    wish = Wish("red a", bundle.plan(2), 1.5, 0)
    first = picture(runner, wish)
    assert not torch.equal(picture(runner, Wish("red a", bundle.plan(2), 1.5, 1)), first)
    assert torch.equal(picture(runner, wish), first)
    assert torch.equal(picture(ExecuTorchRunner(bundle), wish), first)


def test_memory_that_is_short_is_a_line(runner, monkeypatch):
    from executorch.runtime import Program

    def load_method(self, name):
        raise MemoryError

    monkeypatch.setattr(Program, "load_method", load_method)
    with pytest.raises(Exception, match=r"text_encoder.pte does not load its method 'encode': not enough memory"):
        runner.prepare("red a")
