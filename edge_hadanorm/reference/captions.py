"""Retrieval of the vendored pictures by their captions."""

import torch

from edge_hadanorm.reference import data


def caption_retrieval(prompts: list[str], exact: torch.Tensor, quantized: torch.Tensor) -> dict[str, float] | None:
    """Share of pictures uint8 [N, C, H, W] that are nearest to what their prompt is the caption of, of either denoiser.

    None for a model that draws something else than the vendored pictures.
    """
    known, captions = data.load()
    if exact.shape[1:] != known.shape[1:] or not set(prompts) <= set(captions):
        return None
    return {"float": data.retrieval(exact, prompts), "quantized": data.retrieval(quantized, prompts)}
