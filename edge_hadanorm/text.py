"""Prompts to token ids and text states."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json


class PromptTokenizer:
    """A tokenizer.json at a fixed length."""

    def __init__(self, file: Path, length: int):
        try:
            self.tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{file} is not a tokenizer.json: {error}") from None
        self.length = length
        self.pad_id = (self.tokenizer.padding or {"pad_id": 0})["pad_id"]
        unknown = read_json(file, "tokenizer")["model"].get("unk_token")
        self.unknown_id = None if unknown is None else self.tokenizer.token_to_id(unknown)

    def __call__(self, prompt: str) -> list[int]:
        """`length` ids. Raises UserError for words that it does not know and for too many."""
        self.tokenizer.no_padding()
        encoding = self.tokenizer.encode(prompt)
        if self.unknown_id in encoding.ids:
            start, end = encoding.offsets[encoding.ids.index(self.unknown_id)]
            raise UserError(
                f"prompt: the model does not know the word {prompt[start:end]!r}; `inspect` lists its words"
            )
        if len(encoding.ids) > self.length:
            raise UserError(f"prompt: {len(encoding.ids)} tokens, the model takes at most {self.length}; shorten it")
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
        """From a folder that transformers saved, safetensors only, in float32."""
        from transformers import T5EncoderModel  # slow to import, and only needed where prompts are

        try:
            model = T5EncoderModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, local_files_only=True
            )
        except Exception as error:  # transformers raises whatever the file made it raise
            raise UserError(f"text encoder {folder} cannot be loaded: {' '.join(str(error).split())[:200]}") from None
        return cls(model.eval().requires_grad_(False))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids int64 [B, L] -> states [B, L, C]."""
        return self.model(input_ids=ids).last_hidden_state
