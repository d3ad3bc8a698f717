"""The loop that makes latents by a plan: what a device runs, and no scheduler code.

Coefficients are float32. Each product and each sum is rounded by itself in the order written in `sample`, never fused,
so equal predictions give equal bits on every device.
"""

from collections.abc import Callable, Sequence

import torch

from edge_hadanorm.pipelines.plans import NEGATIVE, TEXT, Plan

# (latents float32 [B, ...], timestep, which of "text" and "negative") -> predictions [B, ...], one of each
Predict = Callable[[torch.Tensor, float, Sequence[str]], Sequence[torch.Tensor]]
# Standard normal noise float32 [B, ...] by number: 0 is the first, k + 1 is fresh in step k.
Noise = Callable[[int], torch.Tensor]
OnStep = Callable[[int, torch.Tensor], None]


def sample(predict: Predict, plan: Plan, guidance: float, noise: Noise, on_step: OnStep | None = None) -> torch.Tensor:
    """Sample latents float32 [B, ...] by a plan at a guidance.

    on_step(k, latents) is called after each step. Raises UserError for a guidance that the plan cannot have.
    """
    steps = plan.at(guidance)
    predictions: dict[str, dict[int, torch.Tensor]] = {TEXT: {}, NEGATIVE: {}}
    reach = {TEXT: max(len(step.text) for step in steps), NEGATIVE: max(len(step.negative) for step in steps)}
    with torch.no_grad():
        latents = plan.noise_scale * noise(0)
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
            if on_step is not None:
                on_step(k, latents)
    return latents
