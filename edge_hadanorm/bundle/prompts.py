"""Prompts of a bundle: by its tokenizers and text encoders, by its classes, or as it carries them encoded."""

from collections.abc import Callable

import torch

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.kinds import Tensors, class_rows, suffixed
from edge_hadanorm.pipelines.text_encoders import PromptTokenizer
from edge_hadanorm.tensor_files import read_tensors

# (role of a program, inputs) -> the outputs of its `encode`
Encode = Callable[[str, list[torch.Tensor]], list[torch.Tensor]]


class BundlePrompts:
    """Encodes prompts with a bundle. input_names: what its denoiser's `prepare` takes, in order."""

    def __init__(self, bundle: Bundle):
        self.bundle, self.prompt = bundle, bundle.manifest["prompt"]
        self.input_names = [tensor["name"] for tensor in bundle.programs["denoiser"]["methods"]["prepare"]["inputs"]]
        encoders = self.prompt["encoders"] if self.prompt else {}
        self.tokenizers = {
            role: PromptTokenizer(
                bundle.file(encoder["tokenizer"]),
                encoder["length"],
                lower=self.prompt["lower"],
                prefix=encoder["prefix"],
                pad_id=encoder["pad_id"],
            )
            for role, encoder in encoders.items()
        }
        embedded = self.prompt and self.prompt["embedded"]
        self.embedded = read_tensors(bundle.file(embedded["file"])) if embedded else {}
        for name, tensor in self.embedded.items():
            if (rows := tensor.shape[0] if tensor.ndim else 0) != (prompts := len(embedded["prompts"])) + 1:
                raise UserError(
                    f"{bundle.file(embedded['file'])}: {name!r} has {rows} rows, not one for the empty prompt and each "
                    f"of {prompts}; export the bundle again"
                )

    def __call__(self, prompt: str, encode: Encode) -> Tensors:
        """Encode a prompt: tensors [2, ...] by name, row 0 of the empty one. Raises UserError for an unknown prompt."""
        if self.prompt["labels"] is not None:
            return class_rows(self.prompt["labels"], prompt)
        if self.prompt["embedded"]:
            return self._embedded_rows(prompt)
        tensors: Tensors = {}
        for role, tokenizer in self.tokenizers.items():
            ids, mask = tokenizer.rows(prompt)
            method = self.bundle.programs[role]["methods"]["encode"]
            inputs = [ids, mask][: len(method["inputs"])]
            if len(inputs) == 2:
                tensors[suffixed(role, "mask")] = mask
            outputs = [tensor.clone() for tensor in encode(role, inputs)]
            tensors |= {spec["name"]: tensor for spec, tensor in zip(method["outputs"], outputs, strict=True)}
        return tensors

    def _embedded_rows(self, prompt: str) -> Tensors:
        known = self.prompt["embedded"]["prompts"]
        if prompt and prompt not in known:
            raise UserError(f"prompt {prompt!r} is not among those that the bundle carries; take {_first(known)}")
        row = 1 + known.index(prompt) if prompt else 0
        return {name: torch.stack([tensor[0], tensor[row]]) for name, tensor in self.embedded.items()}


def _first(names: list[str]) -> str:
    """List the first of many names, and count the others."""
    return ", ".join(names[:12]) + (f" or one of {len(names) - 12} more" if len(names) > 12 else "")
