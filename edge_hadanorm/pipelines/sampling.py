"""Sampler tables: any deterministic linear scheduler of diffusers as coefficients of a loop of multiply-adds.

With x the latents and p_k the guided prediction of step k, which the model makes of input_scale_k * x_k at timestep_k:

    x_0 = noise_scale * noise        x_(k+1) = a_k * x_k + b_k0 * p_k + b_k1 * p_(k-1) + ...

Multistep schedulers remember data predictions, which contain earlier latents; written in the model's own outputs their
memory reaches back to step 0, so b_k may have up to k + 1 entries. A device runs the loop of `sample` and no scheduler
code: coefficients are rounded to float32, then each product and each sum, in the order written there, never fused. So
equal predictions give equal bits.
"""

import inspect
import logging
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch

from edge_hadanorm.errors import UserError

Predict = Callable[[torch.Tensor, float], tuple[torch.Tensor | None, torch.Tensor]]

LARGEST = float(np.finfo(np.float32).max)
# Share of a row's largest coefficient. The tail of a multistep memory below it is far under float32 rounding.
NEGLIGIBLE = 1e-9
# Relative error of the replay. Schedulers round to float32, some with cancellation; a nonlinear one is off by more.
TOLERANCE = 1e-3
CLIPPING = ("thresholding", "clip_sample")


@dataclass(frozen=True)
class SamplerTable:
    """Coefficients of one scheduler at one number of steps; each list has an entry a step."""

    steps: int
    timesteps: list[float]  # as the model is given them
    input_scale: list[float]
    a: list[float]
    b: list[list[float]]  # b[k][j] multiplies the prediction of step k - j
    noise_scale: float

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise UserError(f"sampler table: steps must be a positive integer, got {self.steps!r}")
        for name in ("timesteps", "input_scale", "a", "b"):
            column = getattr(self, name)
            if not isinstance(column, list) or len(column) != self.steps:
                raise UserError(f"sampler table: {name} must be a list of {self.steps} entries, one a step")
        for k, row in enumerate(self.b):
            if not isinstance(row, list) or not 1 <= len(row) <= k + 1:
                raise UserError(f"sampler table: b[{k}] must be a list of 1 to {k + 1} numbers")
        numbers = {"timesteps": self.timesteps, "input_scale": self.input_scale, "a": self.a}
        numbers |= {"noise_scale": [self.noise_scale]} | {f"b[{k}]": row for k, row in enumerate(self.b)}
        for name, values in numbers.items():
            if not all(map(_is_float32, values)):
                raise UserError(f"sampler table: {name} holds something other than finite float32 numbers")

    def to_json(self) -> dict:
        """Make the table as the manifest has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> "SamplerTable":
        """Make a table from the manifest's form. Raises UserError for one that the loop could not run."""
        if not isinstance(data, dict):
            raise UserError(f"sampler table: an object is expected, got {type(data).__name__}")
        missing = [f.name for f in fields(cls) if f.name not in data]
        if missing:
            raise UserError(f"sampler table: {', '.join(missing)} missing")
        return cls(**{f.name: data[f.name] for f in fields(cls)})


def _is_float32(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def probe(scheduler, steps: int, **schedule) -> SamplerTable:
    """Probe a stock diffusers scheduler for its table; the scheduler is left as it was.

    `schedule` is what the pipeline gives to set_timesteps besides the number of steps (`mu`, `sigmas`). A scheduler
    that calls the model more than once a step (Heun, PNDM) yields a table of as many steps as calls. A replay on random
    inputs has to give what the table says. Raises UserError for a scheduler that draws noise or is not linear.
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
            table = _table(_start(scheduler, steps, schedule))
            draws = 10 * torch.randn(1 + table.steps, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
            first, second = (_replay(_start(scheduler, steps, schedule), draws) for _ in range(2))
            expected = _replay_table(table, draws)
        except Exception as error:  # a scheduler may fail in any way on a setting or a shape that it does not know
            raise UserError(f"{name} has no sampler table: {' '.join(str(error).split())}") from error
    if not torch.equal(first, second):
        raise UserError(f"{name} is not deterministic: it draws noise as it steps")
    if not ((first - expected).abs().amax(1) <= TOLERANCE * expected.abs().amax(1)).all():
        raise UserError(f"{name} is not linear in latents and predictions: its steps do not follow a table")
    return table


def sample(
    predict: Predict,
    table: SamplerTable,
    noise: torch.Tensor | np.ndarray,
    guidance: float,
    on_step: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Sample latents float32 [B, ...] from standard normal noise of that shape.

    predict(latents float32 [B, ...], timestep) -> predictions (without, with) text, each [B, ...]. The guided
    prediction is without + guidance * (with - without); guidance 1 takes the second as it is, and the first may then be
    None. on_step(k, latents) is called after each step.
    """
    with torch.no_grad():
        latents = table.noise_scale * torch.as_tensor(noise, dtype=torch.float32)
        history: deque[torch.Tensor] = deque(maxlen=max(map(len, table.b)))
        for k in range(table.steps):
            without, prediction = predict(table.input_scale[k] * latents, table.timesteps[k])
            prediction = torch.as_tensor(prediction, dtype=torch.float32)
            if guidance != 1:
                without = torch.as_tensor(without, dtype=torch.float32)
                prediction = without + guidance * (prediction - without)
            if prediction.shape != latents.shape:
                raise ValueError(f"prediction of shape {tuple(prediction.shape)} for latents {tuple(latents.shape)}")
            history.appendleft(prediction)
            latents = table.a[k] * latents
            for coefficient, past in zip(table.b[k], history, strict=False):
                latents = latents + coefficient * past
            if on_step is not None:
                on_step(k, latents)
    return latents


def _table(scheduler) -> SamplerTable:
    """Find the coefficients by one walk in float64 in which every latent and every prediction is a basis vector."""
    steps = len(scheduler.timesteps)
    basis = torch.eye(2 * steps, dtype=torch.float64)[..., None, None, None]  # each variable [batch 2 steps, 1, 1, 1]
    input_scale: list[float] = []
    a: list[float] = []
    b: list[list[float]] = []
    for k, timestep in enumerate(scheduler.timesteps):
        input_scale.append(_scaled(scheduler, basis[k], timestep)[k].item())
        row = scheduler.step(basis[steps + k], timestep, basis[k], return_dict=False)[0].flatten().tolist()
        latents, predictions = row[: k + 1], row[steps : steps + k + 1]
        # Earlier latents leave the row, the oldest first, by x_i = (x_(i+1) - sum_j b_ij p_(i-j)) / a_i.
        for i in range(k):
            if latents[i] != 0:
                ratio = latents[i] / a[i]
                latents[i + 1] += ratio
                for j, coefficient in enumerate(b[i]):
                    predictions[i - j] -= ratio * coefficient
        a.append(latents[k])
        b.append(predictions[::-1])
    timesteps = [float(t) for t in scheduler.timesteps]
    return SamplerTable(steps, timesteps, input_scale, a, [_trimmed(row) for row in b], _noise_scale(scheduler))


def _trimmed(row: list[float]) -> list[float]:
    least = NEGLIGIBLE * max(map(abs, row))
    return row[: max([1, *(j + 1 for j, coefficient in enumerate(row) if abs(coefficient) > least)])]


def _start(scheduler, steps: int, schedule: dict):
    """Copy a scheduler, and set the copy to the start of its steps."""
    copy = type(scheduler).from_config(scheduler.config)
    if hasattr(scheduler, "set_shift"):
        copy.set_shift(scheduler.shift)  # the one setting that a pipeline may have changed outside the config
    if "sigmas" in schedule:
        copy.set_timesteps(**schedule)
        if len(copy.timesteps) != steps:
            raise ValueError(f"the given sigmas are for {len(copy.timesteps)} steps, not {steps}")
    else:
        copy.set_timesteps(steps, **schedule)
    if hasattr(copy, "set_begin_index"):
        copy.set_begin_index(0)  # else a repeated first timestep is looked up at its second place
    return copy


def _scaled(scheduler, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents


def _noise_scale(scheduler) -> float:
    return float(getattr(scheduler, "init_noise_sigma", 1.0))


def _replay(scheduler, draws: torch.Tensor) -> torch.Tensor:
    """Run the scheduler on random draws: model inputs and latents of every step [2 steps, n]."""
    latents, rows = _noise_scale(scheduler) * draws[0], []
    for timestep, prediction in zip(scheduler.timesteps, draws[1:], strict=True):
        rows.append(_scaled(scheduler, latents, timestep))
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        rows.append(latents)
    return torch.stack(rows).flatten(1)


def _replay_table(table: SamplerTable, draws: torch.Tensor) -> torch.Tensor:
    """Run the table on random draws: model inputs and latents of every step [2 steps, n]."""
    rows, predictions = [], iter(draws[1:])

    def predict(model_input: torch.Tensor, timestep: float) -> tuple[None, torch.Tensor]:
        rows.append(model_input)
        return None, next(predictions)

    sample(predict, table, draws[0], guidance=1, on_step=lambda k, latents: rows.append(latents))
    return torch.stack(rows).flatten(1)


@contextmanager
def _undisturbed():
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
