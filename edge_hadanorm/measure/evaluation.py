"""A quantized denoiser against the float one: SQNR of predictions and layers, PSNR and SSIM of pictures."""

from dataclasses import dataclass

import torch

from edge_hadanorm.measure.metrics import Sqnr, psnr_db, ssim
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method.cost import denoiser_cost
from edge_hadanorm.method.fold import refold
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.drawing import TorchRunner
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization.calibration import observe_inputs

# Layers are compared on so many tokens at most, of calls evenly spaced, whose states between blocks lie in memory.
LAYER_TOKENS = 1 << 17


@dataclass(frozen=True)
class Original:
    """Calls that quantized denoisers are measured on, and what the float one makes of them.

    predictions: one for each of `inputs`. pictures uint8 [N, C, H, W]: of the trajectories' prompts; None without them.
    """

    inputs: list[Inputs]
    predictions: list[torch.Tensor]
    trajectories: Trajectories | None = None
    pictures: torch.Tensor | None = None

    @classmethod
    def of(cls, denoiser: Denoiser, inputs: list[Inputs], trajectories: Trajectories | None = None) -> "Original":
        """Run the float denoiser on the calls, and draw the trajectories' pictures where there are any."""
        drawn = None if trajectories is None else pictures(denoiser, trajectories)
        return cls(inputs, [call.run(denoiser) for call in inputs], trajectories, drawn)


def timestep_sqnr(original: Original, quantized: Denoiser) -> dict[float, Sqnr]:
    """Compare predictions for the same inputs: SQNR by timestep, in sampling order, from noise on."""
    steps: dict[float, Sqnr] = {}
    for call, prediction in zip(original.inputs, original.predictions, strict=True):
        steps.setdefault(call.timestep.item(), Sqnr()).update(prediction, call.run(quantized))
    return dict(sorted(steps.items(), reverse=True))


def denoiser_sqnr_db(original: Original, quantized: Denoiser) -> float:
    """Compare predictions for the same inputs: SQNR in dB over all calls."""
    return Sqnr.of_all(timestep_sqnr(original, quantized).values()).db


class Layers:
    """SQNR of the output of each quantized linear alone, given the float model's input, one stage after the other.

    No block of the float denoiser is needed any more when its stage has been compared.
    """

    @torch.no_grad()
    def __init__(self, exact: Denoiser, inputs: list[Inputs]):
        first = [exact.begin(call.latents, call.timestep, **call.prompt) for call in inputs[:1]]
        tokens = sum(x.shape[0] * x.shape[1] for x, *_ in first if x is not None)
        spacing = max(1, -(-len(inputs) * tokens // LAYER_TOKENS))
        self.states = [exact.begin(call.latents, call.timestep, **call.prompt) for call in inputs[::spacing]]
        self.sqnr: dict[str, Sqnr] = {}

    @torch.no_grad()
    def compare(self, stage: int, exact: Denoiser, quantized: Denoiser) -> None:
        """Compare the linears of the next stage, and run that stage of the float denoiser."""
        names = exact.stages()[stage]
        folded = refold(exact, quantized, names)
        self.sqnr |= {name: Sqnr() for name in names}

        def compare(name: str, x: torch.Tensor, *weights: torch.Tensor | None) -> None:
            kept = weights[0] > 0 if weights and weights[0] is not None else slice(None)
            y = folded.get_submodule(name).forward(x)  # not a call, which would be observed again
            self.sqnr[name].update(y[kept], quantized.get_submodule(name)(x, *weights)[kept])

        with observe_inputs(folded, names, compare):
            self.states = [folded.advance(stage, state) for state in self.states]

    def db(self) -> dict[str, float]:
        """SQNR in dB by name of the linears that have been compared; empty without inputs."""
        return {name: sqnr.db for name, sqnr in self.sqnr.items()} if self.states else {}


def layer_sqnr_db(exact: Denoiser, quantized: Denoiser, inputs: list[Inputs]) -> dict[str, float]:
    """Compare all quantized linears, see `Layers`: SQNR in dB by name; empty without inputs."""
    layers = Layers(exact, inputs)
    for stage in range(len(exact.stages()) if inputs else 0):
        layers.compare(stage, exact, quantized)
    return layers.db()


def pictures(denoiser: Denoiser, trajectories: Trajectories) -> torch.Tensor:
    """Draw pictures uint8 [N, C, H, W], one a prompt."""
    return to_pixels(
        torch.stack([draw() for draw in trajectories.pictures(TorchRunner(denoiser, trajectories.pipeline))])
    )


def mean_psnr_db(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean PSNR in dB over pictures uint8 [N, ...]."""
    return sum(psnr_db(x, y) for x, y in zip(a, b, strict=True)) / len(a)


def mean_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean SSIM over pictures uint8 [N, C, H, W]."""
    return sum(ssim(x, y) for x, y in zip(a, b, strict=True)) / len(a)


def measure(
    original: Original, quantized: Denoiser, drawn: torch.Tensor | None, layers: dict[str, float], recipe_name: str
) -> dict:
    """Collect the metrics of a quantized denoiser, as metrics.json has them, in decibels but for SSIM and shares.

    drawn: the quantized denoiser's pictures. Without inputs all but bits and the estimated cost is None, or an empty
    object; without pictures what is measured on them is None.
    """
    steps = timestep_sqnr(original, quantized)
    pairs = None if drawn is None or original.pictures is None else (original.pictures, drawn)
    return {
        "recipe": recipe_name,
        "denoiser_sqnr_db": Sqnr.of_all(steps.values()).db if steps else None,
        "timesteps": {str(timestep): sqnr.db for timestep, sqnr in steps.items()},
        "image_psnr_db": None if pairs is None else mean_psnr_db(*pairs),
        "image_ssim": None if pairs is None else mean_ssim(*pairs),
        "bits": bits_summary(quantized),
        "online_cost": denoiser_cost(quantized),
        "layers": layers,
    }


def evaluate(
    exact: Denoiser, quantized: Denoiser, inputs: list[Inputs], trajectories: Trajectories | None, recipe_name: str
) -> dict:
    """Run and draw with two denoisers, and `measure` one against the other; trajectories: None without a pipeline."""
    original = Original.of(exact, inputs, trajectories)
    drawn = None if trajectories is None else pictures(quantized, trajectories)
    return measure(original, quantized, drawn, layer_sqnr_db(exact, quantized, inputs), recipe_name)
