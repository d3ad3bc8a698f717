"""Plans of diffusers' schedulers: the coefficients of their steps, found by giving them basis vectors.

A scheduler that is linear in latents, predictions and the noise that it draws is a plan, whatever it computes in its
steps. Multistep schedulers remember data predictions, which contain earlier latents; written in the model's own
predictions their memory reaches back to step 0.
"""

import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.plans import LISTS, Plan, Row
from edge_hadanorm.pipelines.sampling import sample

# Share of a row's largest coefficient. The tail of a multistep memory below it is far under float32 rounding.
NEGLIGIBLE = 1e-9
# Relative error of the replay. Schedulers round to float32, some with cancellation; a nonlinear one is off by more.
TOLERANCE = 1e-3
CLIPPING = ("thresholding", "clip_sample")
# What pipelines give to set_timesteps for a number of steps besides that number, and timesteps that they leave out.
GIVEN: dict[str, Callable[[int], dict[str, Any]]] = {
    "SCMScheduler": lambda steps: {} if steps == 2 else {"intermediate_timesteps": None},
}
LEFT_OUT = {"SCMScheduler": slice(-1)}
# The function of diffusers that schedulers draw noise with.
DRAWS = "randn_tensor"


@dataclass(frozen=True)
class Begun:
    """A scheduler at the start of its steps. timesteps: at which a pipeline calls the model. noise_scale: of the first.

    row: which of all its timesteps it starts at; above 0 it starts with a known picture.
    """

    scheduler: Any
    timesteps: torch.Tensor
    row: int = 0

    @property
    def noise_scale(self) -> float:
        """Scale of the first noise."""
        if self.row:
            known = _known(self.scheduler, self.timesteps[0])
            return known[1] if known else 1.0
        return float(getattr(self.scheduler, "init_noise_sigma", 1.0))


def probe(scheduler: Any, steps: int, eta: float | None = None, row: int = 0, **schedule: Any) -> Plan:
    """Probe a stock diffusers scheduler for its plan; the scheduler is left as it was.

    row: where the plan begins, with a known picture where it is above 0. eta: what the pipeline gives to step where it
    takes one, a share of noise; None: nothing. `schedule` is what the pipeline gives to set_timesteps besides the
    number of steps (`mu`, `sigmas`). A scheduler that calls the model more than once a step (Heun, PNDM) yields a plan
    of as many rows as calls. A replay on random inputs has to give what the plan says. Raises UserError for a scheduler
    that is not linear, or that draws noise in another way than once a step by diffusers' own function.
    """
    name = type(scheduler).__name__
    if steps < 1:
        raise UserError(f"{name}: steps must be at least 1, got {steps}")
    accepted = inspect.signature(type(scheduler).__init__).parameters  # a config also keeps keys of other classes
    for flag in CLIPPING:
        if flag in accepted and getattr(scheduler.config, flag):
            raise UserError(f"{name} is not linear in latents and predictions: its config sets {flag}")
    with _undisturbed():
        try:
            plan = _plan(begin(scheduler, steps, row, **schedule), eta)
            draws = 10 * torch.randn(2, 1 + plan.steps, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
            first, second = (
                replay(begin(scheduler, steps, row, **schedule), draws[0], draws[1], eta) for _ in range(2)
            )
            expected = replay_plan(plan, *draws)
        except Exception as error:  # a scheduler may fail in any way on a setting or a shape that it does not know
            raise UserError(f"{name} has no plan: {' '.join(str(error).split())}") from error
    if not torch.equal(first, second):
        raise UserError(f"{name} is not deterministic: it draws noise in a way of its own")
    if not ((first - expected).abs().amax(1) <= TOLERANCE * expected.abs().amax(1)).all():
        raise UserError(f"{name} is not linear in latents and predictions: its steps do not follow a plan")
    return plan


def with_starts(plan: Plan, scheduler: Any, steps: int, eta: float | None = None, **schedule: Any) -> Plan:
    """Add the plans that begin with a known picture at a row, where they are others than the plan's rest from there on.

    plan: of `probe`, which has seen that the scheduler is linear. One of several calls a step begins at the first of
    them.
    """
    starts, calls = {}, getattr(scheduler, "order", 1)
    with _undisturbed():
        for row in range(calls, plan.steps, calls):
            own, rest = _plan(begin(scheduler, steps, row, **schedule), eta), plan.rest(row)
            if own.rows[0].known is not None and (rest is None or not _alike(own, rest)):
                starts[row] = own
    return replace(plan, starts=starts)


def _alike(first: Plan, second: Plan) -> bool:
    """Whether two plans differ by rounding at most."""
    for one, other in zip(first.rows, second.rows, strict=True):
        for name in LISTS:
            here, there = getattr(one, name), getattr(other, name)
            if len(here) != len(there) or not np.allclose(here, there, rtol=1e-6, atol=1e-9):
                return False
        if not np.allclose(one.known or (), other.known or (), rtol=1e-6):
            return False
    return np.allclose([r.a for r in first.rows], [r.a for r in second.rows], rtol=1e-6)


def _plan(begun: Begun, eta: float | None) -> Plan:
    """Find the coefficients by one walk in float64: every latent, prediction and noise is a basis vector."""
    scheduler, timesteps = begun.scheduler, begun.timesteps
    steps, noise_scale = len(timesteps), begun.noise_scale
    basis = torch.eye(3 * steps, dtype=torch.float64)[..., None, None, None]  # each variable [batch 3 steps, 1, 1, 1]
    a: list[float] = []
    b: list[list[float]] = []
    c: list[list[float]] = []
    rows: list[Row] = []
    for k, timestep in enumerate(timesteps):
        known = _known(scheduler, timestep)
        input_scale = scaled(scheduler, basis[k], timestep)[k].item()
        with drawing(scheduler, [basis[2 * steps + k]]):
            made = _stepped(scheduler, basis[steps + k], timestep, basis[k], eta)
        latents, predictions, noise = made.flatten().unflatten(0, (3, steps))[:, : k + 1].tolist()
        # Earlier latents leave the row, the oldest first, by x_i = (x_(i+1) - sum_j b_ij p_(i-j) - c_ij n_(i-j)) / a_i.
        for i in range(k):
            if latents[i] != 0:
                ratio = latents[i] / a[i]
                latents[i + 1] += ratio
                for j in range(i + 1):
                    predictions[i - j] -= ratio * b[i][j]
                    noise[i - j] -= ratio * c[i][j]
        a.append(latents[k])
        b.append(predictions[::-1])
        c.append(noise[::-1])
        least = NEGLIGIBLE * max(map(abs, (*predictions, *noise)))
        rows.append(Row(float(timestep), input_scale, a[k], b=_cut(b[k], least), c=_cut(c[k], least), known=known))
    return Plan(tuple(rows), noise_scale)


def _cut(values: list[float], least: float) -> tuple[float, ...]:
    """Values without those at their end of this size or less."""
    return tuple(values[: max((j + 1 for j, value in enumerate(values) if abs(value) > least), default=0)])


def _known(scheduler: Any, timestep: torch.Tensor) -> tuple[float, float] | None:
    """Scales of a picture and of noise in latents of a timestep, by the scheduler's own way to mix them."""
    picture, noise = torch.eye(2, dtype=torch.float64)[..., None, None, None]
    try:
        if hasattr(scheduler, "scale_noise"):
            mixed = scheduler.scale_noise(picture, timestep[None], noise)
        else:
            mixed = scheduler.add_noise(picture, noise, timestep[None])
        scales = mixed.flatten().tolist()
    except Exception:  # it may have no such thing, or one that is not ready: then nothing starts from a picture
        return None
    return scales[0], scales[1]


def begin(scheduler: Any, steps: int, row: int = 0, **schedule: Any) -> Begun:
    """Copy a scheduler, and set the copy to the start of its steps, or to a later row of them."""
    copy = type(scheduler).from_config(scheduler.config)
    if hasattr(scheduler, "set_shift"):
        copy.set_shift(scheduler.shift)  # the one setting that a pipeline may have changed outside the config
    if "sigmas" in schedule:
        copy.set_timesteps(**schedule)
        if len(copy.timesteps) != steps:
            raise ValueError(f"the given sigmas are for {len(copy.timesteps)} steps, not {steps}")
    else:
        given = GIVEN.get(type(scheduler).__name__, lambda _: {})
        copy.set_timesteps(steps, **given(steps) | schedule)
    if hasattr(copy, "set_begin_index"):
        copy.set_begin_index(row)  # else a repeated first timestep is looked up at its second place
    timesteps = copy.timesteps[LEFT_OUT.get(type(scheduler).__name__, slice(None))]
    return Begun(copy, timesteps[row:], row)


def scaled(scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Scale latents as the model is given them."""
    return scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents


@contextmanager
def drawing(scheduler: Any, noises: Iterable[torch.Tensor]) -> Iterator[None]:
    """Let a scheduler draw these noises, one after the other, while inside."""
    left = iter(noises)

    def draw(shape: Any, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> torch.Tensor:
        noise = next(left, None)
        if noise is None:
            raise ValueError("it draws noise more than once a step")
        return noise.reshape(tuple(shape)).to(dtype or noise.dtype)

    modules = {cls.__module__ for cls in type(scheduler).__mro__}
    own = [sys.modules[name] for name in modules if hasattr(sys.modules[name], DRAWS)]
    before: list[Callable] = [getattr(module, DRAWS) for module in own]
    try:
        for module in own:
            setattr(module, DRAWS, draw)
        yield
    finally:
        for module, function in zip(own, before, strict=True):
            setattr(module, DRAWS, function)


def _stepped(scheduler: Any, prediction: torch.Tensor, timestep: Any, latents: torch.Tensor, eta: float | None) -> Any:
    taken = eta is not None and "eta" in inspect.signature(scheduler.step).parameters
    given = {"eta": eta} if taken else {}
    return scheduler.step(prediction, timestep, latents, **given, return_dict=False)[0]


def replay(begun: Begun, predictions: torch.Tensor, noise: torch.Tensor, eta: float | None = None) -> torch.Tensor:
    """Run a scheduler on the first noise, predictions and noise of every step, both [1 + steps, ...].

    The first of the predictions is not read. Returns model inputs and latents of every step [2 steps, n].
    """
    scheduler, latents, rows = begun.scheduler, begun.noise_scale * noise[0], []
    for timestep, prediction, fresh in zip(begun.timesteps, predictions[1:], noise[1:], strict=True):
        rows.append(scaled(scheduler, latents, timestep))
        with drawing(scheduler, [fresh]):
            latents = _stepped(scheduler, prediction, timestep, latents, eta)
        rows.append(latents)
    return torch.stack(rows).flatten(1)


def replay_plan(plan: Plan, predictions: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Run a plan on what `replay` takes, without guidance; returns what it returns."""
    latents = [plan.noise_scale * noise[0]]

    def predict(model_input: torch.Tensor, timestep: float, conditionings: Sequence[str]) -> list[torch.Tensor]:
        return [predictions[len(latents)]]

    sample(predict, plan, 1.0, noise.__getitem__, on_step=lambda k, x: latents.append(x))
    inputs = [row.input_scale * x for row, x in zip(plan.rows, latents, strict=False)]
    return torch.stack([x for pair in zip(inputs, latents[1:], strict=True) for x in pair]).flatten(1)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep gradients, warnings and diffusers' log lines off inside, and torch's random state as it was."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
