"""native/: the runner here and on emulated ARM64 processors, against Python's runtime and the simulation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_hadanorm import bundle, checkpoint, files, workflow
from edge_hadanorm.bundle import Bundle
from edge_hadanorm.errors import UserError
from edge_hadanorm.export import writer
from edge_hadanorm.export.program import export
from edge_hadanorm.export.xnnpack import lower
from edge_hadanorm.metrics import psnr_db, to_pixels
from edge_hadanorm.runtime import ExecuTorchRunner, picture
from native import costs, plan, programs, toolchain
from native.costs import KERNELS, PRODUCTS
from native.machine import ARM, HOST, MACHINES, Machine, Ran, RunnerError
from native.toolchain import Missing
from tiny_pipelines import save

LINEARS = [name for name in programs.SUBJECTS if name.startswith(("linear", "exact"))]
STEPS_OF_FAMILIES = [name for name in programs.SUBJECTS if name.startswith("family")]
SMALL = [*LINEARS, *STEPS_OF_FAMILIES]
REFERENCE = ("hadanorm-w8a8", "hadanorm-w4a8")
BAD_ARGUMENTS, CANNOT_LOAD, NO_SUCH_METHOD, WRONG_INPUT, FAILED, OUT_OF_MEMORY, CANNOT_WRITE = range(2, 9)
PROMPT, STEPS, GUIDANCE, SEED = "red a", 4, 1.5, 3
MEBIBYTE = 1 << 20
on_every_arm = pytest.mark.parametrize("machine", [machine.name for machine in ARM])


def built(make: Callable[[], object]) -> None:
    """Skip, by name, what a tool is missing for."""
    try:
        make()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def host() -> Machine:
    built(lambda: HOST.runner)
    return HOST


@pytest.fixture(scope="session")
def emulator(host) -> None:
    built(toolchain.build)


@pytest.fixture(scope="session")
def small(host) -> programs.Subject:
    """A program of one linear."""
    return programs.subject("exact 8")


def on_python(subject: programs.Subject) -> np.ndarray:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(subject.file)
    inputs = [torch.from_numpy(x) for x in subject.inputs]
    return program.load_method(subject.method).execute(inputs)[0].clone().numpy()


def followed(machine: Machine, folder: Path, made: Bundle, prompt: str, **options) -> tuple[torch.Tensor, dict]:
    """The picture of a plan, and the runner's report."""
    folder.mkdir()
    given = plan.write_plan(folder, made, prompt, STEPS, GUIDANCE, SEED)
    report, _ = machine.call(["generate", given], **options)
    return plan.read(folder, made), report


# The runner on this machine: the bits of Python's runtime.


@pytest.mark.parametrize(
    "name", [*LINEARS, *(pytest.param(name, marks=pytest.mark.slow) for name in STEPS_OF_FAMILIES)]
)
def test_a_method_gives_the_bits_of_pythons_runtime(host, name):
    assert np.array_equal(costs.ran(name, HOST.name).output(), on_python(programs.subject(name)).ravel())


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
    drawn, report = followed(host, tmp_path / "plan", made, PROMPT, **options)
    assert torch.equal(drawn, picture(ExecuTorchRunner(made), PROMPT, made.table(STEPS), GUIDANCE, SEED))
    assert [what for what, _ in report["timed"]].count("denoise") == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "sd3"])
def test_a_plan_has_classes_or_encoders_and_a_decoder(host, tmp_path, name):
    """One of the classes or three text encoders, and latents decoded at once; of tiles there is no plan."""
    prompt = "tench" if name == "dit" else "a red cat"
    workflow.quantize(str(save(name, tmp_path / "model")), "rtn-w8a8", tmp_path / "checkpoint", [prompt], steps=1)

    def exported(out: Path, **options) -> Bundle:
        with files.new_folder(out) as staging:
            saved = checkpoint.load(tmp_path / "checkpoint")
            writer.write_bundle(staging, tmp_path / "checkpoint", saved, "xnnpack", options=writer.Options(**options))
        return bundle.load(out)

    made = exported(tmp_path / "whole")
    drawn, _ = followed(host, tmp_path / "plan", made, prompt)
    assert torch.equal(drawn, picture(ExecuTorchRunner(made), prompt, made.table(STEPS), GUIDANCE, SEED))
    with pytest.raises(UserError, match="decodes in tiles"):
        followed(host, tmp_path / "tiles", exported(tmp_path / "tiled", tile=4), prompt)


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
        (["guidance\t1.5", "guidance\tmuch"], "line 2: much is no number"),
        (["call\tprogram.pte"], "too few fields"),
        (["tensor\tx\tfloat16\t1\tx.raw"], "no dtype float16"),
        (["write\tlatents\tlatents.raw"], "no tensor is called latents"),
        (["call\tprogram.pte\tforward\t2\tx"], "too few fields"),
    ],
)
def test_a_plan_that_does_not_parse(fails, tmp_path, lines, message):
    (tmp_path / "plan.tsv").write_text("\n".join(lines))
    fails(BAD_ARGUMENTS, message, "generate", tmp_path / "plan.tsv")


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


# Emulated processors.


@on_every_arm
@pytest.mark.parametrize("bits", [8, 4])
def test_an_emulated_processor_multiplies_integers_exactly(emulator, machine, bits):
    """Every product of a code and an 8-bit activation: an emulator that gets one wrong says nothing of programs."""
    subject = programs.subject(f"exact {bits}")
    assert np.array_equal(costs.ran(f"exact {bits}", machine).output(), subject.expected.ravel())


@pytest.mark.slow
@on_every_arm
@pytest.mark.parametrize("name", SMALL)
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
@pytest.mark.parametrize("name", [name for name in LINEARS if name.startswith("linear")])
def test_a_linear_runs_on_the_integer_kernels_of_its_processor(emulator, machine, name):
    """All its products, and no more than the mean's row and a last tile add."""
    found = products(costs.ran(name, machine))
    used = sum(found.pop(kind) for kind in KERNELS[machine])
    assert 1 <= used / (programs.TOKENS * programs.WIDTH**2) <= 1.05
    assert not any(found.values())


@pytest.mark.slow
@on_every_arm
@pytest.mark.parametrize("name", STEPS_OF_FAMILIES)
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
    assert np.array_equal(here, on_python(programs.subject(name)).ravel())
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
    prompt = made.golden["prompt"]
    drawn = [picture(workflow.simulation(made), prompt, made.table(STEPS), GUIDANCE, SEED)]
    drawn += [followed(MACHINES[m], tmp_path / m, made, prompt)[0] for m in (HOST.name, "cortex-a76")]
    pixels = [to_pixels(x) for x in drawn]
    assert torch.equal(drawn[1], picture(ExecuTorchRunner(made), prompt, made.table(STEPS), GUIDANCE, SEED))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert psnr_db(pixels[i], pixels[j]) >= least
