"""Tiny random members of every supported family, as diffusers makes them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch
from torch import nn

from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import ARGUMENTS
from runtime_tests.support.helpers import randn


def plain(transformer: nn.Module, hidden_states: torch.Tensor, **arguments: torch.Tensor) -> torch.Tensor:
    return transformer(hidden_states, **arguments, return_dict=False)[0]


def packed(transformer: nn.Module, hidden_states: torch.Tensor, **arguments: torch.Tensor) -> torch.Tensor:
    """With latents as FLUX's pipeline packs and unpacks them."""
    batch, channels, height, width = hidden_states.shape
    pipeline, dtype = diffusers.FluxPipeline, hidden_states.dtype
    found = transformer(
        pipeline._pack_latents(hidden_states, batch, channels, height, width),
        img_ids=pipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", dtype),
        txt_ids=torch.zeros(arguments["encoder_hidden_states"].shape[1], 3, dtype=dtype),
        **arguments,
        return_dict=False,
    )[0]
    return pipeline._unpack_latents(found, height, width, vae_scale_factor=1)


@dataclass(frozen=True)
class Family:
    """config: of `source_class`. tokens: of a text. masked: whether the transformer takes a mask of them.

    own: keys of ours in the config. time_scale: timesteps as this transformer takes them, of those from 0 to 1000.
    forward: the transformer on latents [B, C, H, W].
    error: of our denoiser to diffusers' in float64, where diffusers computes a part (positions, time) in float32.
    """

    source_class: str
    config: dict
    tokens: int = 6
    masked: bool = False
    own: dict = field(default_factory=dict)
    time_scale: float = 1.0
    forward: Callable[..., torch.Tensor] = plain
    error: float = 1e-5

    def make(self) -> nn.Module:
        """The transformer of diffusers, with weights where it starts with 0 or 1 and channels far above the others."""
        torch.manual_seed(0)
        transformer = getattr(diffusers, self.source_class)(**self.config).eval().requires_grad_(False)
        for name, parameter in transformer.named_parameters():
            if not parameter.any() or name.endswith("bias"):
                nn.init.normal_(parameter, std=0.2)
            if parameter.ndim == 2:
                parameter[:, ::13] *= 4
            if (parameter == 1).all():
                nn.init.uniform_(parameter, 0.5, 1.5)
        return transformer

    def save(self, folder: Path) -> Path:
        """The transformer's own folder, as save_pretrained leaves it."""
        self.make().save_pretrained(folder)
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | self.own))
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
        return Inputs(latents, torch.tensor([timestep * self.time_scale], dtype=torch.float64), prompt)

    def exact(self, transformer: nn.Module, call: Inputs) -> torch.Tensor:
        """What diffusers' transformer predicts for a call."""
        arguments = {ARGUMENTS[name]: t.long() if name == "label" else t for name, t in call.prompt.items()}
        timestep = call.timestep.expand(len(call.latents))
        return self.forward(transformer, call.latents, timestep=timestep, **arguments)[:, : call.latents.shape[1]]


def last(call: Inputs) -> Inputs:
    """The last sequence of a call, as programs take one."""
    prompt = {name: tensor[-1:] for name, tensor in call.prompt.items()}
    return Inputs(call.latents[-1:], call.timestep, prompt)


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
    "dit": Family(
        "DiTTransformer2DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=32,
            num_layers=2,
            patch_size=2,
            sample_size=8,
            in_channels=4,
            out_channels=8,
            num_embeds_ada_norm=10,
        ),
    ),
    "auraflow": Family(
        "AuraFlowTransformer2DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=32,
            num_mmdit_layers=2,
            num_single_dit_layers=2,
            patch_size=2,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            joint_attention_dim=48,
            caption_projection_dim=64,
            pos_embed_max_size=37,  # a square of 6, and one that no picture reads
        ),
        time_scale=1e-3,
    ),
    "sd3": Family(
        "SD3Transformer2DModel",
        dict(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=64,
            pooled_projection_dim=40,
            out_channels=4,
            pos_embed_max_size=7,
        ),
    ),
    "sd3.5": Family(
        "SD3Transformer2DModel",
        dict(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=64,
            pooled_projection_dim=40,
            out_channels=4,
            pos_embed_max_size=9,
            dual_attention_layers=[0],
            qk_norm="rms_norm",
        ),
    ),
    "flux": Family(
        "FluxTransformer2DModel",
        dict(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            num_attention_heads=2,
            attention_head_dim=32,
            joint_attention_dim=48,
            pooled_projection_dim=40,
            guidance_embeds=True,
            axes_dims_rope=(8, 12, 12),
        ),
        own=dict(sample_size=8),
        time_scale=1e-3,
        forward=packed,
    ),
    "sana": Family("SanaTransformer2DModel", SANA, masked=True),
    "sana_sprint": Family(
        "SanaTransformer2DModel",
        SANA | dict(patch_size=2, interpolation_scale=2.0, qk_norm="rms_norm_across_heads", guidance_embeds=True),
        error=2e-5,
    ),
}
