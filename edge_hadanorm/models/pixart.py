"""PixArt-alpha and -Sigma: diffusers' PixArtTransformer2DModel as `prepare` (once a prompt) and `denoise` (every step).

Linears that read the same tensor are stacked into one (q, k and v; k and v of the text), the attention scale is folded
into q, and a learned variance, which no sampler here reads, is cut from the last linear. Quantized are the linears of
the blocks; patch and time embedding, caption projection and the last linear stay in float.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.fold import Modulation, Producer, Values
from edge_hadanorm.method.linear import equal_parts
from edge_hadanorm.method.operators import LAYER_NORM_EPS, layer_norm
from edge_hadanorm.models.conversion import Conversion, check_fixed, cut_variance, scaled
from edge_hadanorm.models.denoiser import State
from edge_hadanorm.models.layers import (
    TIME_CHANNELS,
    Attention,
    CrossAttention,
    FeedForward,
    mask_bias,
    mask_of,
    sinusoid,
    time_frequencies,
)
from edge_hadanorm.models.patches import PatchDenoiser, check_patches, check_variance, sincos_positions

# Keys and values of a text are computed anew at every step where those of all blocks would take more bytes than this,
# and the text has at most this share of the latents' tokens: then they are a thirtieth of a step.
KEPT_BYTES, SHORT_TEXT = 16 << 20, 1 / 3


class Block(nn.Module):
    """adaLN-single block (PixArt-alpha, arXiv 2310.00426, section 2.3).

    Shifts, scales and gates are the six parts of (modulation + time) * gain. The 1 of a scale is in `modulation`, and
    `gain`, by itself 1, is for transforms to fold into.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.width = width
        self.modulation = nn.Parameter(torch.empty(1, 1, 6 * width))
        self.gain = nn.Parameter(torch.empty(1, 1, 6 * width))
        self.attn1 = Attention(width, heads)
        self.attn2 = CrossAttention(width, heads)
        self.ff = FeedForward(width, 4 * width)

    def forward(self, x, time, k, v, bias):
        """x [B, S, d], time [1 or B, 1, 6 d], keys and values of this block's text."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = equal_parts((self.modulation + time) * self.gain, 6)
        x = x + gate_a * self.attn1(layer_norm(x) * scale_a, shift_a)
        x = x + self.attn2(x, k, v, bias)
        return x + gate_f * self.ff(layer_norm(x) * scale_f, shift_f)


class PixArtDenoiser(PatchDenoiser):
    """The denoiser of a PixArtTransformer2DModel config; H and W are `latent_size(config)`."""

    blocks: Any  # a ModuleList of Block

    source_class = "PixArtTransformer2DModel"
    unread = ("pos_embed.pos_embed",)

    def __init__(self, config: dict, placed: bool = True):
        super().__init__(config, placed)
        width = self.width
        self.text_width = config["caption_channels"]
        self.time_up = nn.Linear(TIME_CHANNELS, width)
        self.time_down = nn.Linear(width, width)
        self.time_modulation = nn.Linear(width, 6 * width)
        self.text_up = nn.Linear(self.text_width, width)
        self.text_down = nn.Linear(width, width)
        self.blocks = nn.ModuleList(self._block(config) for _ in range(config["num_layers"]))
        self.final_modulation = nn.Parameter(torch.empty(1, 1, 2 * width))

    @staticmethod
    def _block(config: dict) -> Block:
        """A new one."""
        heads = config["num_attention_heads"]
        return Block(heads * config["attention_head_dim"], heads)

    def prompt_shapes(self, tokens: int, masked: bool = False) -> dict[str, tuple[int, ...]]:
        return {"text": (tokens, self.text_width)} | ({"mask": (tokens,)} if masked else {})

    def stages(self) -> list[list[str]]:
        names = ("attn1.qkv", "attn1.out", "attn2.q", "attn2.kv", "attn2.out", "ff.up", "ff.down")
        return [[f"blocks.{i}.{name}" for name in names] for i in range(len(self.blocks))]

    def steady(self) -> list[str]:
        """A mean moves where the timestep shifts it, behind an adaptive layer norm, and with the prompt.

        On the reference model dynamic means of the other inputs gain 0.08 dB at W4A4, within 0.1 dB of nothing at W4A8
        and W8A8, and cost a twentieth of a step.
        """
        moving = ("attn1.qkv", "attn2.kv", "ff.up")
        return [name for name in self.quantizable() if not name.endswith(moving)]

    def producers(self) -> dict[str, Producer]:
        made: dict[str, Producer] = {}
        for i, block in enumerate(self.blocks):
            name, text_head = f"blocks.{i}", self.width // block.attn2.heads
            made |= {
                f"{name}.attn1.qkv": Modulation(name, shift=0, scale=1),
                f"{name}.attn1.out": self._values(f"{name}.attn1"),
                f"{name}.attn2.out": Values(f"{name}.attn2.kv", self.width, text_head),
                f"{name}.ff.up": Modulation(name, shift=3, scale=4),
            }
        return made

    def _values(self, attention: str) -> Values:
        """Values that the attention on the tokens themselves mixes."""
        return Values(f"{attention}.qkv", 2 * self.width, self.width // self.heads)

    def prepare(self, text: torch.Tensor, mask: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Keys and values of every block for a text [B, L, C], and with a mask [B, L] the scores' bias.

        Where keys and values are not kept, the projected text in their place.
        """
        text = self._text(text)
        made = [t for block in self.blocks for t in block.attn2.prepare(text, mask)] if self._keeps(text) else [text]
        return made if mask is None else [*made, mask_bias(mask)]

    def _keeps(self, text: torch.Tensor) -> bool:
        """Whether keys and values of a text [B, L, ...] are kept from step to step."""
        words = text.shape[1]
        size = 2 * words * self.width * len(self.blocks) * text.element_size()
        return size <= KEPT_BYTES or words > SHORT_TEXT * math.prod(self.grid)

    def begin(
        self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, mask: torch.Tensor | None = None
    ) -> State:
        return self._begun(latents, self._time(timestep), text, mask)

    def advance(self, stage: int, state: State) -> State:
        x, modulation, text, mask, time = state
        block = self.blocks[stage]
        bias = None if mask is None else mask_bias(mask)
        return block(x, modulation, *block.attn2.prepare(text, mask), bias), modulation, text, mask, time

    def finish(self, state: State) -> torch.Tensor:
        x, *_, time = state
        return self._prediction(x, time)

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        return self._denoised(latents, self._time(timestep), conditioning)

    def _begun(self, latents: torch.Tensor, time: torch.Tensor, text: torch.Tensor, mask: torch.Tensor | None) -> State:
        """x [B, S, d], the modulation of all blocks [B, 1, 6 d], text [B, L, d], mask, time [B, 1, d]."""
        modulation, time = (t.expand(len(latents), -1, -1) for t in (self._modulation(time), time))
        return self._tokens(latents), modulation, self._text(text), mask, time

    def _denoised(self, latents: torch.Tensor, time: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        """The prediction at a time [1 or B, 1, d]."""
        modulation, x = self._modulation(time), self._tokens(latents)
        kept = self._keeps(conditioning[0])
        count = 2 * len(self.blocks) if kept else 1
        made, masked = conditioning[:count], conditioning[count:]
        bias = masked[0] if masked else None
        weights = None if kept or bias is None else mask_of(bias)
        for i, block in enumerate(self.blocks):
            k, v = made[2 * i : 2 * i + 2] if kept else block.attn2.prepare(made[0], weights)
            x = block(x, modulation, k, v, bias)
        return self._prediction(x, time)

    def _prediction(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] of the last block's tokens x [B, S, d]."""
        shift, scale = (part + time for part in equal_parts(self.final_modulation, 2))
        return self._latents(layer_norm(x) * scale + shift)

    def _text(self, text: torch.Tensor) -> torch.Tensor:
        """The caption projection: [B, L, C] -> [B, L, d]."""
        return self.text_down(F.gelu(self.text_up(text), approximate="tanh"))

    def _time(self, timestep: torch.Tensor) -> torch.Tensor:
        """Sinusoidal embedding and its two linears: [1] -> [1, 1, d]."""
        return self.time_down(F.silu(self.time_up(sinusoid(timestep, self.frequencies))))

    def _modulation(self, time: torch.Tensor) -> torch.Tensor:
        """Modulation that every block's own is made of: [1 or B, 1, d] -> [1 or B, 1, 6 d]."""
        return self.time_modulation(F.silu(time))

    @staticmethod
    def check(config: dict) -> None:
        check_patches(config, "num_layers", "caption_channels")
        check_variance(config)
        if config.get("use_additional_conditions") or (
            config.get("use_additional_conditions") is None and config["sample_size"] == 128
        ):
            raise UserError("transformer config: use_additional_conditions (PixArt-alpha at 1024 px) is not supported")
        fixed = {
            "norm_type": "ada_norm_single",
            "activation_fn": "gelu-approximate",
            "norm_elementwise_affine": False,
            "norm_eps": LAYER_NORM_EPS,
            "attention_bias": True,
        }
        check_fixed(config, fixed)

    @staticmethod
    def fill(config: dict, into: Conversion) -> None:
        """Stacked, scaled, cut."""
        patch, channels, head = config["patch_size"], config["in_channels"], config["attention_head_dim"]
        width = head * config["num_attention_heads"]
        linear, put = into.linear, into.put
        into.put_patches("pos_embed.proj", width, channels, patch)
        into.put_embedding("time_", "adaln_single.emb.timestep_embedder", width, TIME_CHANNELS)
        put("time_modulation", linear("adaln_single.linear", 6 * width, width))
        into.put_embedding("text_", "caption_projection", width, config["caption_channels"])
        for i in range(config["num_layers"]):
            source, target = f"transformer_blocks.{i}", f"blocks.{i}"
            for attn in ("attn1", "attn2"):
                q, k, v = (linear(f"{source}.{attn}.to_{name}", width, width) for name in "qkv")
                q = scaled(q, head**-0.5)
                if attn == "attn1":
                    put(f"{target}.attn1.qkv", q, k, v)
                else:
                    put(f"{target}.attn2.q", q)
                    put(f"{target}.attn2.kv", k, v)
                put(f"{target}.{attn}.out", linear(f"{source}.{attn}.to_out.0", width, width))
            into.put_feed_forward(f"{target}.ff", f"{source}.ff", width)
        put_modulations(config, into)
        out = config.get("out_channels") or channels
        put("final", cut_variance(linear("proj_out", patch * patch * out, width), channels, out))
        into.put_constants(frequencies=time_frequencies(), **PixArtDenoiser.placed(config))

    @classmethod
    def placed(cls, config: dict) -> dict[str, torch.Tensor]:
        scale = config.get("interpolation_scale") or max(config["sample_size"] // 64, 1)
        return {"positions": sincos_positions(config, scale)}


def put_modulations(config: dict, into: Conversion) -> None:
    """The tables of adaLN-single [n, d] as rows [1, 1, n d], with 1 added to the scales."""

    def row(source: str, parts: int, *scales: int) -> torch.Tensor:
        table = into.take(source, parts, config["num_attention_heads"] * config["attention_head_dim"]).clone()
        table[list(scales)] += 1
        return table.reshape(1, 1, -1)

    for i in range(config["num_layers"]):
        made = row(f"transformer_blocks.{i}.scale_shift_table", 6, 1, 4)
        into.state |= {f"blocks.{i}.modulation": made, f"blocks.{i}.gain": torch.ones_like(made)}
    into.state["final_modulation"] = row("scale_shift_table", 2, 1)
