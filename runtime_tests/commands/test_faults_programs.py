"""A program that is damaged, or another than its bundle says: answered in a line, whatever its sha256."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_hadanorm.bundle import write_manifest
from runtime_tests.device import programs
from runtime_tests.device.machine import RunnerError
from runtime_tests.support.helpers import assert_answered, tree

pytestmark = pytest.mark.slow  # they wait for the bundle

RECIPE = "rtn-w8a8"
DENOISER, MANIFEST = "denoiser.pte", "manifest.json"
GENERATE = "generate {bundle} 'red a' --backend executorch --steps 1 --out {out}"
CRASHED = 9
DELEGATE = b"XnnpackBackend"

Damage = Callable[[bytes], bytes]


def cut(size: int | float) -> Damage:
    return lambda content: content[: size if isinstance(size, int) else int(size * len(content))]


def flipped(marker: bytes, bit: int = 0, offset: int = 0) -> Damage:
    """One bit of what begins with a marker, of a byte so far behind it."""

    def damage(content: bytes) -> bytes:
        place = content.index(marker) + offset
        return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]

    return damage


# (how, what is said of it once its sha256 is that of the manifest)
DAMAGES = {
    "empty": (cut(0), "is no program"),
    "cut in its header": (cut(20), "is no program"),
    "cut in its tables": (cut(1000), "is no program"),
    "cut in the middle": (cut(0.5), "is no program"),
    "cut at the end": (cut(0.99), "is no program"),
    "of another format": (flipped(b"ET12", 1), "is no program"),
    "of another size in its header": (flipped(b"eh00", 7, 14), "is no program"),
    "of another root": (flipped(b"ET12", 6, -4), "is no program"),
    "text": (lambda content: b"not a program\n" * 100, "is no program"),
    "of a delegate that is not here": (
        lambda content: content.replace(DELEGATE, DELEGATE[:-1] + b"X"),
        "does not load its method",
    ),
    "of a delegate's other format": (flipped(b"XH00", 1), "does not load its method"),
}


@pytest.fixture
def bundle(tiny_bundle, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_bundle(RECIPE).folder, tmp_path / "bundle"))


def damaged(folder: Path, damage: Damage) -> None:
    content = damage((folder / DENOISER).read_bytes())
    (folder / DENOISER).write_bytes(content)


def seal(folder: Path) -> None:
    """Make the files of a bundle those that its manifest lists."""
    write_manifest(folder, json.loads((folder / MANIFEST).read_text()))


@pytest.mark.parametrize("damage", [damage for damage, _ in DAMAGES.values()], ids=DAMAGES)
def test_a_damaged_program_is_found_before_it_is_loaded(bundle, tmp_path, run, damage):
    damaged(bundle, damage)
    before = tree(tmp_path)
    status, shown = run(GENERATE.format(bundle=bundle, out=tmp_path / "out.png"))
    assert_answered(status, shown, [f"'{DENOISER}'", "copy the bundle again"])
    assert tree(tmp_path) == before


SEVERAL = """
import io, json, shlex, sys
from edge_hadanorm import console
from edge_hadanorm.cli import cli
console.silence_libraries()
for line in json.load(sys.stdin):
    console.screen = io.StringIO()
    status = console.run(lambda: cli.main(shlex.split(line), standalone_mode=False))
    print(json.dumps([status, console.screen.getvalue()]), flush=True)
"""


def test_a_damaged_program_of_the_right_sha256_is_refused_by_the_runtime(tiny_bundle, tmp_path):
    """In a process of its own, which lives through all of them."""
    lines = []
    for i, (damage, _) in enumerate(DAMAGES.values()):
        folder = tmp_path / str(i)
        shutil.copytree(tiny_bundle(RECIPE).folder, folder)
        damaged(folder, damage)
        seal(folder)
        lines.append(GENERATE.format(bundle=folder, out=tmp_path / "out.png"))
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL], input=json.dumps(lines), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (_, message), (status, shown) in zip(DAMAGES.values(), answers, strict=True):
        assert_answered(status, shown, [DENOISER, message, "export the bundle again"])
    assert not (tmp_path / "out.png").exists()


# The manifest of another program.

DENOISE, PREPARE = (f"programs/denoiser/methods/{name}" for name in ("denoise", "prepare"))
OTHERS = [
    ("a wider input", f"{DENOISE}/inputs/2/shape/1", 9, ["inputs of 'denoise'"]),
    ("an input of another dtype", f"{DENOISE}/inputs/1/dtype", "int64", ["inputs of 'denoise'"]),
    ("an input less", f"{DENOISE}/inputs/2", ..., ["inputs of 'denoise'"]),
    ("an output of two sequences", f"{DENOISE}/outputs/0/shape/0", 2, ["denoise.outputs", "[1, *latents.shape]"]),
    ("an output of another shape", f"{PREPARE}/outputs/0/shape/0", 2, ["outputs of 'prepare'"]),
    ("an output of another dtype", f"{DENOISE}/outputs/0/dtype", "float16", ["outputs of 'denoise'"]),
    ("no output", f"{DENOISE}/outputs", [], ["denoise.outputs", "latents.shape"]),
    ("outputs of `prepare`", f"{PREPARE}/outputs", [], ["outputs of 'prepare'"]),
    (
        "a method more",
        "programs/denoiser/methods/forward",
        {"inputs": [], "outputs": [], "activations": None},
        ["has no method 'forward'", "manifest lists"],
    ),
    ("other latents", "latents/shape", [3, 8, 4], ["denoise.inputs", "latents.shape"]),
    ("too many latents", "latents/shape", [2**31 - 1] * 3, ["denoise.inputs", "latents.shape"]),
    ("too many tokens", "prompt/encoders/text_encoder/length", 2**31 - 1, ["encode.inputs", "length"]),
    ("an unknown condition", f"{PREPARE}/inputs/0/name", "x", ["nothing gives 'x'", "prepare"]),
    ("padding that no encoder knows", "prompt/encoders/text_encoder/pad_id", 9999, ["text_encoder.pte", "cannot run"]),
    ("programs exchanged", "programs/denoiser/file", "text_encoder.pte", ["has no method 'prepare'"]),
    ("Core ML's", "target", "coreml", ["for coreml", "--backend simulation"]),
    ("Core ML's delegate", "target", "coreml-pte", ["for coreml-pte", "--backend simulation"]),
]


@pytest.mark.parametrize(("place", "value", "words"), [pytest.param(*case, id=name) for name, *case in OTHERS])
def test_a_program_that_is_not_what_the_manifest_says_is_refused(bundle, tmp_path, run, place, value, words):
    manifest = json.loads((bundle / MANIFEST).read_text())
    *path, last = [int(key) if key.isdigit() else key for key in place.split("/")]
    parent = manifest
    for key in path:
        parent = parent[key]
    if value is ...:
        del parent[last]
    else:
        parent[last] = value
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    before = tree(tmp_path)
    status, shown = run(GENERATE.format(bundle=bundle, out=tmp_path / "out.png"))
    assert_answered(status, shown, [str(bundle), *words])
    assert tree(tmp_path) == before


# The runner without Python.


@pytest.fixture(scope="module")
def small(host) -> programs.Subject:
    return programs.subject("exact 8")


def ended(host, file: Path, small: programs.Subject) -> tuple[int, str]:
    """Status and line of a run."""
    try:
        host.run(file, small.method, small.inputs)
    except RunnerError as error:
        return error.status, error.line
    return 0, ""


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_bit_ends_the_runner_by_a_signal(host, small, tmp_path, seed):
    """It computes something else, or ends with a status of its own: sixty bits, a third of them in the tables."""
    content, generator = small.file.read_bytes(), random.Random(seed)
    tables = content.index(b"XH00")
    file = tmp_path / "flipped.pte"
    for i in range(60):
        place = generator.randrange(tables if i % 3 == 0 else len(content))
        file.write_bytes(flipped(b"", generator.randrange(8), place)(content))
        status, line = ended(host, file, small)
        assert status == 0 or (2 <= status <= CRASHED and line.startswith("runner: ")), (place, status, line)
        assert len(line.splitlines()) <= 1


def test_a_crash_of_the_runtime_has_a_status(host, tmp_path):
    """Sent from outside, as which bits crash the runtime changes with its release, while a plan is waited for."""
    os.mkfifo(tmp_path / "plan")
    runner = subprocess.Popen([host.runner, "generate", tmp_path / "plan"], stderr=subprocess.PIPE, text=True)
    with open(tmp_path / "plan", "wb"):  # opens as soon as the runner does
        runner.send_signal(signal.SIGSEGV)
        _, shown = runner.communicate(timeout=60)
    assert runner.returncode == CRASHED
    assert shown == "runner: the runtime crashed: the program is damaged\n"
