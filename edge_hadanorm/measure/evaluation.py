"""A quantized denoiser against the float one: SQNR of predictions and layers, PSNR, SSIM and captions of pictures."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from edge_hadanorm.measure.metrics import Sqnr, psnr_db, ssim
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method.cost import denoiser_cost
from edge_hadanorm.method.fold import refold
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.drawing import TorchRunner
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization.calibration import observed
from edge_hadanorm.reference.captions import caption_retrieval

# Layers are compared on so many tokens at most, of calls evenly spaced, whose states between blocks lie in memory.
LAYER_TOKENS = 1 << 17


@dataclass(frozen=True)
class Original:
    """What the float denoiser makes of that on which quantized ones are measured.

    predictions: of `inputs`, one each. pictures uint8 [N, C, H, W]: of the trajectories' prompts; None without them.
    """

    inputs: list[Inputs]
    predictions: list[torch.Tensor]
    trajectories: Trajectories | None = None
    pictures: torch.Tensor | None = None

    @classmethod
    def of(cls, denoiser: nn.Module, inputs: list[Inputs], trajectories: Trajectories | None = None) -> "Original":
        drawn = trajectories and pictures(denoiser, trajectories)
        return cls(inputs, [call.run(denoiser) for call in inputs], trajectories, drawn)


def timestep_sqnr(original: Original, quantized: nn.Module) -> dict[float, Sqnr]:
    """SQNR of the prediction over calls with the same inputs, for each timestep, in sampling order: from noise on."""
    steps: dict[float, Sqnr] = {}
    for call, prediction in zip(original.inputs, original.predictions, strict=True):
        steps.setdefault(call.timestep.item(), Sqnr()).update(prediction, call.run(quantized))
    return dict(sorted(steps.items(), reverse=True))


def denoiser_sqnr_db(original: Original, quantized: nn.Module) -> float:
    """SQNR of the prediction over calls with the same inputs."""
    return Sqnr.of_all(timestep_sqnr(original, quantized).values()).db


class Layers:
    """SQNR of the output of each quantized linear alone, given the float model's input, one stage after the other.

    No block of the float denoiser is needed any more when its stage has been compared.
    """

    @torch.no_grad()
    def __init__(self, exact: Denoiser, inputs: list[Inputs]):
        tokens = [exact.begin(call.latents, call.timestep, **call.prompt)[0] for call in inputs[:1]]
        spacing = max(1, -(-len(inputs) * sum(math.prod(t.shape[:2]) for t in tokens) // LAYER_TOKENS))
        self.states = [exact.begin(call.latents, call.timestep, **call.prompt) for call in inputs[::spacing]]
        self.sqnr: dict[str, Sqnr] = {}

    @torch.no_grad()
    def compare(self, stage: int, exact: Denoiser, quantized: nn.Module) -> None:
        """Run the next stage of the float denoiser."""
        names = exact.stages()[stage]
        folded = refold(exact, quantized, names)
        self.sqnr |= {name: Sqnr() for name in names}

        def compare(name: str, x: torch.Tensor, *weights: torch.Tensor | None) -> None:
            kept = weights[0] > 0 if weights and weights[0] is not None else slice(None)
            y = folded.get_submodule(name).forward(x)  # not a call, which would be observed again
            self.sqnr[name].update(y[kept], quantized.get_submodule(name)(x, *weights)[kept])

        with observed(folded, names, compare):
            self.states = [folded.advance(stage, state) for state in self.states]

    def db(self) -> dict[str, float]:
        """By name, of what has been compared."""
        return {name: sqnr.db for name, sqnr in self.sqnr.items()} if self.states else {}


def layer_sqnr_db(exact: Denoiser, quantized: nn.Module, inputs: list[Inputs]) -> dict[str, float]:
    """The same of all stages; nothing without inputs."""
    layers = Layers(exact, inputs)
    for stage in range(len(exact.stages()) if inputs else 0):
        layers.compare(stage, exact, quantized)
    return layers.db()


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


def measure(
    original: Original, quantized: nn.Module, drawn: torch.Tensor | None, layers: dict[str, float], recipe_name: str
) -> dict:
    """Everything `evaluate --json` writes, in decibels but for SSIM and shares.

    drawn: the quantized denoiser's pictures. What there is nothing to measure on is None, or empty where it is an
    object: all but bits and the estimated cost without inputs, what is of pictures without trajectories.
    """
    steps = timestep_sqnr(original, quantized)
    pairs = None if drawn is None else (original.pictures, drawn)
    return {
        "recipe": recipe_name,
        "denoiser_sqnr_db": Sqnr.of_all(steps.values()).db if steps else None,
        "timesteps": {str(timestep): sqnr.db for timestep, sqnr in steps.items()},
        "image_psnr_db": pairs and mean_psnr_db(*pairs),
        "image_ssim": pairs and mean_ssim(*pairs),
        "caption_retrieval": pairs and caption_retrieval(original.trajectories.prompts, *pairs),
        "bits": bits_summary(quantized),
        "online_cost": denoiser_cost(quantized),
        "layers": layers,
    }


def evaluate(
    exact: Denoiser, quantized: nn.Module, inputs: list[Inputs], trajectories: Trajectories | None, recipe_name: str
) -> dict:
    """The same of two denoisers, with the pictures drawn; trajectories is None without a pipeline."""
    original = Original.of(exact, inputs, trajectories)
    drawn = trajectories and pictures(quantized, trajectories)
    return measure(original, quantized, drawn, layer_sqnr_db(exact, quantized, inputs), recipe_name)
