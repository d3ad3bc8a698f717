"""The model to quantize: the reference, a diffusers pipeline folder, a transformer folder, or a hub id of either."""

import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from edge_hadanorm.console import say
from edge_hadanorm.decoder import ImageDecoder
from edge_hadanorm.errors import UserError
from edge_hadanorm.files import Weights, read_json, read_shapes, read_weights
from edge_hadanorm.models import FAMILIES, class_of, family
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines import KINDS, Encoder, Tensors, class_rows, suffixed, tokenizer_of
from edge_hadanorm.sampling import SamplerTable, probe
from edge_hadanorm.text import PromptTokenizer, TextEncoder

REFERENCE = Path(__file__).parent / "reference" / "weights"
INDEX, ABOUT, LABELS = "model_index.json", "about.json", "classes.json"
# More than the noise levels that diffusion models are trained on, and a prompt beyond any text encoder's.
MAX_STEPS = 1000
MAX_TOKENS = 4096
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class TextToImage:
    """What a pipeline has besides its transformer, and how it is used.

    folder: of the components. kind: the pipeline's class in diffusers. steps, guidance: its defaults. licence, prompts:
    from the folder's about.json, where it has one: a sentence, and prompts that the model was made for; the prompts of
    a model of classes are their names. Text encoders and decoder are loaded when they are first asked.
    """

    def __init__(self, folder: Path, kind: str, steps: int, guidance: float, prefix: str = ""):
        if kind not in KINDS:
            raise UserError(f"pipelines of class {kind} are not drawn with; those are {', '.join(KINDS)}")
        self.folder, self.class_name, self.kind = folder, kind, KINDS[kind]
        self.steps, self.guidance, self.prefix = steps, guidance, prefix
        self.tokenizers = {name: self._tokenizer(name, encoder) for name, encoder in self.kind.encoders.items()}
        self.labels = _labels(folder) if self.kind.labels else None
        for component in self.kind.weights:
            if not any((folder / component).glob("*.safetensors")):
                what = component.replace("_", " ")
                raise UserError(f"{what} {folder / component} has no file such as model.safetensors; copy it again")
        self.licence, self.prompts = _about(folder)
        if self.labels and not self.prompts:
            self.prompts = list(self.labels)
        self._encoders: dict[str, TextEncoder] = {}
        self._decoder: ImageDecoder | None = None
        self._given: dict[str, Tensors] = {}

    def _tokenizer(self, name: str, encoder: Encoder) -> PromptTokenizer:
        folder = self.folder / tokenizer_of(name)
        config = _tokenizer_config(folder)
        pad = config.get("pad_token")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        length = encoder.tokens or _token_length(folder, config)
        tokenizer = PromptTokenizer(folder / "tokenizer.json", length, pad, self.kind.lower, self.prefix)
        if self.prefix:  # its end and the prompt's beginning are marked by nothing
            tokenizer.length += len(tokenizer.tokenizer.encode(self.prefix).ids) - 2
        vocabulary = read_json(self.folder / name / "config.json", "text encoder config").get("vocab_size")
        if isinstance(vocabulary, int) and tokenizer.size > vocabulary:
            raise UserError(
                f"{self.folder}: the tokenizer has {tokenizer.size} words, the text encoder {vocabulary}; copy both "
                "from one model"
            )
        return tokenizer

    @property
    def settings(self) -> dict:
        """What makes it again of its folder."""
        return {"kind": self.class_name, "steps": self.steps, "guidance": self.guidance, "prefix": self.prefix}

    def check(self, prompt: str) -> None:
        """Raises UserError for a prompt that it cannot draw."""
        if self.labels is not None:
            class_rows(self.labels, prompt)
        for tokenizer in self.tokenizers.values():
            tokenizer(prompt)

    def encoder(self, name: str) -> TextEncoder:
        """A text encoder by its folder."""
        if name not in self._encoders:
            self._encoders[name] = TextEncoder.load(self.folder / name, self.kind.encoders[name].form)
        return self._encoders[name]

    @property
    def decoder(self) -> ImageDecoder | None:
        """What makes a picture of the last latents; None where those are the picture."""
        if self.kind.decoder and self._decoder is None:
            self._decoder = ImageDecoder.load(self.folder / "vae", self.kind.decoder)
        return self._decoder

    @torch.no_grad()
    def given(self, prompt: str) -> Tensors:
        """What the encoders give of the empty prompt and of this one, [2, ...] by name, with the masks they take."""
        if prompt not in self._given:
            classes = self.labels is not None
            self._given[prompt] = class_rows(self.labels, prompt) if classes else self._encoded(prompt)
        return self._given[prompt]

    def _encoded(self, prompt: str) -> Tensors:
        given = {}
        for name, tokenizer in self.tokenizers.items():
            encoder, (ids, mask) = self.encoder(name), tokenizer.rows(prompt)
            if encoder.form.masked:
                given[suffixed(name, "mask")] = mask
                outputs = encoder(ids, mask)
            else:
                outputs = encoder(ids)
            given |= {suffixed(name, output): tensor for output, tensor in zip(encoder.widths, outputs, strict=True)}
        return given

    def prompt(self, prompt: str) -> Tensors:
        """What the denoiser's `prepare` takes of it, [2, ...] by name."""
        return self.kind.gather(self.given(prompt))

    def release(self, prompts: list[str]) -> None:
        """Encode these prompts, and forget the text encoders, which may be larger than the transformer."""
        for prompt in prompts:
            self.given(prompt)
        self._encoders.clear()

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
    denoiser: Denoiser
    pipeline: TextToImage | None


def load(name: str) -> Source:
    """The model of a name, in float32. Raises UserError for what is missing, broken, unsupported or not finite."""
    found = _find(name)
    return _made(found, Weights(found.transformer))


def outline(name: str) -> Source:
    """The same on the meta device, of config and headers alone: no weight is read."""
    found = _find(name)
    return _made(found, read_weights(found.transformer, read=read_shapes))


@dataclass(frozen=True)
class _Found:
    """Where a model lies: its folder, that of its transformer, and whose config that has."""

    name: str
    folder: Path
    transformer: Path
    form: type[Denoiser]
    config: dict


def _find(name: str) -> _Found:
    folder = REFERENCE if name == "reference" else Path(name)
    if not os.path.exists(folder) and _HUB_ID.fullmatch(name):
        folder = _download(name)
    if not os.path.isdir(folder):
        what = "is a file" if os.path.isfile(folder) else "does not exist"
        raise UserError(f"model {name} {what}: give `reference`, a diffusers folder or a hub id")
    transformer = folder / "transformer" if (folder / INDEX).exists() else folder
    if not (transformer / "config.json").is_file():
        raise UserError(f"{folder} is no model: it has neither {INDEX} nor config.json; give a diffusers folder")
    config = read_json(transformer / "config.json", "transformer config")
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        config_file = transformer / "config.json"
        raise UserError(f"{config_file} is no diffusers config: it names no _class_name; give a float model's folder")
    form = family(class_of(config))
    if form.source_class not in FAMILIES:
        say(
            f"edge-hadanorm: {form.source_class} has no form of its own: its linears are quantized where they are, "
            "nothing is folded"
        )
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    return _Found(name, folder, transformer, form, config)


def _made(found: _Found, weights: Mapping[str, torch.Tensor]) -> Source:
    try:
        denoiser = found.form.from_diffusers(found.config, weights).eval().requires_grad_(False)
    except UserError as error:
        raise UserError(f"{found.transformer}: {error}") from None
    index = found.folder / INDEX
    pipeline = _pipeline(found.folder, read_json(index, "pipeline index")) if index.exists() else None
    if pipeline is not None:
        _check_pipeline(found.folder, denoiser, pipeline)
    return Source(found.name, found.form.source_class, found.config, denoiser, pipeline)


def encoded(pipeline: TextToImage, name: str) -> Tensors:
    """What `encode` of a text encoder gives, [2, ...] by name, on the meta device; it is not loaded for that."""
    folder, encoder, tokens = pipeline.folder / name, pipeline.kind.encoders[name], pipeline.tokenizers[name].length
    config = SimpleNamespace(**read_json(folder / "config.json", "text encoder config"))
    try:
        widths = encoder.form.outputs(config)
    except AttributeError as error:
        raise UserError(f"text encoder {folder} is no {encoder.form.model_class}: {error}") from None
    tokens = min(tokens, encoder.form.most or tokens)
    shapes = {"pooled": lambda width: (2, width), "mask": lambda _: (2, tokens)}
    return {
        suffixed(name, output): torch.empty(
            shapes[output](width) if output in shapes else (2, tokens, width), device="meta"
        )
        for output, width in widths.items()
    }


def outputs(pipeline: TextToImage) -> Tensors:
    """What `given` gives, on the meta device."""
    if pipeline.labels is not None:
        return {"label": torch.empty(2, device="meta")}
    made = {}
    for name, encoder in pipeline.kind.encoders.items():
        if encoder.form.masked:
            made[suffixed(name, "mask")] = torch.empty(2, pipeline.tokenizers[name].length, device="meta")
        made |= encoded(pipeline, name)
    return made


def _check_pipeline(folder: Path, denoiser: Denoiser, pipeline: TextToImage) -> None:
    """Raises UserError where what encoders give is not what the denoiser takes."""
    found = pipeline.kind.gather(outputs(pipeline))
    wanted = denoiser.prompt_shapes(1)
    if foreign := sorted(set(wanted) ^ (set(found) - {"mask"})):
        raise UserError(
            f"{folder}: a {denoiser.source_class} is given {' and '.join(wanted)} and a {pipeline.class_name} has "
            f"{' and '.join(found)} ({foreign[0]} is not in both): give its transformer folder with --inputs instead"
        )
    if pipeline.labels is not None and len(pipeline.labels) != denoiser.classes:
        raise UserError(
            f"{folder}: {len(pipeline.labels)} classes have names, the transformer knows {denoiser.classes}; copy both "
            "from one model"
        )
    for name, shape in wanted.items():
        if shape and found[name].shape[-1] != shape[-1]:
            raise UserError(
                f"{folder}: the text encoder gives {found[name].shape[-1]} features of {name}, the transformer takes "
                f"{shape[-1]}; copy both from one model"
            )


def _pipeline(folder: Path, index: object) -> TextToImage:
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"{folder / INDEX} is no pipeline index: it names no _class_name")
    kind = index["_class_name"]
    if kind not in KINDS:
        raise UserError(
            f"pipeline class {kind} is not drawn with, only {', '.join(KINDS)}: give its transformer folder with "
            "--inputs instead"
        )
    present = {key for key, value in index.items() if not key.startswith("_") and _names_class(value)}
    needed = {"transformer", *KINDS[kind].components}
    if missing := sorted(needed - present):
        raise UserError(
            f"pipeline {folder} has no {missing[0]}, which {kind} needs: copy it whole, or give its transformer folder "
            "with --inputs"
        )
    if foreign := sorted(present - needed):
        raise UserError(
            f"pipeline {folder} has a component {foreign[0]}, of which nothing is known here for {kind}: set it to "
            "[null, null] in model_index.json, or give its transformer folder with --inputs"
        )
    return TextToImage(folder, kind, **_defaults(kind))


def _names_class(component: object) -> bool:
    """Whether a value of the pipeline index is [library, class]; an absent component is [null, null]."""
    return isinstance(component, list) and len(component) == 2 and None not in component


def _tokenizer_config(folder: Path) -> dict:
    config = read_json(folder / "tokenizer_config.json", "tokenizer config")
    return config if isinstance(config, dict) else {}


def _token_length(folder: Path, config: dict) -> int:
    length = config.get("model_max_length")
    if type(length) is not int or not 1 <= length <= MAX_TOKENS:
        raise UserError(
            f"tokenizer config {folder / 'tokenizer_config.json'}: model_max_length is {length!r}, not a number from 1 "
            f"to {MAX_TOKENS}; set it to the prompt length that the transformer was trained with"
        )
    return length


def _labels(folder: Path) -> dict[str, int]:
    """Numbers of classes by the first of their names, from the pipeline's index or from the checkpoint's copy of it."""
    file = folder / LABELS if (folder / LABELS).exists() else folder / INDEX
    index = read_json(file, "class names")
    names = index.get("id2label") if isinstance(index, dict) else None
    numbers = {str(i) for i in range(len(names))} if isinstance(names, dict) else set()
    if not numbers or set(names) != numbers or not all(isinstance(name, str) and name for name in names.values()):
        raise UserError(f"{file} has no id2label with a name for every class, counted from 0")
    labels: dict[str, int] = {}
    for number in sorted(map(int, names)):
        name = names[str(number)].split(",")[0].strip()
        labels[name if name not in labels else f"{name} ({number})"] = number
    return labels


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
    """Steps, guidance and the text before a prompt that a pipeline class uses when its caller names none."""
    import diffusers

    from edge_hadanorm.reference.pipeline import ReferencePipeline

    known = getattr(diffusers, class_name, ReferencePipeline)
    defaults = {name: p.default for name, p in inspect.signature(known.__call__).parameters.items()}
    return {
        "steps": defaults["num_inference_steps"],
        "guidance": defaults["guidance_scale"],
        "prefix": "\n".join(defaults.get("complex_human_instruction") or []),
    }


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
