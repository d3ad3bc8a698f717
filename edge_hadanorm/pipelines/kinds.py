"""The pipelines of diffusers that can be drawn with: what each makes of a prompt, and of the last latents."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.text_encoders import CLIP, GEMMA, MASKED_T5, T5, EncoderForm

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Encoder:
    """One text encoder. tokens: of a prompt, padding and all; None: the tokenizer's own model_max_length."""

    form: EncoderForm
    tokens: int | None = None


def as_given(given: Tensors) -> Tensors:
    """What a single encoder says is what the transformer takes."""
    return given


def joined(given: Tensors) -> Tensors:
    """Stable Diffusion 3 (arXiv 2403.03206, section 5.1): both CLIPs side by side, padded to T5's width, then T5."""
    clip = torch.cat([given["text"], given["text_2"]], dim=-1)
    clip = F.pad(clip, (0, given["text_3"].shape[-1] - clip.shape[-1]))
    pooled = torch.cat([given["pooled"], given["pooled_2"]], dim=-1)
    return {"text": torch.cat([clip, given["text_3"]], dim=1), "pooled": pooled}


@dataclass(frozen=True)
class Kind:
    """A pipeline class of diffusers.

    encoders: by folder; the tokenizer's folder is named like it. Outputs of the second are named text_2 and so on.
    gather: what `Denoiser.prepare` takes of them, and of the masks. lower: prompts are lower-cased. decoder: the class
    of the autoencoder in `vae`, None for pixel-space models. labels: prompts are names of classes, not texts.
    """

    encoders: dict[str, Encoder]
    gather: Callable[[Tensors], Tensors] = as_given
    lower: bool = False
    decoder: str | None = None
    labels: bool = False

    @property
    def weights(self) -> tuple[str, ...]:
        """Folders with weights, besides the transformer's."""
        return (*self.encoders, *(("vae",) if self.decoder else ()))

    @property
    def components(self) -> tuple[str, ...]:
        """All folders besides the transformer's."""
        return (*map(tokenizer_of, self.encoders), *self.weights, "scheduler")


def tokenizer_of(encoder: str) -> str:
    """The folder of an encoder's tokenizer."""
    return encoder.replace("text_encoder", "tokenizer")


def suffixed(encoder: str, name: str) -> str:
    """An encoder's input or output among those of all encoders."""
    return name + encoder.removeprefix("text_encoder")


def class_rows(labels: dict[str, int], prompt: str) -> Tensors:
    """The numbers [2] of no class and of the class that a prompt names. Raises UserError where it names none."""
    if prompt and prompt not in labels:
        some = textwrap.shorten(", ".join(labels), 200, placeholder=" ...")
        raise UserError(f"prompt {prompt!r} is no class of the model; classes: {some}")
    return {"label": torch.tensor([float(len(labels)), float(labels.get(prompt, len(labels)))])}


KL, DC = "AutoencoderKL", "AutoencoderDC"
KINDS = {
    "ReferencePipeline": Kind({"text_encoder": Encoder(T5)}),
    "PixArtAlphaPipeline": Kind({"text_encoder": Encoder(MASKED_T5, 120)}, lower=True, decoder=KL),
    "PixArtSigmaPipeline": Kind({"text_encoder": Encoder(MASKED_T5, 300)}, lower=True, decoder=KL),
    "StableDiffusion3Pipeline": Kind(
        {"text_encoder": Encoder(CLIP, 77), "text_encoder_2": Encoder(CLIP, 77), "text_encoder_3": Encoder(T5, 256)},
        gather=joined,
        decoder=KL,
    ),
    "SanaPipeline": Kind({"text_encoder": Encoder(GEMMA, 300)}, lower=True, decoder=DC),
    "DiTPipeline": Kind({}, decoder=KL, labels=True),
}
