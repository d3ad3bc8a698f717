"""Tiny random members of every supported family, as diffusers makes them."""

from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from torch import nn

from edge_hadanorm.samples import ARGUMENTS, Inputs
from helpers import randn


@dataclass(frozen=True)
class Family:
    """config: of `source_class`. tokens: of a text. masked: whether the transformer takes a mask of them.

    error: of our denoiser to diffusers' in float64, where diffusers computes a part (positions, time) in float32.
    """

    source_class: str
    config: dict
    tokens: int = 6
    masked: bool = False
    error: float = 1e-5

    def make(self) -> nn.Module:
        """The transformer of diffusers, with weights where it starts with zeros and channels far above the others."""
        torch.manual_seed(0)
        transformer = getattr(diffusers, self.source_class)(**self.config).eval().requires_grad_(False)
        for name, parameter in transformer.named_parameters():
            if not parameter.any() or name.endswith("bias"):
                nn.init.normal_(parameter, std=0.2)
            if parameter.ndim == 2:
                parameter[:, ::13] *= 4
        return transformer

    def save(self, folder: Path) -> Path:
        """The transformer's own folder, as save_pretrained leaves it."""
        self.make().save_pretrained(folder)
        return folder

    def call(self, denoiser: nn.Module, seed: int = 0, batch: int = 2, timestep: float = 412.5) -> Inputs:
        """Random inputs, float64. Masks keep different tokens."""
        shapes = denoiser.prompt_shapes(self.tokens, self.masked)
        prompt = {name: randn(batch, *shape, seed=seed + i + 1) for i, (name, shape) in enumerate(shapes.items())}
        if self.masked:
            kept = self.tokens - torch.arange(batch)[:, None] - 1
            prompt["mask"] = (torch.arange(self.tokens) <= kept).double()
        if "label" in prompt:
            prompt["label"] = torch.arange(batch).double() + seed % 3
        latents = randn(batch, *denoiser.latent_shape(), seed=seed)
        return Inputs(latents, torch.tensor([timestep], dtype=torch.float64), prompt)

    def exact(self, transformer: nn.Module, call: Inputs) -> torch.Tensor:
        """What diffusers' transformer predicts for a call."""
        arguments = {ARGUMENTS[name]: tensor for name, tensor in call.prompt.items()}
        timestep = call.timestep.expand(len(call.latents))
        found = transformer(hidden_states=call.latents, timestep=timestep, **arguments, return_dict=False)[0]
        return found[:, : call.latents.shape[1]]


SANA = dict(
    in_channels=4,
    out_channels=4,
    num_attention_heads=8,
    attention_head_dim=8,
    num_layers=2,
    num_cross_attention_heads=2,
    cross_attention_head_dim=32,
    cross_attention_dim=64,
    caption_channels=48,
    sample_size=8,
)
FAMILIES = {
    "pixart": Family(
        "PixArtTransformer2DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=32,
            num_layers=2,
            patch_size=2,
            sample_size=8,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=64,
            caption_channels=48,
            norm_elementwise_affine=False,
            use_additional_conditions=False,
        ),
        masked=True,
    ),
    "sana": Family("SanaTransformer2DModel", SANA, masked=True),
    "sana_sprint": Family(
        "SanaTransformer2DModel",
        SANA | dict(patch_size=2, interpolation_scale=2.0, qk_norm="rms_norm_across_heads", guidance_embeds=True),
    ),
}
