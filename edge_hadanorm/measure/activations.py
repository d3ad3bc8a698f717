"""Distributions of the inputs of a denoiser's linears: in the float model, and as they are quantized."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from edge_hadanorm.measure.sizes import quantized_linear
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import Denoiser, kind
from edge_hadanorm.quantization.calibration import Moments, calibrate, observe_inputs

# Values of one input that are kept: enough for percentiles by channel, whatever the number of calls.
VALUES = 4_000_000
PERCENTILES = (0, 1, 99, 100)
BINS = 120


@dataclass(frozen=True)
class Distribution:
    """A distribution of tokens [T, d], in units of the root mean square of all values.

    percentiles [4, d]: of each channel, see PERCENTILES. peak: largest magnitude. kurtosis: 3 for a normal
    distribution. channel_ratio: largest magnitude of a channel over that of the median channel.
    edges [BINS + 1], density [BINS]: histogram of all values.
    """

    percentiles: np.ndarray
    peak: float
    kurtosis: float
    channel_ratio: float
    edges: np.ndarray
    density: np.ndarray


@dataclass(frozen=True)
class Activation:
    """The input x of the linear `name`, and z, which is quantized and made of x by `steps`; over so many tokens."""

    name: str
    steps: list[str]
    tokens: int
    x: Distribution
    z: Distribution


def outstanding(moments: dict[str, Moments], count: int) -> list[str]:
    """Choose the inputs whose largest channel stands out most from the median one, one of a kind, the worst first."""
    worst: dict[str, tuple[float, str]] = {}
    for name, seen in moments.items():
        ratio = _channel_ratio(seen.largest)
        worst[kind(name)[0]] = max(worst.get(kind(name)[0], (0.0, name)), (ratio, name))
    return [name for _, name in sorted(worst.values(), reverse=True)[:count]]


def measure(denoiser: Denoiser, quantized: Denoiser, inputs: list[Inputs], count: int) -> list[Activation]:
    """Measure the inputs of a float denoiser that stand out most, before and after a quantized one's transforms."""
    names = outstanding(calibrate(denoiser, [partial(call.run, denoiser) for call in inputs]), count)
    linears = {name: quantized_linear(quantized, name) for name in names}
    measured = []
    for name, (x, z) in _collect(denoiser, linears, inputs).items():
        steps = linears[name].absorbed.steps() + linears[name].transform.steps()
        measured.append(Activation(name, steps, len(x), distribution(x), distribution(z)))
    return measured


def distribution(tokens: torch.Tensor) -> Distribution:
    """Measure the distribution of tokens [T, d]."""
    values = tokens.double()
    values = values / (values.square().mean().sqrt().item() or 1.0)
    deviation = values - values.mean()
    variance = deviation.square().mean().item()
    peak = values.abs().max().item()
    density, edges = np.histogram(values.numpy(), BINS, (-peak or -1.0, peak or 1.0), density=True)
    return Distribution(
        percentiles=np.percentile(values.numpy(), PERCENTILES, axis=0),
        peak=peak,
        kurtosis=deviation.pow(4).mean().item() / variance**2 if variance else math.nan,
        channel_ratio=_channel_ratio(values.abs().amax(0)),
        edges=edges,
        density=density,
    )


def _channel_ratio(largest: torch.Tensor) -> float:
    """Divide the largest of magnitudes [d] by the median one; infinite where most channels are always 0."""
    median = largest.median().item()
    return largest.max().item() / median if median else math.inf


def _collect(
    denoiser: Denoiser, linears: dict[str, QuantizedLinear], inputs: list[Inputs]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Collect every n-th token [T, d] of each input over the calls, raw and as its quantized linear transforms it."""
    kept: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {name: ([], []) for name in linears}

    def observe(name: str, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        z, _ = linears[name].transform(linears[name].absorbed(x)[0], weights)
        stride = math.ceil(len(inputs) * x.numel() / VALUES)
        seen = slice(None) if weights is None else weights > 0
        for part, tensor in zip(kept[name], (x, z), strict=True):
            part.append(tensor[seen].reshape(-1, tensor.shape[-1])[::stride].clone())

    with observe_inputs(denoiser, linears, observe):
        for call in inputs:
            call.run(denoiser)
    return {name: (torch.cat(raw), torch.cat(transformed)) for name, (raw, transformed) in kept.items()}
