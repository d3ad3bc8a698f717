"""Where programs run: the runner on this machine, or on an emulated ARM64 processor, where instructions are counted."""

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from runtime_tests.device import toolchain
from runtime_tests.device.toolchain import Missing

TIMEOUT = 600
DTYPES = {np.dtype(np.float32), np.dtype(np.int64)}


class RunnerError(Exception):
    """The runner's exit status, see status.h, and its line."""

    def __init__(self, status: int, line: str):
        super().__init__(f"status {status}: {line}")
        self.status, self.line = status, line


@dataclass(frozen=True)
class Ran:
    """outputs: raw bytes. report: the runner's JSON. counts: instructions of the last call by kind, where counted."""

    outputs: list[bytes]
    report: dict
    counts: dict[str, int]

    def output(self, index: int = 0) -> np.ndarray:
        """One output as float32, flat."""
        return np.frombuffer(self.outputs[index], np.float32)


@dataclass(frozen=True)
class Machine:
    """One that runs the runner. cpu: a model of qemu's; None: this machine. prefix: a command that runs the command.

    extra, wheel: what its runner is built of, see toolchain.py.
    """

    name: str
    cpu: str | None = None
    extra: toolchain.Extra = field(default=toolchain.Extra())
    wheel: Path | None = None
    prefix: tuple[str, ...] = ()

    @cached_property
    def runner(self) -> Path:
        """Raises Missing."""
        if self.cpu is None:
            return toolchain.runner(toolchain.HOST, toolchain.installed(), self.extra)
        return toolchain.runner(toolchain.ARM, toolchain.wheel(self.wheel), self.extra)

    def run(
        self,
        program: Path,
        method: str,
        inputs: Sequence[np.ndarray | Path],
        count: bool = False,
        **options: object,
    ) -> Ran:
        """Call a method. count: instructions of a second call. options: see runner.cpp. Raises RunnerError, Missing."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = [_raw(x, folder / f"input.{i}") for i, x in enumerate(inputs)]
            options = {"output": folder / "output"} | ({"repeat": 2} if count else {}) | options
            report, counts = self.call(["run", program, method, *files], count, **options)
            found = sorted(folder.glob("output.*"), key=lambda file: int(file.suffix[1:]))
            return Ran([file.read_bytes() for file in found], report, counts)

    def call(self, arguments: Sequence[object], count: bool = False, **options: object) -> tuple[dict, dict[str, int]]:
        """The runner's JSON for a command line, and counts. Raises RunnerError, Missing."""
        command = [*self._prefix(count), self.runner, *arguments]
        for option, value in options.items():
            command += [f"--{option}", value]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, errors="replace", timeout=TIMEOUT
        )
        if "Could not load plugin" in done.stderr:
            raise Missing(f"{command[0]} takes no plugins of version 1 of its interface (qemu 4.2 to 8.2 does)")
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("runner: ")]
            raise RunnerError(done.returncode, lines[-1] if lines else done.stderr[-1000:])
        return json.loads(done.stdout), _counts(done.stderr)

    def _prefix(self, count: bool) -> list[object]:
        if self.cpu is None:
            return list(self.prefix)
        plugin = ["-plugin", toolchain.counter()] if count else []
        return [*self.prefix, toolchain.qemu(), "-cpu", self.cpu, "-L", toolchain.SYSROOT, *plugin]


def on_python(program: Path, method: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """The first output of a method in Python's runtime, flat."""
    from executorch.runtime import Runtime

    loaded = Runtime.get().load_program(program)
    tensors = [torch.from_numpy(x) for x in inputs]
    return loaded.load_method(method).execute(tensors)[0].flatten().clone().numpy()


def _raw(tensor: np.ndarray | Path, file: Path) -> Path:
    if isinstance(tensor, Path):
        return tensor
    if tensor.dtype not in DTYPES:
        raise TypeError(f"an input is {tensor.dtype}")
    np.ascontiguousarray(tensor).tofile(file)
    return file


def _counts(text: str) -> dict[str, int]:
    return {kind.strip(): int(n) for kind, n in re.findall(r"^count (.+) (\d+)$", text, re.MULTILINE)}


HOST = Machine("x86_64")
# The emulator's `max` computes 8-bit products wrongly while it has SVE: version 7.2 emulates SME, which comes with it.
ARM = (Machine("cortex-a53", "cortex-a53"), Machine("cortex-a76", "cortex-a76"), Machine("i8mm", "max,sve=off"))
MACHINES = {machine.name: machine for machine in (HOST, *ARM)}
