"""What a bundle makes of a prompt: its tokenizers and text encoders, its classes, or what it carries encoded."""

from collections.abc import Callable

import torch

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.kinds import Tensors, class_rows, suffixed
from edge_hadanorm.pipelines.text_encoders import PromptTokenizer
from edge_hadanorm.tensor_files import read_tensors

# (role of a program, inputs) -> what its `encode` gives
Encode = Callable[[str, list[torch.Tensor]], list[torch.Tensor]]


class BundlePrompts:
    """Prompts of a bundle to the inputs of its denoiser's `prepare`, whose names in order are `wanted`."""

    def __init__(self, bundle: Bundle):
        self.bundle, self.asked = bundle, bundle.manifest["prompt"]
        self.wanted = [tensor["name"] for tensor in bundle.programs["denoiser"]["methods"]["prepare"]["inputs"]]
        encoders = self.asked["encoders"] if self.asked else {}
        self.tokenizers = {
            role: PromptTokenizer(
                bundle.file(encoder["tokenizer"]),
                encoder["length"],
                lower=self.asked["lower"],
                prefix=encoder["prefix"],
                pad_id=encoder["pad_id"],
            )
            for role, encoder in encoders.items()
        }
        embedded = self.asked and self.asked["embedded"]
        self.embedded = read_tensors(bundle.file(embedded["file"])) if embedded else {}
        for name, tensor in self.embedded.items():
            if (rows := tensor.shape[0] if tensor.ndim else 0) != (prompts := len(embedded["prompts"])) + 1:
                raise UserError(
                    f"{bundle.file(embedded['file'])}: {name!r} has {rows} rows, not one for the empty prompt and each "
                    f"of {prompts}; export the bundle again"
                )

    def __call__(self, prompt: str, encode: Encode) -> Tensors:
        """Tensors [2, ...] by name: row 0 of the empty prompt, row 1 of this one. Raises UserError for an unknown."""
        if self.asked["labels"] is not None:
            return class_rows(self.asked["labels"], prompt)
        if self.asked["embedded"]:
            return self._carried(prompt)
        given = {}
        for role, tokenizer in self.tokenizers.items():
            ids, mask = tokenizer.rows(prompt)
            method = self.bundle.programs[role]["methods"]["encode"]
            inputs = [ids, mask][: len(method["inputs"])]
            if len(inputs) == 2:
                given[suffixed(role, "mask")] = mask
            outputs = [tensor.clone() for tensor in encode(role, inputs)]
            given |= {spec["name"]: tensor for spec, tensor in zip(method["outputs"], outputs, strict=True)}
        return given

    def _carried(self, prompt: str) -> Tensors:
        known = self.asked["embedded"]["prompts"]
        if prompt and prompt not in known:
            raise UserError(f"prompt {prompt!r} is not among those that the bundle carries; take {some(known)}")
        row = 1 + known.index(prompt) if prompt else 0
        return {name: torch.stack([tensor[0], tensor[row]]) for name, tensor in self.embedded.items()}


def some(names) -> str:
    """The first of many names."""
    names = list(names)
    return ", ".join(names[:12]) + (f" or one of {len(names) - 12} more" if len(names) > 12 else "")
