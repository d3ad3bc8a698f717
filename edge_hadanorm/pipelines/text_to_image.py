"""What a pipeline has besides its transformer: tokenizers, text encoders, decoder, sampler tables, defaults."""

from pathlib import Path
from types import SimpleNamespace

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json
from edge_hadanorm.pipelines.decoder import ImageDecoder
from edge_hadanorm.pipelines.kinds import KINDS, Encoder, Tensors, class_rows, suffixed, tokenizer_of
from edge_hadanorm.pipelines.sampling import SamplerTable, probe
from edge_hadanorm.pipelines.text_encoders import PromptTokenizer, TextEncoder

INDEX, ABOUT, LABELS = "model_index.json", "about.json", "classes.json"
# More than the noise levels that diffusion models are trained on, and a prompt beyond any text encoder's.
MAX_STEPS = 1000
MAX_TOKENS = 4096


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
