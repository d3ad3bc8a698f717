"""Prompts to token ids and text states."""

import textwrap
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json, require_finite


class PromptTokenizer:
    """A tokenizer.json at a fixed length."""

    def __init__(self, file: Path, length: int):
        if not file.is_file():
            raise UserError(f"{file} does not exist; AutoTokenizer.from_pretrained(X).save_pretrained(X) makes one")
        try:
            self.tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{file} is not a tokenizer.json: {error}; copy it again") from None
        self.length = length
        self.pad_id = (self.tokenizer.padding or {"pad_id": 0})["pad_id"]
        self.size = self.tokenizer.get_vocab_size()
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()  # too long a prompt is answered, not cut
        unknown = read_json(file, "tokenizer")["model"].get("unk_token")
        self.unknown_id = None if unknown is None else self.tokenizer.token_to_id(unknown)

    def __call__(self, prompt: str) -> list[int]:
        """`length` ids. Raises UserError for words that it does not know and for too many."""
        encoding = self.tokenizer.encode(prompt)
        short = textwrap.shorten(prompt, 60, placeholder=" ...")
        if self.unknown_id in encoding.ids:
            start, end = encoding.offsets[encoding.ids.index(self.unknown_id)]
            word = prompt[start:end]
            raise UserError(f"prompt {short!r}: the model does not know the word {word!r}; `inspect` lists its words")
        if len(encoding.ids) > self.length:
            count = len(encoding.ids)
            raise UserError(f"prompt {short!r}: {count} tokens, the model takes at most {self.length}; shorten it")
        return encoding.ids + [self.pad_id] * (self.length - len(encoding.ids))

    def words(self) -> list[str]:
        """The vocabulary in order of id."""
        vocabulary = self.tokenizer.get_vocab()
        return sorted(vocabulary, key=vocabulary.get)


class TextEncoder(nn.Module):
    """A transformers text encoder as a function of ids alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @classmethod
    def load(cls, folder: Path) -> "TextEncoder":
        """From a folder that transformers saved, safetensors only, in float32.

        Raises UserError for what is missing, broken or not finite.
        """
        from transformers import T5EncoderModel  # slow to import, and only needed where prompts are

        try:
            model, report = T5EncoderModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # transformers raises whatever the file made it raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"text encoder {folder} cannot be loaded: {reason}; copy it again") from None
        if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
            raise UserError(f"text encoder {folder}: tensor {missing[0]!r} is missing; copy it again")
        require_finite(model.state_dict(), f"weights of text encoder {folder}")
        return cls(model.eval().requires_grad_(False))

    @property
    def width(self) -> int:
        """Features a token."""
        return self.model.config.d_model

    @property
    def vocabulary(self) -> int:
        """Ids that it knows, from 0."""
        return self.model.config.vocab_size

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids int64 [B, L] -> states [B, L, C]."""
        return self.model(input_ids=ids).last_hidden_state
