"""Streaming moments of the inputs of a denoiser's quantized linears, over real sampling trajectories.

Memory does not grow with the number of samples. The state can be saved after any sample and taken up again.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.fold import Foldable, submodule
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.operators import token_mean
from edge_hadanorm.tensor_files import write_tensors

Observe = Callable[..., None]
FIELDS = ("mean", "total", "within", "largest", "largest_within")


class Moments:
    """Per-channel moments of one input of `width` features, float64.

    count: tokens seen. mean [d]. total [d]: sum of squared deviations from the mean (Chan's update). within [d]: the
    same from the mean over the tokens of each call, which a dynamic centre subtracts. largest, largest_within [d]:
    largest magnitude of the input and of its deviation from its call's mean.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean, self.total, self.within, self.largest, self.largest_within = (
            torch.zeros(width, dtype=torch.float64) for _ in FIELDS
        )

    def update(self, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Take in tokens x [B, S, d]; each of the B sequences has a mean of its own.

        weights [B, S]: of the tokens in that mean; those of weight 0 (padding) are not seen. None: all the same.
        """
        x = x.detach().cpu().double()  # some accelerators have no float64
        if weights is None:
            flat, centred = x.flatten(0, 1), (x - token_mean(x)).flatten(0, 1)
        else:
            weights = weights.detach().cpu().double()
            flat, centred = x[weights > 0], (x - token_mean(x, weights))[weights > 0]
        count, mean = len(flat), flat.mean(0)
        delta = mean - self.mean
        self.total += (flat - mean).square().sum(0) + delta.square() * self.count * count / (self.count + count)
        self.mean += delta * count / (self.count + count)
        self.count += count
        self.within += centred.square().sum(0)
        self.largest = torch.maximum(self.largest, flat.abs().amax(0))
        self.largest_within = torch.maximum(self.largest_within, centred.abs().amax(0))

    def deviation(self, centre: str) -> torch.Tensor:
        """Root mean square [d] of what is left after a recipe's centre."""
        squares = {
            "none": self.total / self.count + self.mean.square(),
            "static": self.total / self.count,
            "dynamic": self.within / self.count,
        }
        return squares[centre].sqrt()

    def magnitude(self, centre: str) -> torch.Tensor:
        """Largest magnitude [d] of what is left after a recipe's centre; a static one is bounded, not measured."""
        bounds = {
            "none": self.largest,
            "static": self.largest + self.mean.abs(),
            "dynamic": self.largest_within,
        }
        return bounds[centre]


@contextmanager
def observe_inputs(denoiser: Foldable, names: Iterable[str], observe: Observe) -> Iterator[None]:
    """Call observe(name, x, ...) with the arguments of each named linear while inside: its input, and token weights."""

    def hook(name: str):
        def observe_call(module: nn.Module, arguments: tuple, keywords: dict) -> None:
            x, *weights = arguments
            shift = keywords.get("shift")
            observe(name, x if shift is None else x + shift, *weights)

        return observe_call

    handles = [denoiser.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def calibrate(
    denoiser: Foldable,
    samples: list[Callable[[], torch.Tensor]],
    progress: Callable[[Iterable], Iterable] = iter,
    state: Path | None = None,
    fingerprint: str = "",
) -> dict[str, Moments]:
    """Moments by name of every quantizable linear of a float denoiser, over samples: calls that run the
    denoiser and return what it made.

    state: a file kept up to date after every sample; with the same fingerprint (of model and samples) an interrupted
    calibration goes on from it. Raises UserError naming the layer and sample where NaN or Inf appears, and where the
    state cannot be written.
    """
    names = denoiser.quantizable()
    moments = {name: Moments(submodule(denoiser, name).weight.shape[1]) for name in names}
    done = _resume(state, fingerprint, moments) if state else 0

    def observe(name: str, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        if not x.isfinite().all():
            raise UserError(
                f"calibration: NaN or Inf in the input of {name} at sample {done}; check weights and inputs"
            )
        moments[name].update(x, weights)

    with torch.no_grad(), observe_inputs(denoiser, names, observe):
        for sample in progress(samples[done:]):
            if not sample().isfinite().all():
                raise UserError(f"calibration: NaN or Inf in the output of sample {done}; check weights and inputs")
            done += 1
            if state:
                _save(state, fingerprint, moments, done)
    return moments


def activation_ranges(
    denoiser: Foldable, quantized: Foldable, samples: Sequence[Callable[[], object]]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Smallest and largest value that each linear of `quantized` has to quantize, on the float model's inputs."""
    ranges: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def observe(name: str, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        linear = cast(QuantizedLinear, quantized.get_submodule(name))
        rows = linear.rows(linear.absorbed(x)[0], weights)
        low, high = rows.aminmax()
        if name in ranges:
            low, high = torch.minimum(low, ranges[name][0]), torch.maximum(high, ranges[name][1])
        ranges[name] = (low, high)

    with torch.no_grad(), observe_inputs(denoiser, denoiser.quantizable(), observe):
        for sample in samples:
            sample()
    return ranges


def _save(state: Path, fingerprint: str, moments: dict[str, Moments], done: int) -> None:
    tensors = {f"{name}.{field}": getattr(m, field) for name, m in moments.items() for field in FIELDS}
    header = {"fingerprint": fingerprint, "done": done, "counts": {name: m.count for name, m in moments.items()}}
    write_tensors(_partial(state), tensors, {"calibration": json.dumps(header)})
    _partial(state).replace(state)


def _partial(state: Path) -> Path:
    return state.with_name(state.name + ".partial")


def forget(state: Path) -> None:
    """Remove a state file, and what a killed run left of one."""
    for file in (state, _partial(state)):
        file.unlink(missing_ok=True)


def _resume(state: Path, fingerprint: str, moments: dict[str, Moments]) -> int:
    """Fill the moments from a state file of this fingerprint; returns the samples it holds, 0 where it is none."""
    try:
        with safe_open(state, "pt") as file:
            header = json.loads(file.metadata()["calibration"])
            if header["fingerprint"] != fingerprint:
                return 0
            done, counts = header["done"], {name: header["counts"][name] for name in moments}
            fields = {(name, field): file.get_tensor(f"{name}.{field}") for name in moments for field in FIELDS}
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError):
        return 0
    for name, count in counts.items():
        moments[name].count = count
    for (name, field), tensor in fields.items():
        setattr(moments[name], field, tensor)
    return done


# What a linear is given: tokens [B, S, d], and their weights [B, S] (0: padding) or None.
Seen = tuple[torch.Tensor, torch.Tensor | None]


def tokens(y: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The tokens [n, m] of y [B, S, m] that are no padding."""
    return y.flatten(0, 1) if weights is None else y[weights > 0]
