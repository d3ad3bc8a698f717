"""A command killed by SIGKILL leaves nothing half-written, and given again it makes what it would have made."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_hadanorm import console
from runtime_tests.support.helpers import tree

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")]

QUANTIZE = "quantize {pipeline} --recipe hadanorm-auto-w4a8 --prompts {prompts} --steps 2 --out {out}"
EXPORT = "export {checkpoint} --target xnnpack --out {out}"
STATE = ".out.calibration.safetensors"
# (the command, where it is killed: at the n-th item of a stage, or when it writes a file; what it leaves; how many of
# the three samples the next run has to calibrate)
POINTS = {
    "before any sample": (QUANTIZE, "calibrating", 0, {".out.partial"}, 3),
    "in the middle of calibration": (QUANTIZE, "calibrating", 2, {".out.partial", STATE}, 1),
    "while a state is written": (QUANTIZE, f"{STATE}.partial", 1, {".out.partial", STATE, f"{STATE}.partial"}, 2),
    "before weights are rounded": (QUANTIZE, "recording", 1, {".out.partial", STATE}, 0),
    "in the middle of quantization": (QUANTIZE, "quantizing", 1, {".out.partial", STATE}, 0),
    "while weights are written": (QUANTIZE, "model.safetensors", 0, {".out.partial", STATE}, 0),
    "in the middle of export": (EXPORT, "lowering the text encoder", 0, {".out.partial"}, None),
    "before the manifest": (EXPORT, "manifest.json", 0, {".out.partial"}, None),
}
# One process imports everything, and a child of it for each point is killed by its own hand: half of the file that is
# being written is then there.
DRIVER = """
import json, os, shlex, signal, sys
import torch
torch.set_num_threads(1)
from edge_hadanorm import checkpoint, console, files, tensor_files, workflow
from edge_hadanorm.bundle import manifest
from edge_hadanorm.cli import cli
import edge_hadanorm.exporters.writer, edge_hadanorm.exporters.xnnpack.target, safetensors.torch

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def arm(place, count):
    seen = {}
    def at(name):
        seen[name] = seen.get(name, -1) + 1
        return name == place and seen[name] == count
    def progress(what):
        def items(values):
            for value in values:
                if at(what):
                    die()
                yield value
        return items
    def save(tensors, path, metadata=None):
        content = safetensors.torch.save(tensors, metadata)
        if at(os.path.basename(path)):
            open(path, "wb", 0).write(content[: len(content) // 2])
            die()
        open(path, "wb").write(content)
    def write_json(path, value):
        if at(os.path.basename(path)):
            open(path, "wb", 0).write(b"{")
            die()
        files.write_json(path, value)
    console.progress, tensor_files.save_file, manifest.write_json = progress, save, write_json
    console.status = lambda line: at(line) and die()

for line, place, count in json.load(sys.stdin):
    if not (child := os.fork()):
        arm(place, count)
        os._exit(console.run(lambda: cli.main(shlex.split(line), standalone_mode=False)))
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def given(tiny_pipeline, tiny_checkpoint, tmp_path_factory) -> dict[str, Path]:
    prompts = tmp_path_factory.mktemp("given") / "prompts.txt"
    prompts.write_text("red a\nblue c\ngreen b\n")
    return {"pipeline": tiny_pipeline, "checkpoint": tiny_checkpoint("rtn-w8a8"), "prompts": prompts}


@pytest.fixture(scope="module")
def killed(given, tmp_path_factory) -> dict[str, Path]:
    """The folder of each point, as the killed command left it."""
    folders = {name: tmp_path_factory.mktemp("killed") for name in POINTS}
    orders = [
        (line.format(**given, out=folders[name] / "out"), place, count)
        for name, (line, place, count, *_) in POINTS.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(orders), capture_output=True, text=True, timeout=600
    )
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(POINTS), done
    return folders


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, bytes | None]]:
    """What each command makes when nothing happens to it, once it was asked for."""
    return {}


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_command_given_again_makes_what_it_would_have_made(
    killed, given, whole, run, tmp_path, name, monkeypatch
):
    line, _, _, left, samples = POINTS[name]
    folder = killed[name]
    assert {path.name for path in folder.iterdir()} == left  # no `out`: nothing half-written has its name
    if line not in whole:
        assert run(line.format(**given, out=tmp_path / "out"))[0] == 0
        whole[line] = tree(tmp_path / "out")
    items = {}
    monkeypatch.setattr(console, "progress", lambda what: lambda values: items.setdefault(what, list(values)))
    assert run(line.format(**given, out=folder / "out")) == (0, "")  # without --force
    assert samples is None or len(items["calibrating"]) == samples
    assert tree(folder / "out") == whole[line]
    assert {path.name for path in folder.iterdir()} == {"out"}
