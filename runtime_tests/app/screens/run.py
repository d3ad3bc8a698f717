"""A picture on its way, drawn on the ExecuTorch runtime of this machine: what the screens are filled with."""

import base64
import io
import itertools
import math
import os
import statistics
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.runner import ExecuTorchRunner, set_threads
from edge_hadanorm.pipelines.drawing import Original, Wish, latents, picture

THREADS = 1
# The place of the slider in the layout.
STRENGTH = 0.6


@dataclass(frozen=True)
class Check:
    """The golden sample: the bundle's picture and this machine's as addresses, their PSNR in dB."""

    expected: str
    drawn: str
    psnr: float


@dataclass(frozen=True)
class Begun:
    """A picture that begins with the one before, under a mask: addresses, and the milliseconds of its steps."""

    mask: str
    drawn: str
    steps: list[float]


@dataclass(frozen=True)
class Run:
    """Pictures after each step as addresses; times in milliseconds."""

    bundle: Bundle
    threads: int
    cores: int
    prompt: str
    seed: int
    pictures: list[str]
    load: dict[str, float]
    prepare: float
    steps: list[float]
    total: float
    check: Check
    begun: Begun

    @property
    def median(self) -> float:
        return statistics.median(self.steps[1:])


def run(bundle: Bundle, prompt: str, seed: int) -> Run:
    """The bundle's own plan, guidance and negative prompt. Of a bundle whose latents are pixels."""
    set_threads(THREADS)
    load = {role: _load(bundle, program["file"]) for role, program in bundle.programs.items()}
    runner, pictures, moments = ExecuTorchRunner(bundle), [], []

    def on_step(_: int, state: torch.Tensor) -> None:
        moments.append(time.perf_counter())
        pictures.append(_address(_levels(state[0])))

    sampling = bundle.sampling
    plan, negative = bundle.plan(sampling["plan"]), sampling["negative"]
    begin = time.perf_counter()
    runner.prepare(prompt)
    runner.prepare(negative, negative=True)
    prepare = 1000 * (time.perf_counter() - begin)
    moments.append(time.perf_counter())
    wish = Wish(prompt, plan, sampling["guidance"], seed, negative)
    drawn = latents(runner, wish, on_step)
    steps = [1000 * (after - before) for before, after in itertools.pairwise(moments)]
    total = sum(load.values()) + 1000 * (time.perf_counter() - begin)
    cores = os.cpu_count() or 1
    check, begun = _check(bundle, runner), _begun(runner, wish, drawn)
    return Run(bundle, THREADS, cores, prompt, seed, pictures, load, prepare, steps, total, check, begun)


def _begun(runner: ExecuTorchRunner, wish: Wish, drawn: torch.Tensor) -> Begun:
    """The right half of a picture is drawn anew, of other noise."""
    mask = torch.zeros(drawn.shape[1:])
    mask[:, drawn.shape[2] // 2 :] = 1
    moments = []
    original = Original((torch.from_numpy(_levels(drawn)).permute(2, 0, 1) / 127.5 - 1).contiguous(), mask)
    plan = wish.plan.begun(STRENGTH)
    wish = replace(wish, plan=plan, seed=wish.seed + 1, original=original)
    made = latents(runner, wish, lambda *_: moments.append(time.perf_counter()))
    steps = [1000 * (after - before) for before, after in itertools.pairwise(moments)]
    return Begun(_address(_levels((2 * mask - 1).expand(3, -1, -1))), _address(_levels(made)), steps)


def _check(bundle: Bundle, runner: ExecuTorchRunner) -> Check:
    golden = bundle.golden
    plan = bundle.plan(golden["plan"])
    drawn = _levels(
        picture(runner, Wish(golden["prompt"], plan, golden["guidance"], golden["seed"], golden["negative"]))
    )
    with Image.open(bundle.file(golden["file"])) as file:
        expected = np.asarray(file.convert("RGB"))
    error = np.square(drawn.astype(float) - expected).mean()
    psnr = 10 * math.log10(255**2 / error) if error else math.inf
    return Check(_address(expected), _address(drawn), psnr)


def _load(bundle: Bundle, file: str) -> float:
    from executorch.runtime import Runtime

    begin = time.perf_counter()
    program = Runtime.get().load_program(bundle.file(file))
    for name in program.method_names:
        program.load_method(name)
    return 1000 * (time.perf_counter() - begin)


def _levels(chw: torch.Tensor) -> np.ndarray:
    """A picture [3, H, W] in [-1, 1] as bytes [H, W, 3]."""
    return ((chw + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _address(levels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
