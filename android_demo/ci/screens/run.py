"""A picture on its way, drawn on the ExecuTorch runtime of this machine: what the screens are filled with."""

import base64
import io
import itertools
import statistics
import time
from dataclasses import dataclass

import torch
from PIL import Image

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.runtime import ExecuTorchRunner, latents


@dataclass(frozen=True)
class Run:
    """Pictures after each step as addresses; times in milliseconds."""

    bundle: Bundle
    prompt: str
    seed: int
    pictures: list[str]
    load: dict[str, float]
    prepare: float
    steps: list[float]
    total: float

    @property
    def median(self) -> float:
        return statistics.median(self.steps[1:])


def run(bundle: Bundle, prompt: str, seed: int) -> Run:
    """The bundle's own number of steps and guidance. Of a bundle whose latents are pixels."""
    load = {role: _load(bundle, program["file"]) for role, program in bundle.programs.items()}
    runner, pictures, moments = ExecuTorchRunner(bundle), [], []

    def on_step(_: int, state: torch.Tensor) -> None:
        moments.append(time.perf_counter())
        pictures.append(_address(state[0]))

    begin = time.perf_counter()
    runner.prepare(prompt)
    prepare = 1000 * (time.perf_counter() - begin)
    moments.append(time.perf_counter())
    sampling = bundle.manifest["sampling"]
    latents(runner, prompt, bundle.table(sampling["steps"]), sampling["guidance"], seed, on_step)
    steps = [1000 * (after - before) for before, after in itertools.pairwise(moments)]
    return Run(bundle, prompt, seed, pictures, load, prepare, steps, 1000 * (time.perf_counter() - begin))


def _load(bundle: Bundle, file: str) -> float:
    from executorch.runtime import Runtime

    begin = time.perf_counter()
    program = Runtime.get().load_program(bundle.file(file))
    for name in program.method_names:
        program.load_method(name)
    return 1000 * (time.perf_counter() - begin)


def _address(chw: torch.Tensor) -> str:
    """A picture [3, H, W] in [-1, 1] as a data address."""
    levels = ((chw + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
