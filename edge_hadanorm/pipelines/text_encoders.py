"""Tokenizers and text encoders: prompts to token ids and text states."""

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_object
from edge_hadanorm.tensor_files import require_finite

# Tokens of a prompt, with the instruction before it, that Sana's transformer takes.
KEPT = 300
# An encoder of more bytes on disk is loaded in this dtype: float32 is for models that fit a workstation twice.
LARGE_BYTES, LARGE_DTYPE = 4 << 30, torch.bfloat16


class PromptTokenizer:
    """A tokenizer.json at a fixed length.

    pad, pad_id: the padding token or its id, else the file's own. lower: prompts are lower-cased and stripped first.
    prefix: stands before every prompt but a negative one. kept: places of the states that an encoder gives of a prompt,
    and of a negative one, which has at most so many ids; None: all. Raises UserError for a missing or broken file.
    """

    def __init__(
        self,
        file: Path,
        length: int,
        pad: str | None = None,
        lower: bool = False,
        prefix: str = "",
        pad_id: int | None = None,
        kept: tuple[list[int], list[int]] | None = None,
    ):
        if not file.is_file():
            raise UserError(f"{file} does not exist; AutoTokenizer.from_pretrained(X).save_pretrained(X) makes one")
        try:
            self.tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{file} is not a tokenizer.json: {error}; copy it again") from None
        self.length, self.lower, self.prefix, self.kept = length, lower, prefix, kept
        self.pad_id = (self.tokenizer.padding or {"pad_id": 0})["pad_id"]
        if pad_id is None and pad is not None:
            pad_id = self.tokenizer.token_to_id(pad)
        if pad_id is not None:
            self.pad_id = pad_id
        self.size = self.tokenizer.get_vocab_size()
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()  # too long a prompt is answered, not cut
        unknown = read_object(file, "tokenizer")["model"].get("unk_token")
        self.unknown_id = None if unknown is None else self.tokenizer.token_to_id(unknown)

    def __call__(self, prompt: str, negative: bool = False) -> list[int]:
        """Tokenize a prompt to `length` ids. Raises UserError for unknown words, too many, and what is no text."""
        ids = self._ids(prompt, negative)
        return ids + [self.pad_id] * (self.length - len(ids))

    def inputs(self, prompt: str, negative: bool = False) -> dict[str, torch.Tensor]:
        """Make inputs of a text encoder by name: ids int64 [1, length], mask float32 (0: padding), and kept int64 [n].

        negative: the prompt says what is not wanted. kept is there where not all states are.
        """
        ids = self._ids(prompt, negative)
        padding = self.length - len(ids)
        made = {
            "ids": torch.tensor([ids + [self.pad_id] * padding]),
            "mask": torch.tensor([[1.0] * len(ids) + [0.0] * padding]),
        }
        return made | ({"kept": torch.tensor(self.kept[negative])} if self.kept else {})

    def _ids(self, prompt: str, negative: bool) -> list[int]:
        short = textwrap.shorten(prompt, 60, placeholder=" ...")
        text = ("" if negative else self.prefix) + (prompt.lower().strip() if self.lower else prompt)
        try:
            encoding = self.tokenizer.encode(text)
        except Exception as error:  # of what is no UTF-8, and of a file that is no good: tokenizers raises whatever
            raise UserError(f"prompt {short!r} cannot be tokenized: {error}; write it in UTF-8") from None
        for id, special, (start, end) in zip(encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True):
            if id == self.unknown_id and not special:
                raise UserError(
                    f"prompt {short!r}: the model does not know the word {text[start:end]!r}; `inspect` lists its words"
                )
        most = len(self.kept[1]) if self.kept and negative else self.length
        if (count := len(encoding.ids)) > most:
            raise UserError(f"prompt {short!r}: {count} tokens, the model takes at most {most}; shorten it")
        return encoding.ids

    def inputs_of(self, form: "EncoderForm", prompt: str, negative: bool = False) -> dict[str, torch.Tensor]:
        """Make those inputs that a text encoder of this form takes, in its order."""
        made = self.inputs(prompt, negative)
        return {name: tensor for name, tensor in made.items() if form.masked or name == "ids"}

    def words(self) -> list[str]:
        """List the vocabulary in order of id."""
        vocabulary = self.tokenizer.get_vocab()
        return sorted(vocabulary, key=vocabulary.__getitem__)


@dataclass(frozen=True)
class EncoderForm:
    """The way to call a text encoder of transformers.

    model_class: its class. masked: whether it takes the mask of tokens. outputs(config) -> the outputs of `encode` by
    name, with the features of a token or prompt. encode(model, ids [B, L], mask [B, L] or None, kept or none) -> those
    tensors. kept(length) -> places of the states that are given of a prompt, and of a negative one; None: all.
    """

    model_class: str
    masked: bool
    outputs: Callable[[Any], dict[str, int]]
    encode: Callable[..., tuple[torch.Tensor, ...]]
    kept: Callable[[int], tuple[list[int], list[int]] | None] = lambda length: None


def _states(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor]:
    return (model(input_ids=ids, attention_mask=mask).last_hidden_state,)


def _penultimate_and_pooled(model: nn.Module, ids: torch.Tensor, mask: None) -> tuple[torch.Tensor, torch.Tensor]:
    output = model(input_ids=ids, output_hidden_states=True)
    return output.hidden_states[-2], output.text_embeds


def _masked_states(
    model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, kept: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """States and mask of the tokens at the kept places."""
    (states,) = _states(model, ids, mask)
    return (states, mask) if kept is None else (states.index_select(1, kept), mask.index_select(1, kept))


def after_instruction(length: int) -> tuple[list[int], list[int]] | None:
    """Places of the tokens that Sana takes (arXiv 2410.10629, section 3.1) of a prompt and of a negative one.

    Of the instruction before a prompt it takes the first token alone. None where it takes all.
    """
    return ([0, *range(length - KEPT + 1, length)], [*range(KEPT)]) if length > KEPT else None


T5 = EncoderForm("T5EncoderModel", False, lambda config: {"text": config.d_model}, _states)
MASKED_T5 = EncoderForm("T5EncoderModel", True, lambda config: {"text": config.d_model}, _states)
GEMMA = EncoderForm(
    "Gemma2Model",
    True,
    lambda config: {"text": config.hidden_size, "mask": 0},
    _masked_states,
    kept=after_instruction,
)
CLIP = EncoderForm(
    "CLIPTextModelWithProjection",
    False,
    lambda config: {"text": config.hidden_size, "pooled": config.projection_dim},
    _penultimate_and_pooled,
)


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Keep transformers from showing one while inside."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


class TextEncoder(nn.Module):
    """A transformers text encoder as a function of ids, and of their mask where its form takes one."""

    def __init__(self, model: Any, form: EncoderForm):
        super().__init__()
        self.model, self.form = model, form

    @classmethod
    def load(cls, folder: Path, form: EncoderForm) -> "TextEncoder":
        """Load a folder that transformers saved, safetensors only, in float32, or bfloat16 where it is large.

        Raises UserError for what is missing, broken or not finite.
        """
        import transformers  # slow to import, and only needed where prompts are

        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        try:
            with _without_progress_bar():
                model, report = getattr(transformers, form.model_class).from_pretrained(
                    folder,
                    use_safetensors=True,
                    dtype=LARGE_DTYPE if size > LARGE_BYTES else torch.float32,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except Exception as error:  # transformers raises whatever the file made it raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"text encoder {folder} cannot be loaded: {reason}; copy it again") from None
        if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
            raise UserError(f"text encoder {folder}: tensor {missing[0]!r} is missing; copy it again")
        require_finite(model.state_dict(), f"weights of text encoder {folder}")
        return cls(model.eval().requires_grad_(False), form)

    @property
    def widths(self) -> dict[str, int]:
        """Features of each output by its name."""
        return self.form.outputs(self.model.config)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor | None = None, *kept: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Encode ids int64 [B, L]: float32 tensors in the order of `widths`, states [B, L or those kept, C] first."""
        return tuple(tensor.float() for tensor in self.form.encode(self.model, ids, mask, *kept))
