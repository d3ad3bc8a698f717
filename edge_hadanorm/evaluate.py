"""A quantized denoiser against the float one: SQNR of predictions and layers, PSNR of pictures."""

import torch
from torch import nn

from edge_hadanorm.calibration import observed
from edge_hadanorm.fold import refold
from edge_hadanorm.metrics import Sqnr, bits_summary, psnr_db, to_pixels
from edge_hadanorm.samples import Inputs, Trajectories


def denoiser_sqnr_db(exact: nn.Module, quantized: nn.Module, inputs: list[Inputs]) -> float:
    """SQNR of the prediction over calls with the same inputs."""
    sqnr = Sqnr()
    for call in inputs:
        sqnr.update(call.run(exact), call.run(quantized))
    return sqnr.db


def layer_sqnr_db(exact: nn.Module, quantized: nn.Module, inputs: list[Inputs]) -> dict[str, float]:
    """SQNR of the output of each quantized linear alone, given the float model's input."""
    exact = refold(exact, quantized)
    layers = {name: Sqnr() for name in exact.quantizable()}

    def compare(name: str, x: torch.Tensor, *weights: torch.Tensor | None) -> None:
        kept = weights[0] > 0 if weights and weights[0] is not None else slice(None)
        y = exact.get_submodule(name).forward(x)  # not a call, which would be observed again
        layers[name].update(y[kept], quantized.get_submodule(name)(x, *weights)[kept])

    with observed(exact, layers, compare):
        for call in inputs:
            call.run(exact)
    return {name: sqnr.db for name, sqnr in layers.items()}


def pictures(denoiser: nn.Module, trajectories: Trajectories) -> torch.Tensor:
    """Pictures uint8 [N, C, H, W], one a prompt."""
    return to_pixels(torch.stack([draw() for draw in trajectories.samples(denoiser)]))


def mean_psnr_db(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over pictures [N, ...]."""
    return sum(psnr_db(x, y) for x, y in zip(a, b, strict=True)) / len(a)


def evaluate(
    exact: nn.Module, quantized: nn.Module, inputs: list[Inputs], trajectories: Trajectories | None, recipe_name: str
) -> dict:
    """Everything `evaluate --json` writes; image_psnr_db is None without a pipeline."""
    image_psnr = None
    if trajectories is not None:
        image_psnr = mean_psnr_db(pictures(exact, trajectories), pictures(quantized, trajectories))
    return {
        "recipe": recipe_name,
        "denoiser_sqnr_db": denoiser_sqnr_db(exact, quantized, inputs),
        "image_psnr_db": image_psnr,
        "bits": bits_summary(quantized),
        "layers": layer_sqnr_db(exact, quantized, inputs),
    }
