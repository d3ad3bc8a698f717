"""Instructions of one call of a program on an emulated ARM64 processor: a cost without noise, no prediction of time.

The count repeats exactly for the same program, wheel, compiler and version of qemu.
"""

import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rotation_native as native
from rotation_native import Missing

SYSROOT = "/usr/aarch64-linux-gnu"
TIMEOUT = 600


class Emulator:
    """Runs programs on ARM64. executorch: the unpacked folder of its aarch64 wheel; folder: for what is built."""

    def __init__(self, executorch: Path, folder: Path):
        self.qemu = native.require("qemu-aarch64", "qemu-user")
        self.folder = folder
        self.runner = native.arm_runner(executorch, folder)
        self.plugin = native.plugin(folder)

    def run(self, program: Path, x: np.ndarray) -> tuple[int, np.ndarray]:
        """Instructions of one call and its output (flat), for the input x (float32)."""
        source, target = self.folder / "input.raw", self.folder / "output.raw"
        x.tofile(source)
        command = [self.qemu, "-cpu", native.CPU, "-L", SYSROOT, "-plugin", self.plugin]
        command += [self.runner, program, source, target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        if "Could not load plugin" in done.stderr:
            raise Missing(f"{self.qemu} takes no plugins of version 1 of its interface (qemu 4.2 to 8.2 does)")
        counted = re.search(r"^instructions (\d+)$", done.stderr, re.MULTILINE)
        if done.returncode or not counted:
            raise RuntimeError(f"{program.name} on ARM64: status {done.returncode}\n{done.stderr}")
        return int(counted[1]), np.fromfile(target, np.float32)


def wheel_folder(given: Path | None, cache: Path) -> Path:
    """The `executorch` folder of an aarch64 wheel: given unpacked, given as a .whl, or downloaded. Raises Missing."""
    if given is not None and given.is_dir():
        candidates = [given, given / "executorch"]
        found = next((folder for folder in candidates if (folder / "lib/libexecutorch.so").is_file()), None)
        if found is None:
            raise Missing(f"{given} is no unpacked executorch wheel: it has no lib/libexecutorch.so")
        return found
    wheel = given or _download(cache)
    folder = cache / wheel.stem
    if not folder.exists():
        partial = cache / f"{wheel.stem}.partial"
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(partial)
        except (OSError, zipfile.BadZipFile) as error:
            raise Missing(f"{wheel} is no wheel: {error}") from None
        partial.rename(folder)
    return folder / "executorch"


def _download(cache: Path) -> Path:
    name = f"executorch-{version('executorch')}"
    found = sorted(cache.glob(f"{name}-*_aarch64.whl"))
    if not found:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", python, "--platform", "manylinux_2_28_aarch64"]
        done = subprocess.run([*command, "--dest", cache, name.replace("-", "==", 1)], capture_output=True, text=True)
        found = sorted(cache.glob(f"{name}-*_aarch64.whl"))
        if done.returncode or not found:
            raise Missing(f"pip could not download {name} for aarch64 (give one with --wheel DIR_OR_WHL)")
    return found[0]
