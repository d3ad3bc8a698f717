"""A disk that fills up: one line that says so, and nothing left behind."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime_tests.support.helpers import assert_answered, tree

pytestmark = pytest.mark.slow

NO_ROOM = ["cannot write", "No space left on device", "make room"]
TOO_LARGE = ["cannot write", "File too large", "make room"]
QUANTIZE = "quantize {pipeline} --recipe rtn-w8a8 --out {disk}/out"
CALIBRATE = "quantize {pipeline} --recipe hadanorm-w8a8 --prompts {prompts} --steps 1 --out {disk}/out"
EXPORT = "export {checkpoint} --target xnnpack --out {disk}/out"
GENERATE = "generate {bundle} 'red a' --backend simulation --steps 1 --out {disk}/out.png"
INSPECTED = "report {bundle} --out {disk}/out.html"


@pytest.fixture(scope="module")
def given(tiny_pipeline, tiny_checkpoint, tiny_bundle, tmp_path_factory) -> dict[str, Path]:
    """What commands are given, on another disk."""
    prompts = tmp_path_factory.mktemp("given") / "prompts.txt"
    prompts.write_text("red a\nblue c\n")
    bundle = tiny_bundle("rtn-w8a8").folder
    return {
        "pipeline": tiny_pipeline,
        "checkpoint": tiny_checkpoint("rtn-w8a8"),
        "bundle": bundle,
        "prompts": prompts,
    }


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def mounted(folder: Path, room: int) -> Iterator[Path]:
    """A disk of its own with so many bytes of room."""
    folder.mkdir()
    options = f"size={-(-room // 4096) * 4096}"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def disk(tmp_path) -> Callable[[int], Path]:
    """disk(room) -> a folder on a disk with so many bytes of room. Needs root."""
    if shutil.which("mount") is None or os.geteuid():
        pytest.skip("mounting a small disk needs root")
    return lambda room: mounted(tmp_path / "disk", room)


# (a command, the part of what it writes that there is room for)
WRITES = [
    *[(QUANTIZE, part) for part in (0.02, 0.3, 0.9, 0.99)],
    *[(CALIBRATE, part) for part in (0.02, 0.2, 0.9)],
    *[(EXPORT, part) for part in (0.05, 0.8, 0.97)],
]


@pytest.mark.parametrize(("line", "part"), WRITES)
def test_a_full_disk_is_said_and_nothing_is_left(given, disk, run, line, part):
    whole = size(given["bundle"] if line == EXPORT else given["checkpoint"])
    with disk(int(part * whole)) as folder:
        status, shown = run(line.format(**given, disk=folder))
        assert_answered(status, shown, NO_ROOM)
        assert tree(folder) == {}


@pytest.mark.parametrize("line", [GENERATE, INSPECTED])
def test_a_file_that_does_not_fit_is_said_and_not_left(given, disk, run, line):
    with disk(4096) as folder:
        (folder / "other").write_bytes(b"x" * 4000)
        status, shown = run(line.format(**given, disk=folder))
        assert_answered(status, shown, NO_ROOM)
        assert tree(folder).keys() == {"other"}


@pytest.mark.parametrize("room", [1000, 50_000, 150_000])
@pytest.mark.parametrize("line", [QUANTIZE, CALIBRATE, GENERATE])
def test_files_that_may_not_be_so_large_stand_in_for_a_full_disk(given, tmp_path, run, line, room):
    """Where no disk can be mounted; a picture is smaller than most of these."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        status, shown = run(line.format(**given, disk=tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if line == GENERATE and status == 0:
        assert tree(tmp_path)["out.png"]
        return
    assert_answered(status, shown, TOO_LARGE)
    assert tree(tmp_path) == {}
