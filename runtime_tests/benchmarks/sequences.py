"""A step by programs of one sequence against the same step by programs of two, as bundles of schema 2 had them.

    python -m runtime_tests.benchmarks.sequences [--recipe hadanorm-balanced-w8a8] [--rounds 15]

PixArt's geometry at width 1152 with random weights, 2 blocks, at 256 and 1024 tokens, and the reference model. One
thread; rounds of all three are interleaved, and ratios are medians over the rounds. Prints Markdown.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edge_hadanorm import console

if __name__ == "__main__":
    console.silence_libraries()  # before they are imported

import click
import torch
from executorch.runtime import Runtime

from edge_hadanorm.bench.case import Case
from edge_hadanorm.bench.contenders import quantized_case
from edge_hadanorm.bundle.runner import set_threads
from edge_hadanorm.exporters.component import Denoise
from edge_hadanorm.exporters.xnnpack.program import export
from edge_hadanorm.exporters.xnnpack.target import lower
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.workflow import load, quantize

BLOCKS, TOKENS = 2, (256, 1024)
Call = Callable[[], object]


def twice(call: Inputs) -> Inputs:
    """The guidance batch of one call: the same sequence twice."""
    prompt = {name: torch.cat([tensor, tensor]) for name, tensor in call.prompt.items()}
    return Inputs(torch.cat([call.latents, call.latents]), call.timestep, prompt)


@torch.no_grad()
def program(denoiser: Denoiser, call: Inputs, file: Path) -> tuple[Call, object]:
    """A call of the denoise method that is exported for these inputs, and what has to be kept for it."""
    conditioning = [tensor.contiguous() for tensor in denoiser.prepare(**call.prompt)]
    lowered, _ = lower({"denoise": export(Denoise(denoiser), (call.latents, call.timestep, conditioning))})
    file.write_bytes(lowered.buffer)
    loaded = Runtime.get().load_program(file)
    method, inputs = loaded.load_method("denoise"), [call.latents, call.timestep, *conditioning]
    return lambda: method.execute(inputs), loaded


def subjects(recipe: str) -> dict[str, tuple[Denoiser, Inputs]]:
    """Quantized denoisers with a call of one sequence, by what they are."""
    found = {}
    for tokens in TOKENS:
        case = Case(BLOCKS, tokens)
        found[f"width 1152, {tokens} tokens"] = quantized_case(case, recipe), case.inputs
    model = load("reference")
    saved = quantize(model, recipe, steps=2, prompts=["red apple"], measure=False)
    latents = torch.from_numpy(normal(0, (1, *saved.denoiser.latent_shape())))
    found["reference"] = saved.denoiser, Inputs(latents, torch.tensor([500.0]), model.pipeline.prompt("red apple"))
    return found


def measured(denoiser: Denoiser, call: Inputs, rounds: int) -> list[float]:
    """Medians: milliseconds of the batch of two, and the shares of it of one call and of two calls."""
    with tempfile.TemporaryDirectory() as work:
        one, kept = program(denoiser, call, Path(work) / "one.pte")
        batch, also = program(denoiser, twice(call), Path(work) / "two.pte")
        times: list[tuple[float, float, float]] = []
        for _ in range(rounds + 1):
            marks = [time.perf_counter()]
            for run in (batch, one, lambda: (one(), one())):
                run()
                marks.append(time.perf_counter())
            two, single, pair = (after - before for before, after in itertools.pairwise(marks))
            times.append((1000 * two, single / two, pair / two))
        del kept, also
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]  # the first pays for the pages


@click.command(help=__doc__.split("\n")[0])
@click.option("--recipe", default="hadanorm-balanced-w8a8", show_default=True)
@click.option("--rounds", default=15, show_default=True)
def main(recipe: str, rounds: int) -> None:
    set_threads(1)
    print("| step of | batch of two, ms | without guidance | with guidance, two calls |\n|---|---:|---:|---:|")
    for name, (denoiser, call) in subjects(recipe).items():
        milliseconds, single, pair = measured(denoiser, call, rounds)
        print(f"| {name} | {milliseconds:.1f} | {single:.2f} | {pair:.2f} |", flush=True)


if __name__ == "__main__":
    raise SystemExit(console.run(lambda: main(standalone_mode=False)))
