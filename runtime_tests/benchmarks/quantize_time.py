"""Seconds that quantizing takes by the number of blocks: PixArt's geometry at width 1152, random weights and calls.

    python -m runtime_tests.benchmarks.quantize_time [--recipe hadanorm-auto-w4a8] [--blocks 2 --blocks 4] [--calls 64]

Each number of blocks is a model of its own, quantized as `edge-hadanorm quantize` does after calibration.
"""

import time
from functools import partial

from edge_hadanorm import console

if __name__ == "__main__":
    console.silence_libraries()  # before they are imported

import click
import torch

from edge_hadanorm.bench.case import TEXT_TOKENS, TEXT_WIDTH, Case
from edge_hadanorm.method import recipe
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.pixart import PixArtDenoiser
from edge_hadanorm.quantization import calibration, quantize

TOKENS = 256
MOMENT_CALLS = 4


def random_calls(denoiser: PixArtDenoiser, count: int) -> list[Inputs]:
    """One picture each, at timesteps spread over the trajectory."""
    generator = torch.Generator().manual_seed(0)
    return [
        Inputs(
            torch.randn(1, *denoiser.latent_shape(), generator=generator),
            torch.tensor([1000 * (i + 0.5) / count]),
            {"text": torch.randn(1, TEXT_TOKENS, TEXT_WIDTH, generator=generator)},
        )
        for i in range(count)
    ]


def seconds(name: str, blocks: int, calls: int) -> float:
    """Time to quantize a model of so many blocks on so many calls."""
    transformer = Case(blocks, TOKENS).transformer.transformer
    config = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
    denoiser = PixArtDenoiser.from_diffusers(config, transformer.state_dict()).eval().requires_grad_(False)
    inputs = random_calls(denoiser, calls)
    moments = calibration.calibrate(denoiser, [partial(call.run, denoiser) for call in inputs[:MOMENT_CALLS]])
    start = time.monotonic()
    quantize.quantize(denoiser, recipe.named(name), moments, calls=inputs, progress=console.progress("quantizing"))
    return time.monotonic() - start


@click.command()
@click.option("--recipe", "name", default="hadanorm-auto-w4a8", show_default=True)
@click.option("--blocks", type=int, multiple=True, default=(2, 4, 8), show_default=True)
@click.option("--calls", default=64, show_default=True, help="Of 256 tokens each.")
def main(name: str, blocks: tuple[int, ...], calls: int) -> None:
    for count in blocks:
        taken = seconds(name, count, calls)
        print(f"{name}, {count} blocks: {taken:.0f} s, {taken / count:.1f} s a block", flush=True)


if __name__ == "__main__":
    main()
