"""Plans of several schedulers and of other makers: their coefficients at a guidance, and the loop of sampling.py."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.plans import Plan, Row
from edge_hadanorm.pipelines.probing import probe, with_starts
from edge_hadanorm.pipelines.sampling import Known, sample
from runtime_tests.app.expected.files import numbers, write

FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.5)
SCHEDULERS = {
    "ddim": DDIMScheduler(clip_sample=False),
    "ddim-v": DDIMScheduler(clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing"),
    "dpm": DPMSolverMultistepScheduler(),
    "dpm-flow": DPMSolverMultistepScheduler(**FLOW),
    "dpm-third": DPMSolverMultistepScheduler(solver_order=3, use_karras_sigmas=True),
    "dpm-noise": DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    "euler": EulerDiscreteScheduler(),
    "euler-ancestral": EulerAncestralDiscreteScheduler(),
    "flow-euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "heun": HeunDiscreteScheduler(),
    "lcm": LCMScheduler(clip_sample=False),
    "unipc": UniPCMultistepScheduler(),
}
STEPS = (1, 2, 8, 20)
# Of the loop; and of the coefficients, at which guidance a plan takes a negative prompt.
GUIDANCES = (1, 0, 1.5, 4.1, 100)
REFUSED = (-0.5, 100.5, 1e300)
OWN = 3.3
# Of pictures that begin with a known one; and of the loop.
STRENGTHS = (1.0, 0.6, 0.5, 0.25, 0.3, 0.05, 1e-9, 0.0, -0.5, 1.01)
BEGUN = (1.0, 0.6)
SEEDS = (0, 7, 2**63 - 1)
COUNT = 37


def make(folder: Path) -> None:
    plans = {f"{name}-{steps}": probe(scheduler, steps) for name, scheduler in SCHEDULERS.items() for steps in STEPS}
    plans |= {
        "some-guided": plans["dpm-8"].guided_between(0.25, 0.75),
        "never-guided": plans["euler-ancestral-8"].guided_between(0, 0),
        "own": own(),
        "own-guidance": replace(own(), guidance=OWN),
        "negative-alone": Plan((Row(5, 1, 0.5, b_negative=(0.25,)), Row(4, 2, 1, b_text=(0.0, 1.0))), 1.0),
        "no-predictions": Plan((Row(5, 1, 0.5, c=(0.25,)), Row(4, 1, 1)), 3),
    }
    plans |= {
        f"{name}-starts": with_starts(probe(scheduler, 8), scheduler, 8) for name, scheduler in SCHEDULERS.items()
    }
    generator = torch.Generator().manual_seed(0)
    cases = [_case(folder, i, *each, None, generator) for i, each in enumerate(plans.items())]
    for name in SCHEDULERS:
        for strength, masked in itertools.product(BEGUN, (False, True)):
            plan = plans[f"{name}-starts"].begun(strength)
            title = f"{name}-begun-{strength}{'-masked' if masked else ''}"
            cases.append(_case(folder, len(cases), title, plan, _known(masked, generator), generator))
    write(folder / "cases.json", cases)


def own() -> Plan:
    """A plan with all that a plan may have: predictions and noise of long before, some of each never taken."""
    rows = (
        Row(999.5, 0.7, 1.1, b=(0.1,), b_text=(0.3,), c=(0.0,), known=(0.1, 0.9)),
        Row(700, 1, 0.0, b=(0.0, 0.2), b_negative=(1e-3,), c=(0.25, -0.125)),
        Row(300.25, 1.3, -0.4, b_text=(0.0, 1.0), b_negative=(0.0, 0.0, 0.5), c=(0.0, 0.0, 1.5)),
        Row(1e-3, 1e20, 1e-20, b=(1e-30, 0.1, 0.0, 0.3), b_text=(-1e-30, -0.33), b_negative=(0.0, 0.23)),
        Row(0, 0.1, 1.7, c=(0.1, 0.2, 0.3, 0.4, 0.5)),
    )
    return Plan(rows, 1.7)


def _known(masked: bool, generator: torch.Generator) -> Known:
    latents = torch.randn(1, COUNT, generator=generator)
    return Known(latents, torch.randint(2, (COUNT,), generator=generator).float() if masked else None)


def _case(folder: Path, index: int, name: str, plan: Plan, known: Known | None, generator: torch.Generator) -> dict:
    possible = GUIDANCES if plan.guidance is None else (plan.guidance,)
    refused = [guidance for guidance in (*REFUSED, *GUIDANCES) if guidance not in possible]
    for guidance in refused:
        _refuse(plan, guidance)
    return {
        "name": name,
        "plan": plan.to_json(),
        "coefficients": [{"guidance": guidance, "steps": _coefficients(plan, guidance)} for guidance in possible],
        "refused": refused,
        "begun": [_begun(plan, strength, possible[-1]) for strength in STRENGTHS],
        **_loop(folder, name, plan, possible[index % len(possible)], SEEDS[index % len(SEEDS)], known, generator),
    }


def _begun(plan: Plan, strength: float, guidance: float) -> dict:
    """The plan that a picture begins with at a strength, at a guidance, or why none does."""
    try:
        begun = plan.begun(strength)
    except UserError as error:
        return {"strength": strength, "refusal": str(error)}
    scale = _bits((begun.noise_scale,))
    return {"strength": strength, "guidance": guidance, "noise_scale": scale, "steps": _coefficients(begun, guidance)}


def _refuse(plan: Plan, guidance: float) -> None:
    try:
        plan.at(guidance)
    except UserError:
        return
    raise AssertionError(f"guidance {guidance} is not refused")


def _coefficients(plan: Plan, guidance: float) -> list[dict]:
    return [
        {
            "numbers": _bits((step.timestep, step.input_scale, step.a)),
            "text": _bits(step.text),
            "negative": _bits(step.negative),
            "noise": _bits(step.noise),
            "known": _bits(row.known or ()),
            "predicted": list(step.predicted),
        }
        for row, step in zip(plan.rows, plan.at(guidance), strict=True)
    ]


def _bits(values: tuple[float, ...]) -> list[int]:
    """The float32 numbers as the integers of the same 32 bits."""
    return np.array(values, np.float32).view(np.uint32).tolist()


def _loop(
    folder: Path,
    name: str,
    plan: Plan,
    guidance: float,
    seed: int,
    known: Known | None,
    generator: torch.Generator,
) -> dict:
    predictions = torch.randn(max(1, plan.evaluations(guidance)), COUNT, generator=generator)
    seen, asked, streams, stepped = [], [], [], []

    def predict(latents: torch.Tensor, timestep: float, conditionings: Sequence[str]) -> list[torch.Tensor]:
        made = []
        for conditioning in conditionings:
            seen.append((latents[0], torch.tensor(timestep, dtype=torch.float32)))
            asked.append(conditioning)
            made.append(predictions[len(seen) - 1, None])
        return made

    def noise(stream: int) -> torch.Tensor:
        streams.append(stream)
        return torch.from_numpy(normal(seed, (1, COUNT), stream))

    sample(predict, plan, guidance, noise, lambda k, latents: stepped.append(latents[0]), known)
    files = {
        "predictions": predictions,
        "inputs": torch.stack([latents for latents, _ in seen] or [torch.zeros(0)]),
        "timesteps": torch.stack([timestep for _, timestep in seen] or [torch.zeros(())]),
        "latents": torch.stack(stepped),
        **({} if known is None else {"known": known.latents}),
        **({} if known is None or known.mask is None else {"mask": known.mask}),
    }
    return {
        "guidance": guidance,
        "seed": seed,
        "count": COUNT,
        "asked": asked,
        "streams": streams,
        **{key: numbers(folder / f"{name}.{key}", tensor) for key, tensor in files.items()},
    }
