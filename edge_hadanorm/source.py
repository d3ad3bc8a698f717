"""The model to quantize: the reference, a diffusers pipeline folder, a transformer folder, or a hub id of either."""

import inspect
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json, read_weights, require_finite
from edge_hadanorm.models import class_of, family
from edge_hadanorm.sampling import SamplerTable, probe
from edge_hadanorm.text import PromptTokenizer, TextEncoder

REFERENCE = Path(__file__).parent / "reference" / "weights"
COMPONENTS = ("tokenizer", "text_encoder", "scheduler")
ABOUT = "about.json"
# More than the noise levels that diffusion models are trained on, and a prompt beyond any text encoder's.
MAX_STEPS = 1000
MAX_TOKENS = 4096
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class TextToImage:
    """What a pipeline has besides its transformer: tokenizer, text encoder, scheduler, and how they are used.

    folder: of the components. steps, guidance: the pipeline's defaults. licence, prompts: from the folder's about.json,
    where it has one: a sentence, and prompts that the model was made for.
    """

    def __init__(self, folder: Path, steps: int, guidance: float):
        self.folder, self.steps, self.guidance = folder, steps, guidance
        self.tokenizer = PromptTokenizer(folder / "tokenizer/tokenizer.json", _token_length(folder))
        self.text_encoder = TextEncoder.load(folder / "text_encoder")
        if self.tokenizer.size > self.text_encoder.vocabulary:
            raise UserError(
                f"{folder}: the tokenizer has {self.tokenizer.size} words, the text encoder "
                f"{self.text_encoder.vocabulary}; copy both from one model"
            )
        self.licence, self.prompts = _about(folder)

    def ids(self, prompt: str) -> torch.Tensor:
        """Ids [2, L] of the empty prompt and of this one, the batch of classifier-free guidance."""
        return torch.tensor([self.tokenizer(""), self.tokenizer(prompt)])

    @torch.no_grad()
    def text(self, prompt: str) -> torch.Tensor:
        """Text states [2, L, C] of the same."""
        return self.text_encoder(self.ids(prompt))

    def table(self, steps: int) -> SamplerTable:
        """The scheduler's coefficients for a number of steps. Raises UserError where there are none."""
        import diffusers

        if not 1 <= steps <= MAX_STEPS:
            raise UserError(f"steps: {steps} is not a number from 1 to {MAX_STEPS}")
        file = self.folder / "scheduler/scheduler_config.json"
        config = read_json(file, "scheduler config")
        name = config.get("_class_name") if isinstance(config, dict) else None
        scheduler = getattr(diffusers, name, None) if isinstance(name, str) else None
        if not isinstance(scheduler, type) or not issubclass(scheduler, diffusers.SchedulerMixin):
            raise UserError(f"scheduler config {file} names {name!r}, which is no scheduler of diffusers")
        try:
            made = scheduler.from_config(config)
        except Exception as error:  # a scheduler may fail in any way on a setting that it does not know
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"scheduler config {file} is not one of {name}: {reason}; copy it again") from None
        return probe(made, steps)


@dataclass(frozen=True)
class Source:
    """A float model. name: as the user gave it. config: the transformer's."""

    name: str
    transformer_class: str
    config: dict
    denoiser: nn.Module
    pipeline: TextToImage | None


def load(name: str) -> Source:
    """The model of a name, in float32. Raises UserError for what is missing, broken, unsupported or not finite."""
    folder = REFERENCE if name == "reference" else Path(name)
    if not os.path.exists(folder) and _HUB_ID.fullmatch(name):
        folder = _download(name)
    if not os.path.isdir(folder):
        raise UserError(f"model {name} does not exist: give `reference`, a diffusers folder or a hub id")
    index = folder / "model_index.json"
    transformer = folder / "transformer" if index.exists() else folder
    if not (transformer / "config.json").is_file():
        raise UserError(f"{folder} is no model: it has neither model_index.json nor config.json")
    config = read_json(transformer / "config.json", "transformer config")
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise UserError(f"{transformer / 'config.json'} is no diffusers config: it names no _class_name")
    form = family(class_of(config))
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    weights = {key: tensor.float() for key, tensor in read_weights(transformer).items()}
    require_finite(weights, f"weights of {transformer}")
    try:
        denoiser = form.from_diffusers(config, weights).eval().requires_grad_(False)
    except UserError as error:
        raise UserError(f"{transformer}: {error}") from None
    pipeline = _pipeline(folder, read_json(index, "pipeline index")) if index.exists() else None
    if pipeline is not None:
        shapes = denoiser.prompt_shapes(1)
        if set(shapes) != {"text"}:
            raise UserError(
                f"{folder}: a {form.source_class} is given {' and '.join(shapes)}, pipelines are supported of a text "
                "alone: give its transformer folder with --inputs instead"
            )
        (width,) = shapes["text"][1:]
        if pipeline.text_encoder.width != width:
            raise UserError(
                f"{folder}: the text encoder gives {pipeline.text_encoder.width} features a token, the transformer "
                f"takes {width}; copy both from one model"
            )
    return Source(name, form.source_class, config, denoiser, pipeline)


def _pipeline(folder: Path, index: object) -> TextToImage:
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"{folder / 'model_index.json'} is no pipeline index: it names no _class_name")
    present = {key for key, value in index.items() if not key.startswith("_") and _names_class(value)}
    if present != {"transformer", *COMPONENTS}:
        raise UserError(
            f"pipeline {folder} has components {', '.join(sorted(present))}; supported are pixel-space pipelines of "
            f"transformer, {', '.join(COMPONENTS)}: give its transformer folder with --inputs instead"
        )
    return TextToImage(folder, **_defaults(index["_class_name"]))


def _names_class(component: object) -> bool:
    """Whether a value of the pipeline index is [library, class]; an absent component is [null, null]."""
    return isinstance(component, list) and len(component) == 2 and None not in component


def _token_length(folder: Path) -> int:
    file = folder / "tokenizer/tokenizer_config.json"
    config = read_json(file, "tokenizer config")
    length = config.get("model_max_length") if isinstance(config, dict) else None
    if type(length) is not int or not 1 <= length <= MAX_TOKENS:
        raise UserError(
            f"tokenizer config {file}: model_max_length is {length!r}, not a number from 1 to {MAX_TOKENS}; set it to "
            "the prompt length that the transformer was trained with"
        )
    return length


def _about(folder: Path) -> tuple[str, list[str]]:
    """Licence and prompts."""
    file = folder / ABOUT
    about = read_json(file, "about") if file.exists() else {}
    about = {"licence": "that of the source model", "prompts": []} | (about if isinstance(about, dict) else {})
    licence, prompts = about["licence"], about["prompts"]
    if not isinstance(licence, str) or not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
        raise UserError(f"{file}: licence must be a string and prompts a list of strings; correct or remove it")
    return licence, prompts


def _defaults(class_name: str) -> dict:
    """Steps and guidance that a pipeline class uses when its caller names none."""
    import diffusers

    from edge_hadanorm.reference.pipeline import ReferencePipeline

    known = getattr(diffusers, class_name, ReferencePipeline)
    parameters = inspect.signature(known.__call__).parameters if isinstance(known, type) else {}
    if not {"num_inference_steps", "guidance_scale"} <= set(parameters):
        raise UserError(
            f"pipeline class {class_name} does not draw prompts with guidance: give its transformer folder with "
            "--inputs instead"
        )
    return {"steps": parameters["num_inference_steps"].default, "guidance": parameters["guidance_scale"].default}


def _download(name: str) -> Path:
    """A hub repository's JSON and safetensors files, through huggingface_hub's own cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model"]))
    except Exception as error:  # network, authorization and naming errors share no base class
        reason = type(error).__name__
        raise UserError(
            f"model {name} is no local folder, and the hub did not give it ({reason}): check the name and the network"
        ) from None
