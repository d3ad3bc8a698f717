"""The loop that makes latents by a plan: what a device runs, and no scheduler code.

Coefficients are float32. Each product and each sum is rounded by itself in the order written in `sample`, never fused,
so equal predictions give equal bits on every device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.plans import NEGATIVE, TEXT, Plan

# (latents float32 [B, ...], timestep, which of "text" and "negative") -> predictions [B, ...], one of each
Predict = Callable[[torch.Tensor, float, Sequence[str]], Sequence[torch.Tensor]]
# Standard normal noise float32 [B, ...] by number: 0 is the first, k + 1 is fresh in step k.
Noise = Callable[[int], torch.Tensor]
OnStep = Callable[[int, torch.Tensor], None]


@dataclass(frozen=True)
class Known:
    """Latents [B, ...] of a picture to begin with. mask: 1 where it is drawn anew, 0 where it is kept; None: anew."""

    latents: torch.Tensor
    mask: torch.Tensor | None = None


def sample(
    predict: Predict,
    plan: Plan,
    guidance: float,
    noise: Noise,
    on_step: OnStep | None = None,
    known: Known | None = None,
) -> torch.Tensor:
    """Sample latents float32 [B, ...] by a plan at a guidance, from noise alone or from a known picture under it.

    on_step(k, latents) is called after each step. Raises UserError for a guidance that the plan cannot have, and for a
    picture where the plan does not say how noisy its latents are.
    """
    steps = plan.at(guidance)
    scales = [row.known for row in plan.rows]
    if known is not None and None in (scales if known.mask is not None else scales[:1]):
        raise UserError("the plan does not say how noisy its latents are: no picture can begin it")
    scales.append((1.0, 0.0))
    first = noise(0)
    predictions: dict[str, dict[int, torch.Tensor]] = {TEXT: {}, NEGATIVE: {}}
    reach = {TEXT: max(len(step.text) for step in steps), NEGATIVE: max(len(step.negative) for step in steps)}
    with torch.no_grad():
        latents = plan.noise_scale * first if known is None else _noised(known.latents, scales[0], first)
        for k, step in enumerate(steps):
            given = step.input_scale * latents
            found = predict(given, step.timestep, step.predicted) if step.predicted else ()
            for conditioning, prediction in zip(step.predicted, found, strict=True):
                made = torch.as_tensor(prediction, dtype=torch.float32)
                if made.shape != latents.shape:
                    raise ValueError(f"prediction of shape {tuple(made.shape)} for latents {tuple(latents.shape)}")
                predictions[conditioning][k] = made
            latents = step.a * latents
            for conditioning, coefficients in ((TEXT, step.text), (NEGATIVE, step.negative)):
                for j, coefficient in enumerate(coefficients):
                    if coefficient != 0:
                        latents = latents + coefficient * predictions[conditioning][k - j]
                predictions[conditioning].pop(k + 1 - reach[conditioning], None)
            for j, coefficient in enumerate(step.noise):
                if coefficient != 0:
                    latents = latents + coefficient * noise(k + 1 - j)
            if known is not None and known.mask is not None:
                kept = _noised(known.latents, scales[k + 1], first)
                latents = (1 - known.mask) * kept + known.mask * latents
            if on_step is not None:
                on_step(k, latents)
    return latents


def _noised(latents: torch.Tensor, scales: tuple[float, float] | None, noise: torch.Tensor) -> torch.Tensor:
    """A picture's latents under noise, at these scales of both."""
    assert scales is not None
    return scales[0] * latents + scales[1] * noise
