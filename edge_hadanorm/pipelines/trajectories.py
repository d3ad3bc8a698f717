"""What a denoiser is calibrated and evaluated on: its inputs along sampling trajectories, or captured by the user."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.calls import Inputs, captured
from edge_hadanorm.pipelines.drawing import OnStep, Runner, TorchRunner, latents, picture
from edge_hadanorm.pipelines.loading import FloatModel
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.text_to_image import TextToImage


@dataclass(frozen=True)
class Trajectories:
    """How to sample: prompts with one seed each, counted from `seed`, at `steps` steps and a guidance.

    Raises UserError for a prompt that the tokenizer refuses and an impossible seed, before anything is drawn.
    """

    pipeline: TextToImage
    prompts: list[str]
    steps: int
    guidance: float
    seed: int

    def __post_init__(self):
        normal(self.seed, 1)
        for prompt in self.prompts:
            self.pipeline.check(prompt)

    def samples(self, denoiser: nn.Module) -> list[Callable[[], torch.Tensor]]:
        """Calls that make the latents of one picture each on a denoiser, float32 [C, H, W]."""
        return self.drawn(latents, TorchRunner(denoiser, self.pipeline))

    def pictures(self, runner: Runner, on_step: OnStep | None = None) -> list[Callable[[], torch.Tensor]]:
        """Calls that draw one picture each on a runner, float32 [3, H, W]."""
        return self.drawn(picture, runner, on_step)

    def drawn(
        self, draw: Callable[..., torch.Tensor], runner: Runner, on_step: OnStep | None = None
    ) -> list[Callable[[], torch.Tensor]]:
        """Calls of `latents` or `picture`, one a prompt."""
        table = self.pipeline.table(self.steps)
        return [
            partial(draw, runner, prompt, table, self.guidance, self.seed + i, on_step)
            for i, prompt in enumerate(self.prompts)
        ]

    def record(self, denoiser: nn.Module, progress: Callable[[Iterable], Iterable] = iter) -> list[Inputs]:
        """The inputs of every step of every picture."""
        inputs = []

        class Recorder(TorchRunner):
            def prepare(self, prompt: str) -> list[torch.Tensor]:
                self.given = self.pipeline.prompt(prompt)
                return super().prepare(prompt)

            @torch.no_grad()
            def denoise(self, latents, timestep, conditioning):
                inputs.append(Inputs(latents, timestep, self.given))
                return super().denoise(latents, timestep, conditioning)

        recorder = Recorder(denoiser, self.pipeline)
        for draw in progress(self.drawn(latents, recorder)):
            draw()
        return inputs


CALIBRATION_PROMPTS = 32
EVALUATION_PROMPTS = 8
# Far from the calibration's, which count from 0 unless a seed is given.
EVALUATION_SEED = 1_000_000


def read_prompts(file: Path) -> list[str]:
    """The non-empty lines of a text file."""
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
    """`count` prompts evenly spaced over a list, the first at a fraction `offset` of the spacing."""
    spacing = max(1.0, len(prompts) / count)
    return [prompts[int((i + offset) * spacing)] for i in range(min(count, len(prompts)))]


def calibration_prompts(model: FloatModel) -> list[str]:
    """Prompts of the model's own to calibrate on; `evaluation_prompts` has none of them."""
    return spread(model.pipeline.prompts, CALIBRATION_PROMPTS, 0)


def evaluation_prompts(prompts: list[str], count: int = EVALUATION_PROMPTS) -> list[str]:
    """Prompts that calibration does not take, where it leaves any."""
    taken = set(spread(prompts, CALIBRATION_PROMPTS, 0))
    return spread([prompt for prompt in prompts if prompt not in taken] or prompts, count, 0.5)


def has_prompts(model: FloatModel) -> bool:
    """Whether a model has prompts of its own."""
    return model.pipeline is not None and bool(model.pipeline.prompts)


def evaluation_data(
    model: FloatModel,
    inputs: str | Path | Mapping[str, torch.Tensor] | None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[list[Inputs], Trajectories | None]:
    """Calls to evaluate on: captured inputs, else those of trajectories on held-out prompts, which come with them.

    Raises UserError where there are neither.
    """
    if inputs is not None:
        return captured(inputs, model.denoiser), None
    if not has_prompts(model):
        raise UserError(f"{model.name} has no prompts to evaluate on: give captured `inputs`")
    trajectories = evaluation_trajectories(model)
    return trajectories.record(model.denoiser, progress), trajectories


def evaluation_trajectories(model: FloatModel, count: int = EVALUATION_PROMPTS) -> Trajectories:
    """Pictures of the model's own prompts and of seeds that calibration does not see."""
    pipeline = model.pipeline
    prompts = evaluation_prompts(pipeline.prompts, count)
    return Trajectories(pipeline, prompts, pipeline.steps, pipeline.guidance, EVALUATION_SEED)
