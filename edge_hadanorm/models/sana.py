"""Sana, Sana 1.5 and Sana-Sprint: diffusers' SanaTransformer2DModel as `prepare` and `denoise`.

Linear Diffusion Transformers (arXiv 2410.10629): self attention is linear, a feed-forward has a depthwise convolution
in it, and there are positions only where the config has an `interpolation_scale`. Linears that read the same tensor are
stacked into one, the scale of the attention on the text is folded into q, and the 1x1 convolutions of a feed-forward
are linears on tokens. Quantized are the linears of the blocks; patch, time and guidance embedding, caption projection,
the depthwise convolutions and the last linear stay in float.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.fold import LinearValues
from edge_hadanorm.method.linear import equal_parts
from edge_hadanorm.method.operators import LAYER_NORM_EPS, rms_norm
from edge_hadanorm.models import pixart
from edge_hadanorm.models.conversion import Conversion, check_fixed, scaled
from edge_hadanorm.models.denoiser import State
from edge_hadanorm.models.layers import (
    TIME_CHANNELS,
    CrossAttention,
    StackedLinear,
    attention,
    sinusoid,
    time_frequencies,
)
from edge_hadanorm.models.patches import check_patches, grid_of, sincos_positions
from edge_hadanorm.models.pixart import PixArtDenoiser, put_modulations

# Of the norms of keys, queries and captions.
RMS_NORM_EPS = 1e-5
# Of linear attention's normaliser.
REST = 1e-15


class Norm(nn.Module):
    """RMS norm over the features of x [..., d], with a weight."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, RMS_NORM_EPS)


def linear_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rest: torch.Tensor, heads: int) -> torch.Tensor:
    """(q k^T v + REST rest) / (q k^T 1 + REST) of each head, from q, k >= 0 and v [B, S, d] and a rest [d].

    That is attention whose weights sum to one if REST is that of one more value `rest`: zero by itself, and all that a
    query gets that no key answers. k^T v first, which is h x h a head, and all heads at once: one by one, 70 heads of
    1024 tokens take half as long again, and make a program so many times as large.
    """
    batch, tokens, width = q.shape
    head = width // heads

    def rows(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(batch, tokens, heads, head).permute(0, 2, 1, 3).reshape(batch * heads, tokens, head)

    q, columns = rows(q), k.transpose(1, 2).reshape(batch * heads, head, tokens)
    total = torch.bmm(k.new_full((batch, 1, tokens), 1.0), k).reshape(batch * heads, head, 1)
    values = torch.bmm(q, torch.bmm(columns, rows(v))).reshape(batch, heads, tokens, head)
    weights = torch.bmm(q, total).reshape(batch, heads, tokens, 1)
    x = (values + REST * rest.reshape(heads, 1, head)) / (weights + REST)
    return x.permute(0, 2, 1, 3).reshape(batch, tokens, width)


class Attention(nn.Module):
    """Linear attention on the tokens themselves, to which a shift is still to be added.

    A norm of q would be one factor a token, which passes the ReLU and cancels: only its weight counts, within `qkv`.
    """

    def __init__(self, width: int, heads: int, normed: bool):
        super().__init__()
        self.heads = heads
        self.qkv = StackedLinear(width, 3 * width)
        self.norm_k = Norm(width) if normed else nn.Identity()
        self.rest = nn.Parameter(torch.empty(width))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x, shift=shift, parts=3)
        return self.out(linear_attention(F.relu(q), F.relu(self.norm_k(k)), v, self.rest, self.heads))


class NormedCrossAttention(CrossAttention):
    """Multi-head attention on the text, of normed queries and keys."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        self.norm_q, self.norm_k = Norm(width), Norm(width)

    def prepare(self, text: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        k, v = super().prepare(text, weights)
        return self.norm_k(k), v

    def forward(self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        q, keys, values = (equal_parts(t, self.heads) for t in (self.norm_q(self.q(x)), k, v))
        return self.out(attention(q, keys, values, bias))


class FeedForward(nn.Module):
    """Mix-FFN: a gated linear unit that mixes each token with its neighbours [B, S, d], of a grid of S."""

    def __init__(self, width: int, inner: int, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid
        self.up = StackedLinear(width, 2 * inner)
        self.mix = nn.Conv2d(2 * inner, 2 * inner, 3, padding=1, groups=2 * inner)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        tokens = F.silu(self.up(x, shift=shift))
        x = self.mix(tokens.unflatten(1, self.grid).permute(0, 3, 1, 2))
        # Gated before the way back, which then has half to move.
        half = x.shape[1] // 2
        x = x[:, :half] * F.silu(x[:, half:])
        return self.down(x.permute(0, 2, 3, 1).flatten(1, 2))


class Block(pixart.Block):
    """PixArt's, with this attention and feed-forward."""

    attn1: Any
    ff: Any

    def __init__(self, config: dict):
        heads, text_heads = config["num_attention_heads"], config["num_cross_attention_heads"]
        width = heads * config["attention_head_dim"]
        super().__init__(width, text_heads)
        self.attn1 = Attention(width, heads, normed=config.get("qk_norm") is not None)
        if config.get("qk_norm") is not None:
            self.attn2 = NormedCrossAttention(width, text_heads)
        self.ff = FeedForward(width, int(config["mlp_ratio"] * width), grid_of(config))


class SanaDenoiser(PixArtDenoiser):
    """The denoiser of a SanaTransformer2DModel config; H and W are `latent_size(config)`.

    PixArt's, with these blocks and a norm of the caption. With `guidance_embeds` a prompt has a `guidance` [B], as the
    transformer's forward takes it: scaled already.
    """

    source_class = "SanaTransformer2DModel"
    unread = ("patch_embed.pos_embed",)

    def __init__(self, config: dict):
        super().__init__(config, placed=config.get("interpolation_scale") is not None)
        self.guided = bool(config.get("guidance_embeds"))
        if self.guided:
            self.guidance_up = nn.Linear(TIME_CHANNELS, self.width)
            self.guidance_down = nn.Linear(self.width, self.width)
        self.text_norm = Norm(self.width)

    @staticmethod
    def _block(config: dict) -> Block:
        return Block(config)

    def prompt_shapes(self, tokens: int, masked: bool = False) -> dict[str, tuple[int, ...]]:
        return super().prompt_shapes(tokens, masked) | ({"guidance": ()} if self.guided else {})

    def _values(self, attention: str) -> LinearValues:
        return LinearValues(f"{attention}.qkv", 2 * self.width, self.width // self.heads, attention)

    def prepare(
        self, text: torch.Tensor, mask: torch.Tensor | None = None, guidance: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Keys and values of every block for a text [B, L, C], a mask's bias of scores, a guidance's embedding."""
        conditioning = super().prepare(text, mask)
        return [*conditioning, self._guidance(guidance)] if self.guided else conditioning

    def begin(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        mask: torch.Tensor | None = None,
        guidance: torch.Tensor | None = None,
    ) -> State:
        time = self._time(timestep)
        return self._begun(latents, time + self._guidance(guidance) if self.guided else time, text, mask)

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        if not self.guided:
            return super().denoise(latents, timestep, conditioning)
        *conditioning, guidance = conditioning
        return self._denoised(latents, self._time(timestep) + guidance, conditioning)

    def _text(self, text: torch.Tensor) -> torch.Tensor:
        """The caption projection and its norm: [B, L, C] -> [B, L, d]."""
        return self.text_norm(super()._text(text))

    def _guidance(self, guidance: torch.Tensor | None) -> torch.Tensor:
        """Share of a guidance in the embedding of time: [B] -> [B, 1, d]."""
        return self.guidance_down(F.silu(self.guidance_up(sinusoid(cast(torch.Tensor, guidance), self.frequencies))))

    @staticmethod
    def check(config: dict) -> None:
        check_patches(config, "num_layers", "caption_channels", "num_cross_attention_heads")
        ratio = config.get("mlp_ratio")
        if not isinstance(ratio, int | float) or isinstance(ratio, bool) or ratio <= 0:
            raise UserError(f"transformer config: 'mlp_ratio' is {ratio!r}, not a positive number")
        width, fixed = config["num_attention_heads"] * config["attention_head_dim"], {}
        if config.get("out_channels") is not None:
            fixed["out_channels"] = config["in_channels"]
        if config.get("qk_norm") is not None:
            fixed["qk_norm"] = "rms_norm_across_heads"
        head = width // config["num_cross_attention_heads"]
        fixed |= {"cross_attention_dim": width, "cross_attention_head_dim": head}
        check_fixed(config, fixed | {"norm_elementwise_affine": False, "norm_eps": LAYER_NORM_EPS})

    @staticmethod
    def fill(config: dict, into: Conversion) -> None:
        """Stacked and scaled."""
        patch, channels = config["patch_size"], config["in_channels"]
        width = config["num_attention_heads"] * config["attention_head_dim"]
        inner = int(config["mlp_ratio"] * width)
        normed, guided = config.get("qk_norm") is not None, config.get("guidance_embeds")
        take, linear, put, state = into.take, into.linear, into.put, into.state
        into.put_patches("patch_embed.proj", width, channels, patch)
        zero = state["patch_embed.bias"].new_zeros(width)
        time = f"time_embed{'' if guided else '.emb'}.timestep_embedder"
        into.put_embedding("time_", time, width, TIME_CHANNELS)
        if guided:
            into.put_embedding("guidance_", "time_embed.guidance_embedder", width, TIME_CHANNELS)
        put("time_modulation", linear("time_embed.linear", 6 * width, width))
        into.put_embedding("text_", "caption_projection", width, config["caption_channels"])
        state["text_norm.weight"] = take("caption_norm.weight", width)
        put_modulations(config, into)
        for i in range(config["num_layers"]):
            source, target = f"transformer_blocks.{i}", f"blocks.{i}"
            state[f"{target}.attn1.rest"] = zero.clone()
            for attn, biased in (("attn1", bool(config.get("attention_bias"))), ("attn2", True)):
                pairs = (linear(f"{source}.{attn}.to_{name}", width, width, biased) for name in "qkv")
                # With biases in any case, for what transforms of the values add.
                q, k, v = ((w, zero if b is None else b) for w, b in pairs)
                scale: Any = 1 if attn == "attn1" else config["cross_attention_head_dim"] ** -0.5
                if normed:
                    state[f"{target}.{attn}.norm_k.weight"] = take(f"{source}.{attn}.norm_k.weight", width)
                    scale = scale * take(f"{source}.{attn}.norm_q.weight", width)
                if attn == "attn1":
                    put(f"{target}.attn1.qkv", scaled(q, scale), k, v)
                else:
                    put(f"{target}.attn2.q", q if normed else scaled(q, scale))
                    put(f"{target}.attn2.kv", k, v)
                    state.update({f"{target}.attn2.norm_q.weight": scale} if normed else {})
                put(f"{target}.{attn}.out", linear(f"{source}.{attn}.to_out.0", width, width))
            for name, conv, biased, *shape in (
                ("up", "conv_inverted", True, 2 * inner, width, 1, 1),
                ("mix", "conv_depth", True, 2 * inner, 1, 3, 3),
                ("down", "conv_point", False, width, inner, 1, 1),
            ):
                weight = take(f"{source}.ff.{conv}.weight", *shape)
                weight = weight if name == "mix" else weight.flatten(1)
                put(f"{target}.ff.{name}", (weight, take(f"{source}.ff.{conv}.bias", shape[0]) if biased else None))
        put("final", linear("proj_out", patch * patch * channels, width))
        into.put_constants(frequencies=time_frequencies(), **SanaDenoiser.placed(config))

    @classmethod
    def placed(cls, config: dict) -> dict[str, torch.Tensor]:
        scale = config.get("interpolation_scale")
        return {} if scale is None else {"positions": sincos_positions(config, scale)}
