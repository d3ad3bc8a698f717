"""native/: the runner on this machine gives the bits of Python's runtime, and says what goes wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, LCMScheduler, SASolverScheduler
from torch import nn

from edge_hadanorm import workflow
from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.xnnpack.program import export
from edge_hadanorm.exporters.xnnpack.target import lower
from edge_hadanorm.pipelines.drawing import Wish, picture
from edge_hadanorm.pipelines.probing import probe
from runtime_tests.device import costs, machine, programs, toolchain
from runtime_tests.device.machine import HOST, RunnerError
from runtime_tests.device.script import draw
from runtime_tests.device.toolchain import Missing
from runtime_tests.support.helpers import an_original
from runtime_tests.support.tiny_pipelines import save

BAD_ARGUMENTS, CANNOT_LOAD, NO_SUCH_METHOD, WRONG_INPUT, FAILED, OUT_OF_MEMORY, CANNOT_WRITE = range(2, 9)
PROMPT, STEPS, GUIDANCE, SEED = "red a", 4, 1.5, 3


@pytest.fixture(scope="module")
def small(host) -> programs.Subject:
    """A program of one linear."""
    return programs.subject("exact 8")


def on_python(subject: programs.Subject) -> np.ndarray:
    return machine.on_python(subject.file, subject.method, subject.inputs)


# The runner on this machine: the bits of Python's runtime.


@pytest.mark.parametrize("name", costs.named("linear", "exact"))
def test_a_method_gives_the_bits_of_pythons_runtime(host, name):
    assert np.array_equal(costs.ran(name, HOST.name).output(), on_python(programs.subject(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", costs.named("family"))
def test_a_step_of_a_family_gives_the_bits_of_pythons_runtime(host, name):
    assert np.array_equal(costs.ran(name, HOST.name).output(), on_python(programs.subject(name)))


@pytest.mark.parametrize("options", [{"load": "file"}, {"load": "mmap"}, {"threads": 2}, {"repeat": 3}])
def test_options_change_the_report_and_not_the_output(host, small, options):
    ran = host.run(small.file, small.method, small.inputs, **options)
    assert np.array_equal(ran.output(), small.expected.ravel())
    assert len(ran.report["ms"]) == options.get("repeat", 1)
    assert all(time > 0 for time in [*ran.report["ms"], ran.report["load_ms"]])
    assert 1 << 10 < ran.report["peak_rss_kib"] < 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["hadanorm-balanced-w8a8", "rtn-w4a4"])
@pytest.mark.parametrize("options", [{}, {"load": "file", "threads": 2}], ids=["mmap", "file"])
def test_a_picture_has_the_bits_of_pythons_runtime(host, tiny_bundle, tmp_path, recipe, options):
    made = tiny_bundle(recipe)
    wish = Wish(PROMPT, made.plan(STEPS), GUIDANCE, SEED, "blue c")
    drawn, report = draw(host, tmp_path / "script", made, wish, **options)
    assert torch.equal(drawn, picture(ExecuTorchRunner(made), wish))
    assert [what for what, _ in report["timed"]].count("denoise") == 2 * STEPS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "guidance", "evaluations"),
    [(EulerAncestralDiscreteScheduler(), 1.5, 8), (LCMScheduler(), 1.0, 4), (SASolverScheduler(), 3.0, 8)],
    ids=lambda value: type(value).__name__,
)
def test_a_stochastic_plan_has_the_bits_of_pythons_runtime(
    host, tiny_bundle, tmp_path, scheduler, guidance, evaluations
):
    made = tiny_bundle("rtn-w8a8")
    wish = Wish(PROMPT, probe(scheduler, STEPS), guidance, SEED)
    drawn, report = draw(host, tmp_path / "script", made, wish)
    assert torch.equal(drawn, picture(ExecuTorchRunner(made), wish))
    assert [what for what, _ in report["timed"]].count("denoise") == evaluations


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_a_picture_that_begins_with_another_has_the_bits_of_pythons_runtime(host, tiny_bundle, tmp_path, masked):
    """By a multistep plan, whose start has rows of its own, and by a stochastic one."""
    made = tiny_bundle("rtn-w8a8")
    original = an_original(made.image_size, masked)
    for plan in (made.plan(STEPS), probe(EulerAncestralDiscreteScheduler(), STEPS)):
        wish = Wish(PROMPT, plan.begun(0.6), GUIDANCE, SEED, "blue c", original)
        drawn, report = draw(host, tmp_path / f"{len(list(tmp_path.iterdir()))}", made, wish)
        assert torch.equal(drawn, picture(ExecuTorchRunner(made), wish))
        assert [what for what, _ in report["timed"]].count("denoise") == 2 * wish.plan.steps < 2 * STEPS
        if masked:
            kept = original.mask == 0
            assert torch.equal(drawn[:, kept], original.picture[:, kept])


def test_a_plan_may_leave_predictions_out(host, tiny_bundle, tmp_path):
    """The negative prompt is predicted in the first half alone, and once more where its prediction is used later."""
    made = tiny_bundle("rtn-w8a8")
    plan = made.plan(STEPS).guided_between(0.0, 0.5)
    wish = Wish(PROMPT, plan, GUIDANCE, SEED)
    drawn, report = draw(host, tmp_path / "script", made, wish)
    assert torch.equal(drawn, picture(ExecuTorchRunner(made), wish))
    assert [what for what, _ in report["timed"]].count("denoise") == STEPS + STEPS // 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "sd3"])
def test_a_script_has_classes_or_encoders_and_a_decoder(host, tmp_path, name):
    """One of the classes or three text encoders, and latents decoded at once; of tiles there is no script."""
    prompt = "tench" if name == "dit" else "a red cat"
    workflow.quantize(str(save(name, tmp_path / "model")), "rtn-w8a8", tmp_path / "checkpoint", [prompt], steps=1)
    sizes = [(16, 16), (24, 16)] if name == "sd3" else None
    made = workflow.export(tmp_path / "checkpoint", tmp_path / "whole", target="xnnpack", with_encoder=True, size=sizes)
    for size in made.sizes:
        own = made.at(size)
        wish = Wish(prompt, own.plan(STEPS), GUIDANCE, SEED)
        begun = replace(wish, plan=wish.plan.begun(0.5), original=an_original(size, masked=True))
        for i, wanted in enumerate((wish, begun)):
            drawn, _ = draw(host, tmp_path / f"script-{size}-{i}", own, wanted)
            assert torch.equal(drawn, picture(ExecuTorchRunner(own), wanted))
    tiled = workflow.export(tmp_path / "checkpoint", tmp_path / "tiled", target="xnnpack", decode_tile=4)
    with pytest.raises(UserError, match="decodes in tiles"):
        draw(host, tmp_path / "tiles", tiled, wish)


# What goes wrong has a status of its own and one line.


@pytest.fixture
def fails(host, small):
    """fails(status, message, *arguments): the runner ends so, given a command line (default: the small program's)."""

    def fails(status: int, message: str, *arguments: object, **options) -> None:
        with pytest.raises(RunnerError) as failed:
            host.call(arguments or ["run", small.file, small.method, *options.pop("inputs", [])], **options)
        assert failed.value.status == status, failed.value.line
        assert message in failed.value.line

    return fails


@pytest.fixture
def x(small, tmp_path) -> Path:
    file = tmp_path / "x.raw"
    small.inputs[0].tofile(file)
    return file


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("usage", ["walk"]),
        ("usage", ["run", "program.pte"]),
        ("usage", ["generate"]),
        ("--threads 0: not from 1", ["run", "--threads", "0"]),
        ("--repeat x: not from 1", ["run", "--repeat", "x"]),
        ("unknown option --speed 2", ["run", "--speed", "2"]),
        ("unknown option --load tape", ["run", "--load", "tape"]),
        ("--output needs a value", ["run", "--output"]),
        ("nowhere.tsv cannot be read", ["generate", "nowhere.tsv"]),
    ],
)
def test_bad_arguments(fails, message, arguments):
    fails(BAD_ARGUMENTS, message, *arguments)


def test_an_input_that_is_not_there(fails, tmp_path):
    fails(BAD_ARGUMENTS, "nothing.raw cannot be read", inputs=[tmp_path / "nothing.raw"])


@pytest.mark.parametrize("load", ["file", "mmap"])
@pytest.mark.parametrize("size", [0, 100, 0.5, 0.99])
def test_a_program_that_is_cut_off(fails, small, tmp_path, load, size):
    whole, cut = small.file.read_bytes(), tmp_path / "cut.pte"
    cut.write_bytes(whole[: size if isinstance(size, int) else int(size * len(whole))])
    fails(CANNOT_LOAD, "cut.pte", "run", cut, small.method, load=load)


def test_a_program_that_is_none(fails, small, tmp_path):
    (tmp_path / "text.pte").write_text("not a program\n" * 100)
    fails(CANNOT_LOAD, "text.pte is no program", "run", tmp_path / "text.pte", small.method)
    fails(CANNOT_LOAD, "nothing.pte cannot be read", "run", tmp_path / "nothing.pte", small.method)


def test_a_method_that_is_none(fails, small):
    fails(NO_SUCH_METHOD, "has no method backward", "run", small.file, "backward")


def test_an_input_of_another_size(fails, x, tmp_path):
    (tmp_path / "short.raw").write_bytes(x.read_bytes()[:-4])
    fails(WRONG_INPUT, "bytes, not", inputs=[tmp_path / "short.raw"])
    fails(WRONG_INPUT, "has 1 inputs, given are 2", inputs=[x, x])


def test_a_call_that_fails(host, fails, tmp_path):
    """A table of eight rows is asked for its ninth."""
    program, _ = lower({"forward": export(nn.Sequential(nn.Embedding(8, 4)), (torch.zeros(1, 2, dtype=torch.int64),))})
    (tmp_path / "table.pte").write_bytes(program.buffer)
    np.array([1, 8], np.int64).tofile(tmp_path / "ids.raw")
    fails(FAILED, "forward: error", "run", tmp_path / "table.pte", "forward", tmp_path / "ids.raw")


def test_an_output_that_cannot_be_written(fails, x, tmp_path):
    fails(CANNOT_WRITE, "cannot be written", inputs=[x], output=tmp_path / "nowhere/y")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["dance"], "line 1: no known line"),
        (["noise\t3\t1.5", "noise\t3\tmuch"], "line 2: much is no number"),
        (["noise\tx\t1.5"], "line 1: x is no seed"),
        (["step\t1\t1\t1\t0\t0\t2\t1\t0\t0"], "line 1: too few fields"),
        (["known\tlatents\t1\t0"], "no tensor is called latents"),
        (["call\tprogram.pte"], "too few fields"),
        (["tensor\tx\tfloat16\t1\tx.raw"], "no dtype float16"),
        (["write\tlatents\tlatents.raw"], "no tensor is called latents"),
        (["call\tprogram.pte\tforward\t2\tx"], "too few fields"),
        (["call\tprogram.pte\tforward\t-1\tx"], "-1 is no size"),
        (["tensor\tx\tfloat32\t-1\tx.raw"], "-1 is no size"),
        (["tensor\tx\tint64\t2147483647,2147483647,4\tx.raw"], "2147483647,4 is no size"),
    ],
)
def test_a_script_that_does_not_parse(fails, tmp_path, lines, message):
    (tmp_path / "script.tsv").write_text("\n".join(lines))
    fails(BAD_ARGUMENTS, message, "generate", tmp_path / "script.tsv")


# What is missing is named.


def test_a_missing_compiler_is_named_with_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=r"aarch64-linux-gnu-g\+\+ is not installed \(apt-get install g\+\+-aarch64"):
        toolchain.require(toolchain.ARM.compiler, toolchain.ARM.packages)
    with pytest.raises(Missing, match="qemu-aarch64 is not installed"):
        toolchain.qemu()


def test_a_wheel_that_is_none_is_named(tmp_path):
    (tmp_path / "executorch.whl").write_text("no archive")
    with pytest.raises(Missing, match=r"executorch\.whl is no wheel"):
        toolchain.wheel(tmp_path / "executorch.whl", tmp_path / "cache")
    with pytest.raises(Missing, match="has no lib/libexecutorch"):
        toolchain.wheel(tmp_path, tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())


def test_another_release_has_no_wheel(monkeypatch, tmp_path):
    monkeypatch.setattr(toolchain, "version", lambda name: "1.4.0")
    with pytest.raises(Missing, match=r"no sha256 is known of executorch 1\.4\.0 for aarch64"):
        toolchain.wheel(cache_folder=tmp_path)
