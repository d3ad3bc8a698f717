"""How pictures are sampled where the user does not want it as the pipeline's class has it."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.loading import FloatModel
from edge_hadanorm.pipelines.schedulers import given_scheduler
from edge_hadanorm.pipelines.text_to_image import TextToImage


@dataclass(frozen=True)
class Sampling:
    """Wishes of the user instead of a pipeline's defaults; None: as they are.

    steps: of the sampler. guidance: classifier-free guidance, 1 for none. negative: the prompt for what is not wanted.
    eta: share of noise, of schedulers that take one. scheduler: a scheduler_config.json, or the name of a class of
    diffusers.
    """

    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    eta: float | None = None
    scheduler: str | Path | None = None

    @property
    def given(self) -> list[str]:
        """Names of what is given."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def of(self, pipeline: TextToImage) -> TextToImage:
        """The pipeline with these defaults. Raises UserError for what it cannot have."""
        if not self.given:
            return pipeline
        config = None if self.scheduler is None else given_scheduler(self.scheduler, pipeline.scheduler)
        return pipeline.with_defaults(self.steps, self.guidance, self.negative, self.eta, config)

    def of_model(self, model: FloatModel) -> FloatModel:
        """The model, whose weights are shared, with these defaults. Raises UserError for a transformer alone."""
        if not self.given:
            return model
        if model.pipeline is None:
            raise UserError(f"{model.name} is a transformer alone, which samples nothing: leave out `{self.given[0]}`")
        return replace(model, pipeline=self.of(model.pipeline))
