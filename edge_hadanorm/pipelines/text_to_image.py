"""A pipeline without its transformer: tokenizers, text encoders, decoder, sampling plans, defaults."""

import copy
from pathlib import Path
from types import SimpleNamespace

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json, read_object
from edge_hadanorm.pipelines.autoencoder import ImageDecoder, ImageEncoder
from edge_hadanorm.pipelines.kinds import KINDS, Encoder, Tensors, class_label, suffixed, tokenizer_of
from edge_hadanorm.pipelines.plans import Plan, check_guidance
from edge_hadanorm.pipelines.schedulers import make_scheduler, read_scheduler
from edge_hadanorm.pipelines.text_encoders import PromptTokenizer, TextEncoder

INDEX, ABOUT, LABELS = "model_index.json", "about.json", "classes.json"
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
# More than the noise levels that diffusion models are trained on, and a prompt beyond any text encoder's.
MAX_STEPS = 1000
MAX_TOKENS = 4096


class TextToImage:
    """A pipeline of diffusers without its transformer.

    folder: of the components. kind: the pipeline's class in diffusers. steps, guidance, negative: its defaults. prefix:
    the text before every prompt but a negative one. eta: share of noise, of schedulers that take one; None: their own.
    scheduler: config of another scheduler than the folder's.
    licence, prompts: from the folder's about.json, where it has one: a sentence, and prompts that the model was made
    for; the prompts of a model of classes are their names. image_tokens: of the transformer, see `of_tokens`. Text
    encoders and both halves of the autoencoder are loaded when they are first needed. Raises UserError for a class that
    is not in KINDS and for missing or broken files.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        steps: int,
        guidance: float,
        prefix: str = "",
        negative: str = "",
        eta: float | None = None,
        scheduler: dict | None = None,
    ):
        if kind not in KINDS:
            raise UserError(f"pipelines of class {kind} are not drawn with; those are {', '.join(KINDS)}")
        self.folder, self.class_name, self.kind = folder, kind, KINDS[kind]
        self.steps, self.guidance, self.prefix, self.negative = steps, guidance, prefix, negative
        self.eta = self.kind.eta if eta is None else eta
        self.scheduler = scheduler or read_scheduler(folder / SCHEDULER_CONFIG)
        self.tokenizers = {name: self._tokenizer(name, encoder) for name, encoder in self.kind.encoders.items()}
        self.labels = _labels(folder) if self.kind.labels else None
        for component in self.kind.weights:
            if not any((folder / component).glob("*.safetensors")):
                what = component.replace("_", " ")
                raise UserError(f"{what} {folder / component} has no file such as model.safetensors; copy it again")
        self.image_tokens = 0
        self.lifetime: object = None  # of a temporary folder, which copies share
        self.licence, self.prompts = _about(folder)
        if self.labels and not self.prompts:
            self.prompts = list(self.labels)
        self._encoders: dict[str, TextEncoder] = {}
        self._decoder: ImageDecoder | None = None
        self._image_encoder: ImageEncoder | None = None
        self._encoded: dict[tuple[str, bool], Tensors] = {}

    def _tokenizer(self, name: str, encoder: Encoder) -> PromptTokenizer:
        folder = self.folder / tokenizer_of(name)
        config = _tokenizer_config(folder)
        pad = config.get("pad_token")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        length = encoder.tokens or _token_length(folder, config)
        tokenizer = PromptTokenizer(folder / "tokenizer.json", length, pad, self.kind.lower, self.prefix)
        if self.prefix:  # its end and the prompt's beginning are marked by nothing
            tokenizer.length += len(tokenizer.tokenizer.encode(self.prefix).ids) - 2
        tokenizer.kept = encoder.form.kept(tokenizer.length)
        vocabulary = read_object(self.folder / name / "config.json", "text encoder config").get("vocab_size")
        if isinstance(vocabulary, int) and tokenizer.size > vocabulary:
            raise UserError(
                f"{self.folder}: the tokenizer has {tokenizer.size} words, the text encoder {vocabulary}; copy both "
                "from one model"
            )
        return tokenizer

    @property
    def settings(self) -> dict:
        """Arguments that make this pipeline again from its folder, but for a scheduler that is not the folder's."""
        return {
            "kind": self.class_name,
            "steps": self.steps,
            "guidance": self.guidance,
            "prefix": self.prefix,
            "negative": self.negative,
            "eta": self.eta,
        }

    def of_tokens(self, count: int) -> "TextToImage":
        """Copy this pipeline for pictures of so many tokens, which the schedule of steps may depend on."""
        changed = copy.copy(self)
        changed.image_tokens = count
        return changed

    def with_defaults(
        self,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        eta: float | None = None,
        scheduler: dict | None = None,
    ) -> "TextToImage":
        """Copy this pipeline with other defaults, None: as they are. Raises UserError for what it cannot have."""
        if guidance is not None:
            check_guidance(guidance)
        if eta is not None and not 0 <= eta <= 1:
            raise UserError(f"`eta` is {eta}, not a number from 0 to 1")
        changed = copy.copy(self)
        wanted = {"steps": steps, "guidance": guidance, "negative": negative, "eta": eta, "scheduler": scheduler}
        for name, value in wanted.items():
            if value is not None:
                setattr(changed, name, value)
        changed.check(changed.negative, negative=True)
        changed.plan(changed.steps)
        return changed

    def check(self, prompt: str, negative: bool = False) -> None:
        """Raises UserError for a prompt that cannot be drawn: an unknown class or word, or too long a text."""
        if self.labels is not None:
            class_label(self.labels, prompt)
        for tokenizer in self.tokenizers.values():
            tokenizer(prompt, negative)

    def encoder(self, name: str) -> TextEncoder:
        """Load a text encoder by the name of its folder, once."""
        if name not in self._encoders:
            self._encoders[name] = TextEncoder.load(self.folder / name, self.kind.encoders[name].form)
        return self._encoders[name]

    @property
    def decoder(self) -> ImageDecoder | None:
        """The decoder of the last latents into a picture; None where they are the picture."""
        if self.kind.decoder and self._decoder is None:
            self._decoder = ImageDecoder.load(self.folder / "vae", self.kind.decoder)
        return self._decoder

    @property
    def image_encoder(self) -> ImageEncoder | None:
        """The encoder of a known picture into latents; None where a picture is its latents."""
        if self.kind.decoder and self._image_encoder is None:
            self._image_encoder = ImageEncoder.load(self.folder / "vae", self.kind.decoder)
        return self._image_encoder

    @torch.no_grad()
    def encode(self, prompt: str, negative: bool = False) -> Tensors:
        """Encode a prompt: the encoders' outputs and masks [1, ...] by name, kept for later calls.

        negative: it says what is not wanted. Raises UserError for a prompt that cannot be drawn.
        """
        key = prompt, negative
        if key not in self._encoded:
            self._encoded[key] = (
                self._run_encoders(prompt, negative) if self.labels is None else class_label(self.labels, prompt)
            )
        return self._encoded[key]

    def _run_encoders(self, prompt: str, negative: bool) -> Tensors:
        tensors = {}
        for name, tokenizer in self.tokenizers.items():
            encoder = self.encoder(name)
            inputs = tokenizer.inputs_of(encoder.form, prompt, negative)
            if "mask" in inputs:
                tensors[suffixed(name, "mask")] = inputs["mask"]
            outputs = zip(encoder.widths, encoder(*inputs.values()), strict=True)
            tensors |= {suffixed(name, output): tensor for output, tensor in outputs}
        return tensors

    def prompt(self, prompt: str, negative: bool = False) -> Tensors:
        """Make what the denoiser's `prepare` takes for a prompt: tensors [1, ...] by name."""
        return self.kind.gather(self.encode(prompt, negative))

    def release(self, prompts: list[str]) -> None:
        """Encode these prompts, and forget the text encoders, which may be larger than the transformer."""
        self.encode(self.negative, negative=True)
        for prompt in prompts:
            self.encode(prompt)
        self._encoders.clear()

    def plan(self, steps: int, starts: bool = False) -> Plan:
        """Probe the scheduler for its plan of a number of steps. Raises UserError where it has none.

        starts: with the plans that begin with a known picture.
        """
        if not 1 <= steps <= MAX_STEPS:
            raise UserError(f"`steps`: {steps} is not a number from 1 to {MAX_STEPS}")
        from edge_hadanorm.pipelines.probing import probe, with_starts

        scheduler = make_scheduler(self.scheduler)
        schedule = self.kind.schedule(scheduler.config, self.image_tokens)
        plan = probe(scheduler, steps, self.eta, **schedule)
        return with_starts(plan, scheduler, steps, self.eta, **schedule) if starts else plan


def encoder_shapes(pipeline: TextToImage, name: str) -> Tensors:
    """Outputs of a text encoder, [1, ...] by name, on the meta device, from its config: no weight is read.

    Raises UserError for a config of another class.
    """
    folder, encoder, tokenizer = pipeline.folder / name, pipeline.kind.encoders[name], pipeline.tokenizers[name]
    config = SimpleNamespace(**read_object(folder / "config.json", "text encoder config"))
    try:
        widths = encoder.form.outputs(config)
    except AttributeError as error:
        raise UserError(f"text encoder {folder} is no {encoder.form.model_class}: {error}") from None
    tokens = len(tokenizer.kept[0]) if tokenizer.kept else tokenizer.length
    shapes = {"pooled": lambda width: (1, width), "mask": lambda _: (1, tokens)}
    return {
        suffixed(name, output): torch.empty(
            shapes[output](width) if output in shapes else (1, tokens, width), device="meta"
        )
        for output, width in widths.items()
    }


def encoded_shapes(pipeline: TextToImage) -> Tensors:
    """Tensors of the names and shapes that `TextToImage.encode` gives, on the meta device."""
    if pipeline.labels is not None:
        return {"label": torch.empty(1, device="meta")}
    tensors = {}
    for name, encoder in pipeline.kind.encoders.items():
        if encoder.form.masked:
            tensors[suffixed(name, "mask")] = torch.empty(1, pipeline.tokenizers[name].length, device="meta")
        tensors |= encoder_shapes(pipeline, name)
    return tensors


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
    """Read the numbers of classes by the first of their names, of the pipeline's index or a checkpoint's copy of it."""
    file = folder / LABELS if (folder / LABELS).exists() else folder / INDEX
    index = read_json(file, "class names")
    listed = index.get("id2label") if isinstance(index, dict) else None
    names: dict[str, str] = listed if isinstance(listed, dict) else {}
    numbers = {str(i) for i in range(len(names))}
    if not numbers or set(names) != numbers or not all(isinstance(name, str) and name for name in names.values()):
        raise UserError(f"{file} has no id2label with a name for every class, counted from 0")
    labels: dict[str, int] = {}
    for number in sorted(map(int, names)):
        name = names[str(number)].split(",")[0].strip()
        labels[name if name not in labels else f"{name} ({number})"] = number
    return labels


def _about(folder: Path) -> tuple[str, list[str]]:
    """Read the licence and the prompts of a model, with defaults where the folder has no about.json."""
    file = folder / ABOUT
    content = read_json(file, "about") if file.exists() else {}
    about = {"licence": "that of the source model", "prompts": []} | (content if isinstance(content, dict) else {})
    licence, prompts = about["licence"], about["prompts"]
    if not isinstance(licence, str) or not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
        raise UserError(f"{file}: licence must be a string and prompts a list of strings; correct or remove it")
    return licence, prompts
