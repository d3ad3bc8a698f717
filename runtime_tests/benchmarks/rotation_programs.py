"""The ways to lower the rotation in front of a quantized linear, each as an ExecuTorch program of that one linear.

Every program computes y = x W^T of the same x [1, 256, d] and W [1152, d], through z = (x / D) R quantized to 8 bits a
token and W' = W D R quantized to 8 bits a channel. They differ in D, in R, and in the operators that make z.
"""

import ctypes
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from math import sqrt
from pathlib import Path

import executorch
import rotation_native as native
import torch
from executorch.runtime import Runtime
from torch import nn

from edge_hadanorm import hadamard, transform
from edge_hadanorm.export import program as exporting
from edge_hadanorm.export import xnnpack
from edge_hadanorm.export.quantizer import EightBitQuantizer
from edge_hadanorm.transform import FeatureTransform, rotation_factors

TOKENS, OUTPUTS, BLOCK = 256, 1152, 128
WIDTHS = (1152, 4608)


@dataclass(frozen=True)
class Case:
    """The linear of one width d. x [1, 256, d], scale [d] (the deviations of x's channels), weight [1152, d]."""

    x: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor

    @property
    def exact(self) -> torch.Tensor:
        """The output [1, 256, 1152] without quantization."""
        return self.x @ self.weight.T


@cache
def case(width: int) -> Case:
    """The same numbers at every call; channels differ in size as activations do."""
    generator = torch.Generator().manual_seed(width)
    scale = torch.randn(width, generator=generator).exp()
    x = torch.randn(1, TOKENS, width, generator=generator) * scale
    return Case(x, scale, torch.randn(OUTPUTS, width, generator=generator) / sqrt(width))


class OperatorTransform(nn.Module):
    """z of tokens x [1, S, d] by an operator that no delegate takes, in the place of a FeatureTransform."""

    def __init__(self, operator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], factors: torch.Tensor):
        super().__init__()
        self.operator = operator
        self.register_buffer("factors", factors)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.operator(x, self.factors), None


def llama_hadamard(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """ExecuTorch's own operator, which has no scale: that stays a product, in a delegate of its own."""
    scaled = (x * factors).unflatten(-1, (-1, BLOCK))
    return torch.ops.llama.fast_hadamard_transform(scaled).flatten(-2)


def fused_hadamard(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The operator of native/hadamard_kernel.cpp."""
    return torch.ops.edge_hadanorm.scaled_hadamard(x, factors)


@dataclass(frozen=True)
class Variant:
    """scaled: D is the case's scale. kind, block: of R, as in a recipe. operator: what makes z; None: matmuls."""

    scaled: bool = True
    kind: str = "block"
    block: int = BLOCK
    operator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def transform(self, scale: torch.Tensor) -> nn.Module:
        """x to z."""
        if self.operator is None:
            return self._matmuls(scale)
        # The fused operator's matrix has entries +-1: what makes it a rotation is part of its factors.
        norm = sqrt(self.block) if self.operator is fused_hadamard else 1.0
        return OperatorTransform(self.operator, 1 / (scale * norm))

    def fold(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """W'."""
        return self._matmuls(1 / scale)(weight[None])[0][0]

    def _matmuls(self, scale: torch.Tensor) -> FeatureTransform:
        factors = rotation_factors(len(scale), self.kind, self.block)
        return FeatureTransform(scale=scale if self.scaled else None, rotation=factors).to(scale.dtype)


FUSED, LLAMA = "fused kernel 128", "llama operator 128"
VARIANTS = {
    "none": Variant(scaled=False, kind="none"),
    "scale only": Variant(kind="none"),
    **{f"block matmul {block}": Variant(block=block) for block in (16, 32, 64, 128)},
    "full Kronecker": Variant(kind="full"),
    LLAMA: Variant(operator=llama_hadamard),
    FUSED: Variant(operator=fused_hadamard),
}


class Workshop:
    """Builds and loads programs; `folder` keeps them until the code or ExecuTorch changes."""

    def __init__(self, cache_folder: Path):
        sources = "".join(map(inspect.getsource, (hadamard, transform, exporting, xnnpack)))
        text = version("executorch") + sources + Path(__file__).read_text() + native.KERNEL.read_text()
        self.folder = cache_folder / hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)

    def program(self, name: str, width: int) -> Path:
        """The .pte of a variant. Raises Missing where its operator is not there."""
        self._register(name)
        file = self.folder / f"{name.replace(' ', '-')}-{width}.pte"
        if not file.exists():
            file.write_bytes(_build(VARIANTS[name], case(width)))
        return file

    def load(self, name: str, width: int) -> Callable[[], torch.Tensor]:
        """A call that runs it in the Python runtime."""
        program = Runtime.get().load_program(self.program(name, width))
        method, inputs = program.load_method("forward"), [case(width).x]
        # The closure keeps the program, which its methods do not.
        return lambda: (program, method.execute(inputs)[0])[1]

    def _register(self, name: str) -> None:
        if name == LLAMA:
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 (registers the operator)
        elif name == FUSED:
            _register_fused(self.folder)


@cache
def _register_fused(folder: Path) -> torch.library.Library:
    """The fused operator, for export and in the running runtime, as long as what this returns is kept."""
    library = native.host_kernel(Path(executorch.__path__[0]), folder)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    operators = torch.library.Library("edge_hadanorm", "DEF")
    operators.define("scaled_hadamard(Tensor x, Tensor scale) -> Tensor")
    operators.define("scaled_hadamard.out(Tensor x, Tensor scale, *, Tensor(a!) out) -> Tensor(a!)")
    operators.impl("scaled_hadamard", _scaled_hadamard, "CompositeExplicitAutograd")
    return operators


def _scaled_hadamard(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """What the fused operator computes, for export, which runs it."""
    return sqrt(BLOCK) * hadamard.fast_hadamard((x * factors).unflatten(-1, (-1, BLOCK))).flatten(-2)


class RotatedLinear(nn.Module):
    """transform: x to z; weight: W'."""

    def __init__(self, transform: nn.Module, weight: torch.Tensor):
        super().__init__()
        self.transform = transform
        self.linear = nn.Linear(*reversed(weight.shape), bias=False)
        self.linear.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.transform(x)[0])


@torch.no_grad()
def _build(variant: Variant, linear_case: Case) -> bytes:
    scale, weight = linear_case.scale.double(), linear_case.weight.double()
    model = RotatedLinear(variant.transform(scale), variant.fold(weight, scale)).float().eval()
    manager, _ = xnnpack.lower({"forward": exporting.export(model, (linear_case.x,), EightBitQuantizer())})
    return manager.buffer
