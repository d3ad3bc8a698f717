"""The benchmark's model: PixArt's geometry at width 1152 with random weights, and its inputs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from torch import nn

from edge_hadanorm.models.calls import Inputs

HEADS, HEAD_WIDTH, PATCH, LATENT_CHANNELS = 16, 72, 2, 4
TEXT_TOKENS, TEXT_WIDTH = 77, 4096


class Transformer(nn.Module):
    """A diffusers transformer as a function of tensors alone: the unchanged module that peers are given."""

    def __init__(self, transformer: Any):
        super().__init__()
        self.transformer = transformer

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.transformer(latents, encoder_hidden_states=text, timestep=timestep, return_dict=False)[0]


@dataclass(frozen=True)
class Case:
    """A size of the model: blocks, and image tokens (a square number)."""

    blocks: int
    tokens: int

    @property
    def side(self) -> int:
        """Height and width of the latents."""
        return PATCH * round(self.tokens**0.5)

    @cached_property
    def transformer(self) -> Transformer:
        """The float model, the same weights at every call."""
        torch.manual_seed(0)
        model = PixArtTransformer2DModel(
            num_attention_heads=HEADS,
            attention_head_dim=HEAD_WIDTH,
            in_channels=LATENT_CHANNELS,
            out_channels=2 * LATENT_CHANNELS,
            num_layers=self.blocks,
            cross_attention_dim=HEADS * HEAD_WIDTH,
            sample_size=self.side,
            patch_size=PATCH,
            caption_channels=TEXT_WIDTH,
            use_additional_conditions=False,
            norm_elementwise_affine=False,
        )
        return Transformer(model).eval().requires_grad_(False)

    @cached_property
    def inputs(self) -> Inputs:
        """Inputs of one sequence."""
        generator = torch.Generator().manual_seed(1)
        return Inputs(
            torch.randn(1, LATENT_CHANNELS, self.side, self.side, generator=generator),
            torch.tensor([500.0]),
            {"text": torch.randn(1, TEXT_TOKENS, TEXT_WIDTH, generator=generator)},
        )

    @property
    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs as the transformer's arguments: latents [1, 4, H, W], timestep [1], text [1, 77, 4096]."""
        return self.inputs.latents, self.inputs.timestep, self.inputs.prompt["text"]
