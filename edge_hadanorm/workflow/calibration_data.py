"""Calibration data of a float model: its own sampling trajectories on some prompts, or captured inputs."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.calls import Captured, Inputs, read_captured
from edge_hadanorm.pipelines.loading import FloatModel
from edge_hadanorm.pipelines.schedulers import written
from edge_hadanorm.pipelines.trajectories import (
    Trajectories,
    calibration_prompts,
    default_trajectories,
    read_prompts,
)
from edge_hadanorm.progress import Progress, silent
from edge_hadanorm.quantization.calibration import Moments, calibrate

# A text file with one prompt a line, or the prompts.
Prompts = str | Path | Sequence[str]


class CalibrationData:
    """Runs of a float model; what a recipe needs of them is measured when asked for, and kept for the next recipe.

    runs: calls that run the float denoiser, one a picture or a captured sample, and return what it made.
    inputs: the captured calls; None along trajectories. settings: what the runs depend on besides the model.
    prompts: those that were asked for; empty where the model's own are taken.
    """

    def __init__(
        self,
        model: FloatModel,
        runs: Sequence[Callable[[], torch.Tensor]] = (),
        inputs: list[Inputs] | None = None,
        trajectories: Trajectories | None = None,
        settings: Sequence = (),
    ):
        self.model, self.runs, self.inputs = model, list(runs), inputs
        self.settings, self.prompts = list(settings), list((settings and settings[0]) or [])
        self._trajectories = trajectories
        self._moments: dict[str, Moments] | None = None
        self._calls = inputs

    def moments(self, progress: Progress = silent, state: Path | None = None) -> dict[str, Moments]:
        """Moments by name of every quantizable linear's input.

        state: a file to go on from after an interruption, see `calibrate`.
        """
        if self._moments is None:
            fingerprint = self.fingerprint() if state else ""
            self._moments = calibrate(self.model.denoiser, self.runs, progress("calibrating"), state, fingerprint)
        return self._moments

    def calls(self, progress: Progress = silent) -> list[Inputs]:
        """The denoiser's inputs at every step of every run; empty without runs."""
        if self._calls is None:
            record = self._trajectories and partial(self._trajectories.record, self.model.denoiser)
            self._calls = record(progress("recording")) if record else []
        return self._calls

    def fingerprint(self) -> str:
        """A digest of all that the moments depend on: weights, prompts and settings, captured inputs."""
        model = self.model
        own = model.pipeline
        defaults = [own.prompts, own.settings, written(own.scheduler)] if own else None
        digest = hashlib.blake2b(json.dumps([model.config, self.settings, defaults]).encode())
        tensors = [*model.denoiser.state_dict().values()]
        for call in self.inputs or []:
            tensors += [call.latents, call.timestep, *call.prompt.values()]
        for tensor in tensors:
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def collect(
    model: FloatModel,
    prompts: Prompts | None = None,
    inputs: Captured | None = None,
    seed: int = 0,
) -> CalibrationData | None:
    """The data of captured `inputs`, or of a pipeline's pictures of `prompts`; None where the model has neither.

    prompts: by default the model's own, as far as it has any. seed: of the first picture's noise. Raises UserError for
    both prompts and inputs, for what cannot be read and for prompts that the model cannot draw.
    """
    check_one(prompts, inputs)
    if prompts is not None:
        prompts = prompt_list(prompts)
    if inputs is not None:
        calls = read_captured(inputs, model.denoiser)
        each = [partial(call.run, model.denoiser) for call in calls]
        return CalibrationData(model, each, calls, settings=[prompts, seed])
    pipeline = model.pipeline
    own = prompts or (calibration_prompts(model) if pipeline is not None else None)
    if pipeline is None or not own:
        return None
    trajectories = default_trajectories(pipeline, own, seed)
    runs = trajectories.samples(model.denoiser)
    return CalibrationData(model, runs, trajectories=trajectories, settings=[prompts, seed])


def check_one(prompts: Prompts | None, inputs: Captured | None) -> None:
    """Raises UserError for both."""
    if prompts is not None and inputs is not None:
        raise UserError("calibration takes `prompts` or `inputs`, not both; leave one out")


def prompt_list(prompts: Prompts) -> list[str]:
    """The prompts of a text file, or those that are given."""
    return read_prompts(Path(prompts)) if isinstance(prompts, str | Path) else list(prompts)


def missing(model: FloatModel) -> str:
    """Say what a model without calibration data has to be given."""
    return "`prompts` or `inputs`" if model.pipeline else "`inputs`"
