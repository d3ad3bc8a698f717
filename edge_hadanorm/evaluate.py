"""A quantized denoiser against the float one: SQNR of predictions and layers, PSNR, SSIM and captions of pictures."""

from dataclasses import dataclass

import torch
from torch import nn

from edge_hadanorm.calibration import observed
from edge_hadanorm.cost import denoiser_cost
from edge_hadanorm.fold import refold
from edge_hadanorm.metrics import Sqnr, bits_summary, psnr_db, ssim, to_pixels
from edge_hadanorm.reference import data
from edge_hadanorm.runtime import TorchRunner
from edge_hadanorm.samples import Inputs, Trajectories


@dataclass(frozen=True)
class Drawn:
    """Pictures uint8 [N, C, H, W] of N prompts, by the float and by a quantized denoiser from the same noise."""

    prompts: list[str]
    exact: torch.Tensor
    quantized: torch.Tensor


def timestep_sqnr(exact: nn.Module, quantized: nn.Module, inputs: list[Inputs]) -> dict[float, Sqnr]:
    """SQNR of the prediction over calls with the same inputs, for each timestep, in sampling order: from noise on."""
    steps: dict[float, Sqnr] = {}
    for call in inputs:
        steps.setdefault(call.timestep.item(), Sqnr()).update(call.run(exact), call.run(quantized))
    return dict(sorted(steps.items(), reverse=True))


def denoiser_sqnr_db(exact: nn.Module, quantized: nn.Module, inputs: list[Inputs]) -> float:
    """SQNR of the prediction over calls with the same inputs."""
    return Sqnr.of_all(timestep_sqnr(exact, quantized, inputs).values()).db


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
    return to_pixels(
        torch.stack([draw() for draw in trajectories.pictures(TorchRunner(denoiser, trajectories.pipeline))])
    )


def mean_psnr_db(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over pictures [N, ...]."""
    return sum(psnr_db(x, y) for x, y in zip(a, b, strict=True)) / len(a)


def mean_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over pictures uint8 [N, C, H, W]."""
    return sum(ssim(x, y) for x, y in zip(a, b, strict=True)) / len(a)


def caption_retrieval(drawn: Drawn) -> dict[str, float] | None:
    """Share of the pictures that are nearest to what their prompt is the caption of, float and quantized.

    None for a model that draws something else than the vendored pictures.
    """
    known, captions = data.load()
    if drawn.exact.shape[1:] != known.shape[1:] or not set(drawn.prompts) <= set(captions):
        return None
    return {
        "float": data.retrieval(drawn.exact, drawn.prompts),
        "quantized": data.retrieval(drawn.quantized, drawn.prompts),
    }


def measure(
    exact: nn.Module, quantized: nn.Module, inputs: list[Inputs], drawn: Drawn | None, recipe_name: str
) -> dict:
    """Everything `evaluate --json` writes, in decibels but for SSIM and shares.

    What there is nothing to measure on is None, or empty where it is an object: all but bits and the estimated cost
    without `inputs`, what is of pictures without `drawn`.
    """
    steps = timestep_sqnr(exact, quantized, inputs)
    return {
        "recipe": recipe_name,
        "denoiser_sqnr_db": Sqnr.of_all(steps.values()).db if steps else None,
        "timesteps": {str(timestep): sqnr.db for timestep, sqnr in steps.items()},
        "image_psnr_db": drawn and mean_psnr_db(drawn.exact, drawn.quantized),
        "image_ssim": drawn and mean_ssim(drawn.exact, drawn.quantized),
        "caption_retrieval": drawn and caption_retrieval(drawn),
        "bits": bits_summary(quantized),
        "online_cost": denoiser_cost(quantized),
        "layers": layer_sqnr_db(exact, quantized, inputs) if inputs else {},
    }


def evaluate(
    exact: nn.Module, quantized: nn.Module, inputs: list[Inputs], trajectories: Trajectories | None, recipe_name: str
) -> dict:
    """The same, with the pictures drawn; trajectories is None without a pipeline."""
    drawn = trajectories and Drawn(
        trajectories.prompts, pictures(exact, trajectories), pictures(quantized, trajectories)
    )
    return measure(exact, quantized, inputs, drawn, recipe_name)
