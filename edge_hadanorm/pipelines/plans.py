"""Plans: the sampling of a picture as rows of numbers, which a device runs as a loop of multiply-adds.

With x the latents, n_0, n_1, ... standard normal noise, and p_k the predictions that the model makes of
input_scale_k * x_k at timestep_k, for the text and for the negative prompt, under guidance g:

    x_0 = noise_scale * n_0, or known_0 of a picture's latents z: known_0[0] z + known_0[1] n_0
    x_(k+1) = a x_k + sum_j (b_text_j + g b_j) p_text,(k-j) + sum_j (b_negative_j + (1 - g) b_j) p_negative,(k-j)
              + sum_j c_j n_(k+1-j)

a, b, b_text, b_negative and c are row k's own. A scheduler of diffusers has b alone, which is classifier-free guidance:
p_negative + g (p_text - p_negative). What guidance leaves alone is in b_text and b_negative: steps without guidance,
and plans that were made for one guidance, which say so. A guidance below 1 is 1, as it is in diffusers.

Under a mask m, 1 where the picture is drawn anew, x_(k+1) is then (1 - m) (known_(k+1)[0] z + known_(k+1)[1] n_0)
+ m x_(k+1); after the last row known is (1, 0).

Coefficients are worked out in float64 as written here, b_text_j + g b_j in two operations, and rounded to float32. A
prediction whose coefficients are then 0 in every row is not made.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from edge_hadanorm.errors import UserError

LARGEST = float(np.finfo(np.float32).max)
TEXT, NEGATIVE = "text", "negative"
MAX_GUIDANCE = 100.0
# Columns of a row that may be left out, and lists of them by steps back.
LISTS = ("b", "b_text", "b_negative", "c")


@dataclass(frozen=True)
class Row:
    """One step of a plan.

    Coefficients [j] belong to the prediction or the noise of j steps before; those that are not there are 0. known: the
    scales of a known picture and of n_0 in latents that are as noisy as those that this step begins with; None where
    the scheduler does not say.
    """

    timestep: float  # as the model is given it
    input_scale: float
    a: float
    b: tuple[float, ...] = ()
    b_text: tuple[float, ...] = ()
    b_negative: tuple[float, ...] = ()
    c: tuple[float, ...] = ()
    known: tuple[float, float] | None = None


class Step(NamedTuple):
    """A row at one guidance, float32: coefficients of predictions and noise by steps back, and what is predicted."""

    timestep: float
    input_scale: float
    a: float
    text: tuple[float, ...]
    negative: tuple[float, ...]
    noise: tuple[float, ...]
    predicted: tuple[str, ...]


def check_guidance(guidance: float) -> None:
    """Raises UserError for an impossible one."""
    if not 0 <= guidance <= MAX_GUIDANCE:
        raise UserError(f"`guidance` is {guidance}, not a number from 0 to {MAX_GUIDANCE:g}")


@dataclass(frozen=True)
class Plan:
    """Rows, one a step. guidance: the only one that the plan was made for; None: any.

    starts: by row, the plan that begins there with a known picture, where it is another than the rest of this one: a
    multistep scheduler remembers nothing there.
    """

    rows: tuple[Row, ...]
    noise_scale: float
    guidance: float | None = None
    starts: dict[int, "Plan"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rows:
            raise UserError("plan: it has no rows")
        numbers = {"noise_scale": (self.noise_scale,)}
        if self.guidance is not None:
            numbers["guidance"] = (self.guidance,)
        for k, row in enumerate(self.rows):
            for name in LISTS:
                if len(getattr(row, name)) > k + 1:
                    raise UserError(f"plan: {name} of row {k} has more than {k + 1} numbers")
                numbers[f"{name} of row {k}"] = getattr(row, name)
            numbers[f"row {k}"] = (row.timestep, row.input_scale, row.a, *(row.known or ()))
        for name, values in numbers.items():
            if not all(map(_is_float32, values)):
                raise UserError(f"plan: {name} holds something other than finite float32 numbers")
        for first, start in self.starts.items():
            if not 0 < first < len(self.rows) or len(start.rows) != len(self.rows) - first or start.starts:
                raise UserError(f"plan: the start at row {first} is not of the rows from there on")
            if start.rows[0].known is None:
                raise UserError(f"plan: known of row 0 of the start at row {first} is missing")

    @property
    def steps(self) -> int:
        """Rows, which may be more than the steps that a scheduler was asked for."""
        return len(self.rows)

    def at(self, guidance: float) -> list[Step]:
        """Work out the steps at a guidance. Raises UserError for an impossible one, or another than the plan's own."""
        check_guidance(guidance)
        if self.guidance is not None and guidance != self.guidance:
            raise UserError(f"the plan was made for `guidance` {self.guidance:g} alone; leave it out")
        g = max(1.0, guidance)
        text = [_sums(row.b_text, row.b, g) for row in self.rows]
        negative = [_sums(row.b_negative, row.b, 1.0 - g) for row in self.rows]
        return [
            Step(
                _float32(row.timestep),
                _float32(row.input_scale),
                _float32(row.a),
                text[k],
                negative[k],
                tuple(map(_float32, row.c)),
                tuple(name for name, used in ((TEXT, text), (NEGATIVE, negative)) if _is_used(used, k)),
            )
            for k, row in enumerate(self.rows)
        ]

    def evaluations(self, guidance: float) -> int:
        """Count the predictions of a picture at a guidance."""
        return sum(len(step.predicted) for step in self.at(guidance))

    def guided_between(self, first: float, last: float) -> "Plan":
        """Leave guidance to the steps k of n with first <= k / n < last; the others take the text's prediction.

        Guidance on a part of the steps is that of Kynkaanniemi et al. (arXiv 2404.07724). Raises UserError where these
        are no shares of the steps.
        """
        if not 0 <= first <= last <= 1:
            raise UserError(f"guidance steps from {first:g} to {last:g} are no shares of the steps, 0.0-1.0 at most")
        inside = [first <= k / self.steps < last for k in range(self.steps)]
        starts = {row: start._guided_at(inside[row:]) for row, start in self.starts.items()}
        return replace(self._guided_at(inside), starts=starts)

    def _guided_at(self, inside: Sequence[bool]) -> "Plan":
        """Leave guidance to some rows."""
        rows = []
        for k, row in enumerate(self.rows):
            kept = tuple(b if inside[k - j] else 0.0 for j, b in enumerate(row.b))
            freed = tuple(b - own for b, own in zip(row.b, kept, strict=True))
            rows.append(replace(row, b=_trimmed(kept), b_text=_trimmed(_sums64(row.b_text, freed))))
        return replace(self, rows=tuple(rows))

    def begun(self, strength: float) -> "Plan":
        """Take the last rows, a share `strength` of all, which begin with a known picture (arXiv 2108.01073).

        The share is rounded as diffusers' pipelines of picture to picture do. Where that is the second call of a step,
        the first is taken too. Raises UserError for an impossible strength, and for a plan that no picture can begin.
        """
        if not 0 < strength <= 1:
            raise UserError(f"`strength` is {strength:g}, not a number above 0 and at most 1")
        first = int(self.steps - self.steps * strength)
        for row in (first, max(first - 1, 0)):
            if (plan := self.starts.get(row) or self.rest(row)) is not None:
                return plan
        why = f"at step {first} of {self.steps}" if first else "that does not say how noisy its latents are"
        raise UserError(f"no picture can begin a plan {why}: take other steps or another `strength`")

    def rest(self, row: int) -> "Plan | None":
        """Take the rows from one on; None where they reach back before it, or it does not say how noisy latents are."""
        rows = self.rows[row:]
        reach = [max(len(getattr(own, name)) for name in LISTS) for own in rows]
        if rows[0].known is None or any(back > k + 1 for k, back in enumerate(reach)):
            return None
        return Plan(rows, rows[0].known[1], self.guidance)

    def to_json(self) -> dict:
        """Make the plan as the manifest has it."""
        return {
            "noise_scale": self.noise_scale,
            "guidance": self.guidance,
            "rows": [_row_json(row) for row in self.rows],
            **({"starts": {str(row): start.to_json() for row, start in self.starts.items()}} if self.starts else {}),
        }

    @classmethod
    def from_json(cls, data: Any) -> "Plan":
        """Make a plan from the manifest's form. Raises UserError for one that the loop could not run."""
        if not isinstance(data, dict):
            raise UserError(f"plan: an object is expected, got {type(data).__name__}")
        if missing := [name for name in ("noise_scale", "guidance", "rows") if name not in data]:
            raise UserError(f"plan: {', '.join(missing)} missing")
        if not isinstance(data["rows"], list):
            raise UserError("plan: rows must be a list")
        rows = tuple(_row(k, row) for k, row in enumerate(data["rows"]))
        starts = data.get("starts", {})
        if not isinstance(starts, dict) or not all(re.fullmatch("[1-9][0-9]{0,3}", row) for row in starts):
            raise UserError("plan: starts must be an object of plans by row")
        begun = {int(row): cls.from_json(start) for row, start in starts.items()}
        return cls(rows, data["noise_scale"], data["guidance"], begun)


def _row_json(row: Row) -> dict:
    lists = {name: list(getattr(row, name)) for name in LISTS}
    made: dict = {"timestep": row.timestep, "input_scale": row.input_scale, "a": row.a}
    made |= {name: values for name, values in lists.items() if values}
    return made if row.known is None else made | {"known": list(row.known)}


def _row(k: int, data: Any) -> Row:
    if not isinstance(data, dict):
        raise UserError(f"plan: row {k} must be an object, got {type(data).__name__}")
    if missing := [name for name in ("timestep", "input_scale", "a") if name not in data]:
        raise UserError(f"plan: row {k} has no {missing[0]}")
    lists = {name: data.get(name, []) for name in LISTS}
    for name, values in lists.items():
        if not isinstance(values, list):
            raise UserError(f"plan: {name} of row {k} must be a list of numbers")
    known = data.get("known")
    if known is not None and not (isinstance(known, list) and len(known) == 2):
        raise UserError(f"plan: known of row {k} must be a list of two numbers")
    return Row(
        data["timestep"],
        data["input_scale"],
        data["a"],
        **{name: tuple(values) for name, values in lists.items()},
        known=None if known is None else (known[0], known[1]),
    )


def _is_float32(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _float32(value: float) -> float:
    return float(np.float32(value))


def _sums64(first: Sequence[float], second: Sequence[float], factor: float = 1.0) -> list[float]:
    """first + factor * second, of which the shorter goes on with zeros."""
    length = max(len(first), len(second))
    padded = ((*values, *[0.0] * (length - len(values))) for values in (first, second))
    return [one + factor * other for one, other in zip(*padded, strict=True)]


def _sums(first: Sequence[float], second: Sequence[float], factor: float) -> tuple[float, ...]:
    return tuple(map(_float32, _sums64(first, second, factor)))


def _trimmed(values: Sequence[float]) -> tuple[float, ...]:
    """Values without the zeros at their end."""
    last = max((i + 1 for i, value in enumerate(values) if value), default=0)
    return tuple(values[:last])


def _is_used(coefficients: list[tuple[float, ...]], k: int) -> bool:
    """Whether some row takes what was predicted in step k."""
    return any(i - k < len(row) and row[i - k] != 0 for i, row in enumerate(coefficients[k:], k))
