"""What the app's loop should do on a desktop: every call of a program and every picture as Python's runtime has them.

`write` leaves cases.json, a list of {name, bundle, prompt, negative, seed, plan, guidance, original, calls, pixels}.
original: what the picture begins with, {picture, mask, strength}, the names of PNG files beside it, or null. calls: one
of each call of a program in the order of a device, "file method sha256", of all inputs and then all outputs, each as a
line "dtype [sizes]" and its little-endian bytes. pixels: sha256 of the picture's bytes, [3, H, W].
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from edge_hadanorm import files
from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.runner import ExecuTorchRunner, Method
from edge_hadanorm.bundle.schema import DECODER, IMAGE_ENCODER
from edge_hadanorm.pipelines.drawing import Wish, picture
from edge_hadanorm.pipelines.pictures import to_pixels
from runtime_tests.app import originals

Call = TypeVar("Call")


@dataclass(frozen=True)
class Case:
    """One picture that is asked of a bundle. guidance, negative None: the bundle's own."""

    name: str
    bundle: Bundle
    prompt: str
    seed: int
    plan: str
    guidance: float | None = None
    negative: str | None = None
    begin: originals.Begin | None = None

    def recorded(self, folder: Path) -> dict:
        """The case with what Python makes of it, as it stands in cases.json in a folder."""
        sampling = self.bundle.sampling
        guidance = sampling["guidance"] if self.guidance is None else self.guidance
        negative = sampling["negative"] if self.negative is None else self.negative
        plan, original, found = self.bundle.plan(self.plan), None, None
        if self.begin is not None:
            plan, stem = plan.begun(self.begin.strength), self.name.replace(" ", "-")
            original, found = originals.made(folder, stem, self.bundle.image_size, self.begin, self.seed)
        runner = Recorder(self.bundle)
        drawn = picture(runner, Wish(self.prompt, plan, guidance, self.seed, negative, original))
        return {
            "name": self.name,
            "bundle": str(self.bundle.folder),
            "prompt": self.prompt,
            "negative": negative,
            "seed": self.seed,
            "plan": self.plan,
            "guidance": float(guidance),
            "original": found,
            "calls": by_program(self.bundle, runner.calls, lambda call: call.split()[0]),
            "pixels": hashlib.sha256(to_pixels(drawn).numpy().tobytes()).hexdigest(),
        }


class Recorder(ExecuTorchRunner):
    """Keeps what every call was given and gave, as a digest."""

    def __init__(self, bundle: Bundle):
        super().__init__(bundle)
        self.calls: list[str] = []
        self._methods = {key: self._recorded(*key, method) for key, method in self._methods.items()}

    def _recorded(self, role: str, name: str, method: Method) -> Method:
        def call(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            outputs = [output.clone() for output in method(inputs)]
            self.calls.append(f"{self.bundle.programs[role]['file']} {name} {digest([*inputs, *outputs])}")
            return outputs

        return call


def by_program(bundle: Bundle, calls: Sequence[Call], file: Callable[[Call], str]) -> list[Call]:
    """Calls as a device makes them, which has one program in memory at a time and loads each once.

    file: of the program of a call.
    """
    roles = sorted(bundle.programs, key=lambda role: (role == DECODER, role == "denoiser", role != IMAGE_ENCODER))
    order = [bundle.programs[role]["file"] for role in roles]
    return sorted(calls, key=lambda call: order.index(file(call)))


def digest(tensors: Sequence[torch.Tensor]) -> str:
    """sha256 of tensors of a bundle's programs."""
    all_bytes = hashlib.sha256()
    for tensor in tensors:
        all_bytes.update(f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        all_bytes.update(tensor.contiguous().numpy().tobytes())
    return all_bytes.hexdigest()


def write(folder: Path, cases: Sequence[Case]) -> None:
    """Leave cases.json in a folder."""
    files.write_json(folder / "cases.json", [case.recorded(folder) for case in cases])
