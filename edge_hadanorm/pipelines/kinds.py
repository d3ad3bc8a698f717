"""The pipelines of diffusers that can be drawn with, one row a class: prompts, the last latents, defaults."""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.text_encoders import CLIP, GEMMA, MASKED_T5, T5, EncoderForm

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Encoder:
    """One text encoder of a pipeline.

    tokens: the length of a prompt in ids, with padding; None: the tokenizer's own model_max_length.
    """

    form: EncoderForm
    tokens: int | None = None


def as_given(encoded: Tensors) -> Tensors:
    """Pass a single encoder's output on to the transformer as it is."""
    return encoded


def join_clip_and_t5(encoded: Tensors) -> Tensors:
    """Join three encoders as Stable Diffusion 3 does (arXiv 2403.03206, section 5.1).

    The states of both CLIPs stand side by side, padded to T5's width, and T5's follow them: text [B, 77 + 256, 4096],
    pooled [B, 2048] in the released model.
    """
    clip = torch.cat([encoded["text"], encoded["text_2"]], dim=-1)
    clip = F.pad(clip, (0, encoded["text_3"].shape[-1] - clip.shape[-1]))
    pooled = torch.cat([encoded["pooled"], encoded["pooled_2"]], dim=-1)
    return {"text": torch.cat([clip, encoded["text_3"]], dim=1), "pooled": pooled}


def nothing(settings: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Give set_timesteps nothing but the number of steps."""
    return {}


def dynamic_shift(settings: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Give set_timesteps the shift `mu` of a picture of so many tokens, where its scheduler shifts dynamically.

    It is linear in the tokens (`calculate_shift` of diffusers).
    """
    if not settings.get("use_dynamic_shifting"):
        return {}
    fewest, most = settings.get("base_image_seq_len", 256), settings.get("max_image_seq_len", 4096)
    low, high = settings.get("base_shift", 0.5), settings.get("max_shift", 1.16)
    slope = (high - low) / (most - fewest)
    return {"mu": tokens * slope + low - slope * fewest}


@dataclass(frozen=True)
class Kind:
    """A pipeline class of diffusers.

    encoders: by folder; the tokenizer's folder is named like it. Outputs of the second are named text_2 and so on.
    steps, guidance, negative, prefix: the sampler steps, the classifier-free guidance, the negative prompt and the text
    before every prompt but that, which the class takes when its caller names none. eta: the share of noise that it
    gives to schedulers that take one; None: it gives none, and their own holds. schedule: what it gives to
    set_timesteps besides the number of steps, of the scheduler's settings and the picture's tokens. gather: makes what
    `Denoiser.prepare` takes from the encoders' outputs and masks. lower: prompts are lower-cased. decoder: the class of
    the autoencoder in `vae`, None for pixel-space models. labels: prompts are names of classes, not texts.
    """

    encoders: dict[str, Encoder]
    steps: int
    guidance: float
    negative: str = ""
    eta: float | None = None
    prefix: str = ""
    schedule: Callable[[Mapping[str, Any], int], dict[str, Any]] = nothing
    gather: Callable[[Tensors], Tensors] = as_given
    lower: bool = False
    decoder: str | None = None
    labels: bool = False

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the folders with weights, besides the transformer's."""
        return (*self.encoders, *(("vae",) if self.decoder else ()))

    @property
    def components(self) -> tuple[str, ...]:
        """Names of all folders besides the transformer's."""
        return (*map(tokenizer_of, self.encoders), *self.weights, "scheduler")


def tokenizer_of(encoder: str) -> str:
    """Name the folder of an encoder's tokenizer."""
    return encoder.replace("text_encoder", "tokenizer")


def suffixed(encoder: str, name: str) -> str:
    """Name an encoder's input or output among those of all encoders: `text` of text_encoder_2 is text_2."""
    return name + encoder.removeprefix("text_encoder")


def class_label(labels: dict[str, int], prompt: str) -> Tensors:
    """Look up the class that a prompt names: label [1], its number; of the empty prompt that of no class.

    Raises UserError for a prompt that is no class.
    """
    if prompt and prompt not in labels:
        some = textwrap.shorten(", ".join(labels), 200, placeholder=" ...")
        raise UserError(f"prompt {prompt!r} is no class of the model; classes: {some}")
    return {"label": torch.tensor([float(labels.get(prompt, len(labels)))])}


KL, DC = "AutoencoderKL", "AutoencoderDC"
# Sana's `complex_human_instruction` (arXiv 2410.10629, section 3.1), its lines joined.
SANA_INSTRUCTION = (
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
    "generation. Evaluate the level of detail in the user prompt:\n"
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
    "relationships to create vivid and concrete scenes.\n"
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.\n"
    "Here are examples of how to transform or refine prompts:\n"
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
    "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n"
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
    "skyscrapers.\n"
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:\n"
    "User Prompt: "
)
# By class name. Steps, guidance and prefix are the defaults of `__call__` in diffusers 0.42.1.
KINDS = {
    "ReferencePipeline": Kind({"text_encoder": Encoder(T5)}, steps=8, guidance=1.5),
    "PixArtAlphaPipeline": Kind(
        {"text_encoder": Encoder(MASKED_T5, 120)}, steps=20, guidance=4.5, eta=0.0, lower=True, decoder=KL
    ),
    "PixArtSigmaPipeline": Kind(
        {"text_encoder": Encoder(MASKED_T5, 300)}, steps=20, guidance=4.5, eta=0.0, lower=True, decoder=KL
    ),
    "StableDiffusion3Pipeline": Kind(
        {"text_encoder": Encoder(CLIP, 77), "text_encoder_2": Encoder(CLIP, 77), "text_encoder_3": Encoder(T5, 256)},
        steps=28,
        guidance=7.0,
        schedule=dynamic_shift,
        gather=join_clip_and_t5,
        decoder=KL,
    ),
    "SanaPipeline": Kind(
        {"text_encoder": Encoder(GEMMA, 300)},
        steps=20,
        guidance=4.5,
        eta=0.0,
        prefix=SANA_INSTRUCTION,
        lower=True,
        decoder=DC,
    ),
    "DiTPipeline": Kind({}, steps=50, guidance=4.0, decoder=KL, labels=True),
}
