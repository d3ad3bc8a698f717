"""Calibration and evaluation data: a denoiser's inputs along sampling trajectories, or captured by the user."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.calls import Captured, Inputs, read_captured
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.drawing import Runner, TorchRunner, Wish, latents, picture
from edge_hadanorm.pipelines.loading import FloatModel
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.sampling import OnStep
from edge_hadanorm.pipelines.text_to_image import TextToImage

# Draws one picture.
Draw = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Trajectories:
    """Sampling of pictures: prompts with one seed each, counted from `seed`, at `steps` steps and a guidance.

    negative: the negative prompt of all.

    Raises UserError for a prompt that the tokenizer refuses and an impossible seed, before anything is drawn.
    """

    pipeline: TextToImage
    prompts: list[str]
    steps: int
    guidance: float
    seed: int
    negative: str = ""

    def __post_init__(self):
        normal(self.seed, 1)
        self.pipeline.check(self.negative, negative=True)
        for prompt in self.prompts:
            self.pipeline.check(prompt)

    def samples(self, denoiser: Denoiser) -> list[Draw]:
        """List calls that make the latents of one picture each on a denoiser, float32 [C, H, W]."""
        return self._calls(latents, TorchRunner(denoiser, self.pipeline))

    def pictures(self, runner: Runner, on_step: OnStep | None = None) -> list[Draw]:
        """List calls that draw one picture each on a runner, float32 [3, H, W]."""
        return self._calls(picture, runner, on_step)

    def _calls(self, draw: Callable[..., torch.Tensor], runner: Runner, on_step: OnStep | None = None) -> list[Draw]:
        """List calls of `latents` or `picture`, one a prompt."""
        plan = self.pipeline.plan(self.steps)
        wishes = [
            Wish(prompt, plan, self.guidance, self.seed + i, self.negative) for i, prompt in enumerate(self.prompts)
        ]
        return [partial(draw, runner, wish, on_step) for wish in wishes]

    def record(self, denoiser: Denoiser, progress: Callable[[Iterable], Iterable] = iter) -> list[Inputs]:
        """Sample every picture, and keep the denoiser's inputs at every step; progress: wraps the pictures' calls."""
        recorder = _Recorder(denoiser, self.pipeline)
        for draw in progress(self._calls(latents, recorder)):
            draw()
        return recorder.inputs


class _Recorder(TorchRunner):
    """A runner that keeps what its denoiser is given: a call a step, of the text and where there is guidance of the
    negative prompt, which comes first.
    """

    def __init__(self, denoiser: Denoiser, pipeline: TextToImage):
        super().__init__(denoiser, pipeline)
        self.inputs: list[Inputs] = []
        self._prompts: dict[int, dict[str, torch.Tensor]] = {}  # by the conditioning that is made of them

    def prepare(self, prompt: str, negative: bool = False) -> list[torch.Tensor]:
        conditioning = super().prepare(prompt, negative)
        self._prompts[id(conditioning)] = self.pipeline.prompt(prompt, negative)
        return conditioning

    def denoise_together(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditionings: list[list[torch.Tensor]]
    ) -> list[torch.Tensor]:
        prompts = [self._prompts[id(conditioning)] for conditioning in reversed(conditionings)]
        prompt = {name: torch.cat([prompt[name] for prompt in prompts]) for name in prompts[0]}
        self.inputs.append(Inputs(torch.cat([latents] * len(prompts)), timestep, prompt))
        return super().denoise_together(latents, timestep, conditionings)


CALIBRATION_PROMPTS = 32
EVALUATION_PROMPTS = 8
# Far from the calibration's, which count from 0 unless a seed is given.
EVALUATION_SEED = 1_000_000


def read_prompts(file: Path) -> list[str]:
    """Read the non-empty lines of a text file. Raises UserError where there are none, and for what is not UTF-8."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"prompts file {file} cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"prompts file {file} is not text in UTF-8; save it as such") from None
    if not lines:
        raise UserError(f"prompts file {file} is empty: one prompt a line")
    return lines


def spread(prompts: list[str], count: int, offset: float) -> list[str]:
    """Choose `count` prompts evenly spaced over a list, the first at a fraction `offset` of the spacing."""
    spacing = max(1.0, len(prompts) / count)
    return [prompts[int((i + offset) * spacing)] for i in range(min(count, len(prompts)))]


def calibration_prompts(model: FloatModel) -> list[str]:
    """Choose prompts of the model's own to calibrate on, empty where it has none; `evaluation_prompts` skips them."""
    return spread(model.pipeline.prompts, CALIBRATION_PROMPTS, 0) if model.pipeline else []


def evaluation_prompts(prompts: list[str], count: int = EVALUATION_PROMPTS) -> list[str]:
    """Choose prompts that calibration does not use, where it leaves any."""
    calibrated = set(spread(prompts, CALIBRATION_PROMPTS, 0))
    return spread([prompt for prompt in prompts if prompt not in calibrated] or prompts, count, 0.5)


def has_prompts(model: FloatModel) -> bool:
    """Whether a model has prompts of its own."""
    return model.pipeline is not None and bool(model.pipeline.prompts)


def evaluation_data(
    model: FloatModel,
    inputs: Captured | None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[list[Inputs], Trajectories | None]:
    """Get calls to evaluate on: captured inputs, else those of trajectories on held-out prompts, with the trajectories.

    Raises UserError where there are neither.
    """
    if inputs is not None:
        return read_captured(inputs, model.denoiser), None
    if not has_prompts(model):
        raise UserError(f"{model.name} has no prompts to evaluate on: give captured `inputs`")
    trajectories = evaluation_trajectories(model)
    return trajectories.record(model.denoiser, progress), trajectories


def evaluation_trajectories(model: FloatModel, count: int = EVALUATION_PROMPTS) -> Trajectories:
    """Plan pictures of the model's own prompts and of seeds that calibration does not see.

    Raises UserError for a model without a pipeline.
    """
    pipeline = model.pipeline
    if pipeline is None:
        raise UserError(f"{model.name} is a transformer alone, which draws no prompts: give captured `inputs`")
    prompts = evaluation_prompts(pipeline.prompts, count)
    return default_trajectories(pipeline, prompts, EVALUATION_SEED)


def default_trajectories(pipeline: TextToImage, prompts: list[str], seed: int) -> Trajectories:
    """Plan pictures as the pipeline samples them by default."""
    return Trajectories(pipeline, prompts, pipeline.steps, pipeline.guidance, seed, pipeline.negative)
