"""Prompts of a bundle: by its tokenizers and text encoders, by its classes, or as it carries them encoded."""

from collections.abc import Callable

import torch

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.kinds import Tensors, class_label, suffixed
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
                kept=encoder["kept"] and (encoder["kept"]["prompt"], encoder["kept"]["negative"]),
            )
            for role, encoder in encoders.items()
        }
        embedded = self.prompt and self.prompt["embedded"]
        self.embedded = read_tensors(bundle.file(embedded["file"])) if embedded else {}
        for name, tensor in self.embedded.items():
            expected = len(embedded["prompts"]) + len(embedded["negatives"])
            if (rows := tensor.shape[0] if tensor.ndim else 0) != expected:
                raise UserError(
                    f"{bundle.file(embedded['file'])}: {name!r} has {rows} rows, not one for each of {expected} "
                    "prompts; export the bundle again"
                )

    def __call__(self, prompt: str, negative: bool, encode: Encode) -> Tensors:
        """Encode a prompt: tensors [1, ...] by name. negative: it says what is not wanted.

        Raises UserError for an unknown prompt.
        """
        if self.prompt["labels"] is not None:
            return class_label(self.prompt["labels"], prompt)
        if self.prompt["embedded"]:
            return self._embedded_row(prompt, negative)
        tensors: Tensors = {}
        for role, tokenizer in self.tokenizers.items():
            given = tokenizer.inputs(prompt, negative)
            method = self.bundle.programs[role]["methods"]["encode"]
            inputs = {spec["name"]: given[spec["name"]] for spec in method["inputs"]}
            if "mask" in inputs:
                tensors[suffixed(role, "mask")] = inputs["mask"]
            outputs = [tensor.clone() for tensor in encode(role, list(inputs.values()))]
            tensors |= {spec["name"]: tensor for spec, tensor in zip(method["outputs"], outputs, strict=True)}
        return tensors

    def _embedded_row(self, prompt: str, negative: bool) -> Tensors:
        embedded = self.prompt["embedded"]
        known = embedded["negatives" if negative else "prompts"]
        if prompt not in known:
            kind = "negative prompt" if negative else "prompt"
            raise UserError(f"{kind} {prompt!r} is not among those that the bundle carries; take {_first(known)}")
        row = known.index(prompt) + (len(embedded["prompts"]) if negative else 0)
        return {name: tensor[row : row + 1] for name, tensor in self.embedded.items()}


def _first(names: list[str]) -> str:
    """List the first of many names, and count the others."""
    if not names:
        return "none: it carries none"
    return ", ".join(name or "the empty one" for name in names[:12]) + (
        f" or one of {len(names) - 12} more" if len(names) > 12 else ""
    )
