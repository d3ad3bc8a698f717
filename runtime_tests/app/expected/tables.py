"""The loop of sampling.py over tables of several schedulers, with random predictions."""

from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from edge_hadanorm.pipelines.sampling import probe, sample
from runtime_tests.app.expected.files import numbers, write

FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.5)
SCHEDULERS = {
    "ddim": DDIMScheduler(clip_sample=False),
    "ddim-v": DDIMScheduler(clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing"),
    "dpm": DPMSolverMultistepScheduler(),
    "dpm-flow": DPMSolverMultistepScheduler(**FLOW),
    "dpm-third": DPMSolverMultistepScheduler(solver_order=3, use_karras_sigmas=True),
    "euler": EulerDiscreteScheduler(),
    "flow-euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "heun": HeunDiscreteScheduler(),
    "unipc": UniPCMultistepScheduler(),
}
STEPS = (1, 2, 8, 20)
GUIDANCES = (1, 0, 1.5, 4.1, 100)
COUNT = 37


def make(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for name, scheduler in SCHEDULERS.items():
        for i, steps in enumerate(STEPS):
            guidance = GUIDANCES[(len(cases) + i) % len(GUIDANCES)]
            cases.append(_case(folder, f"{name}-{steps}", probe(scheduler, steps), guidance, generator))
    write(folder / "cases.json", cases)


def _case(folder: Path, name: str, table, guidance: float, generator: torch.Generator) -> dict:
    noise = torch.randn(1, COUNT, generator=generator)
    predictions = torch.randn(table.steps, 2, COUNT, generator=generator)
    seen, stepped = [], []

    def predict(latents: torch.Tensor, timestep: float) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((latents[0], torch.tensor(timestep, dtype=torch.float32)))
        return tuple(predictions[len(seen) - 1, row, None] for row in (0, 1))

    sample(predict, table, noise, guidance, lambda k, latents: stepped.append(latents[0]))
    files = {
        "noise": noise,
        "predictions": predictions,
        "inputs": torch.stack([latents for latents, _ in seen]),
        "timesteps": torch.stack([timestep for _, timestep in seen]),
        "latents": torch.stack(stepped),
    }
    return {
        "name": name,
        "guidance": guidance,
        "table": table.to_json(),
        **{key: numbers(folder / f"{name}.{key}", tensor) for key, tensor in files.items()},
    }
