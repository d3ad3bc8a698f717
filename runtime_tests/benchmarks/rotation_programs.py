"""The variants as ExecuTorch programs: 8-bit weights a channel, 8-bit activations a token, XNNPACK."""

import ctypes
import hashlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from math import sqrt
from pathlib import Path

import torch

from edge_hadanorm import files
from edge_hadanorm.bench.contenders import executorch_program
from edge_hadanorm.exporters.xnnpack import annotation, target
from edge_hadanorm.exporters.xnnpack import program as exporting
from edge_hadanorm.method import hadamard, transform
from runtime_tests.benchmarks import rotation_native as native
from runtime_tests.benchmarks import rotation_variants
from runtime_tests.benchmarks.rotation_variants import BLOCK, FUSED, LLAMA, VARIANTS, case


class Workshop:
    """Builds and loads programs; `folder` keeps them until the code or ExecuTorch changes."""

    def __init__(self, cache_folder: Path):
        sources = "".join(map(inspect.getsource, (hadamard, transform, exporting, annotation, target)))
        own = "".join(file.read_text() for file in (Path(__file__), Path(rotation_variants.__file__), native.KERNEL))
        text = version("executorch") + sources + own
        self.folder = cache_folder / hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)

    def program(self, name: str, width: int) -> Path:
        """The .pte of a variant. Raises Missing where its operators are not there."""
        self.register(name)
        file = self.folder / f"{'-'.join(re.findall(r'[a-z0-9]+', name))}-{width}.pte"
        if not file.exists():
            with files.new_file(file) as partial:
                partial.write_bytes(_build(name, width))
        return file

    def load(self, name: str, width: int) -> Callable[[], torch.Tensor]:
        """A call that runs it in the Python runtime."""
        return executorch_program(self.program(name, width), "forward", [case(width).x]).run

    def register(self, name: str) -> None:
        """Make the operators of a variant known to export and to the runtime. Raises Missing."""
        if name == LLAMA:
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 (registers the operator)
        elif name == FUSED:
            _register_fused(self.folder)


@cache
def _register_fused(folder: Path) -> torch.library.Library:
    """The fused operator, for export and in the running runtime, as long as what this returns is kept."""
    ctypes.CDLL(str(native.host_kernel(folder)), mode=ctypes.RTLD_GLOBAL)
    operators = torch.library.Library("edge_hadanorm", "DEF")
    operators.define("scaled_hadamard(Tensor x, Tensor scale) -> Tensor")
    operators.define("scaled_hadamard.out(Tensor x, Tensor scale, *, Tensor(a!) out) -> Tensor(a!)")
    operators.impl("scaled_hadamard", _scaled_hadamard, "CompositeExplicitAutograd")
    return operators


def _scaled_hadamard(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """What the fused operator computes, for export, which runs it."""
    return sqrt(BLOCK) * hadamard.fast_hadamard((x * factors).unflatten(-1, (-1, BLOCK))).flatten(-2)


@torch.no_grad()
def _build(name: str, width: int) -> bytes:
    program = exporting.export(VARIANTS[name].module(width), (case(width).x,), annotation.EightBitQuantizer())
    manager, _ = target.lower({"forward": program})
    return manager.buffer
