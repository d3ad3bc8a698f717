"""The reference text-to-image pipeline in pixel space, in float: what the quantized programs are compared with."""

from typing import Any

import torch
from diffusers import DiffusionPipeline


class ReferencePipeline(DiffusionPipeline):
    """Tokenizer, T5 encoder, PixArt transformer, scheduler; no VAE: the transformer's latents are the pixels."""

    # Set by `register_modules`.
    tokenizer: Any
    text_encoder: Any
    transformer: Any
    scheduler: Any
    device: torch.device

    def __init__(self, tokenizer, text_encoder, transformer, scheduler):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer, scheduler=scheduler
        )

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Text states [B, words, width]."""
        ids = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.text_encoder(ids.to(self.device)).last_hidden_state

    @torch.no_grad()
    def __call__(
        self, prompts: list[str], noise: torch.Tensor, num_inference_steps: int = 8, guidance_scale: float = 1.5
    ) -> torch.Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] from noise of that shape, by classifier-free guidance."""
        text = self.encode([""] * len(prompts) + prompts)
        self.scheduler.set_timesteps(num_inference_steps)
        latents = noise * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            both = self.scheduler.scale_model_input(torch.cat([latents, latents]), t)
            without, with_text = self.transformer(
                both, encoder_hidden_states=text, timestep=t.expand(len(both)), return_dict=False
            )[0].chunk(2)
            latents = self.scheduler.step(without + guidance_scale * (with_text - without), t, latents).prev_sample
        return latents
