"""A tiny random pipeline of the embedded model's class."""

from pathlib import Path

import torch

from edge_hadanorm.reference.model import make_pipeline
from edge_hadanorm.reference.train import save_pipeline

TINY = dict(
    num_attention_heads=2,
    attention_head_dim=32,
    num_layers=2,
    patch_size=2,
    sample_size=8,
    in_channels=3,
    out_channels=3,
    cross_attention_dim=64,
    caption_channels=32,
    norm_elementwise_affine=False,
    use_additional_conditions=False,
    interpolation_scale=1,
)


def save(prompts: list[str], folder: Path) -> Path:
    """Write a two-block PixArt with random weights, and outliers in some channels, that knows the prompts' words."""
    torch.manual_seed(0)
    pipeline = make_pipeline(prompts, TINY)
    with torch.no_grad():
        for name, parameter in pipeline.transformer.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2 and not parameter.any():
                torch.nn.init.xavier_uniform_(parameter)
            if "ff.net.0.proj.weight" in name or "scale_shift_table" in name:
                parameter[..., ::17] *= 8
    save_pipeline(pipeline, prompts, folder)
    return folder
