"""FLUX.1 dev and schnell: diffusers' FluxTransformer2DModel as `prepare` (once a prompt) and `denoise` (every step).

Diffusers takes latents packed, 2 x 2 patches as tokens [B, S, 64], with their positions as ids. Here latents are
[B, 16, H, W], which the first linear packs as a convolution, and positions are constants. They take the size of the
latents, which diffusers' config does not have: by default 128 x 128 (1024 px). Timesteps are those of diffusers'
forward, from 0 to 1.

Linears that read the same tensor are stacked into one: q, k and v, in single-stream blocks with the MLP's first, and
the modulations of image and text. The attention scale is folded into the weight of q's norm, and the features of q and
k are ordered so that rotary embeddings turn the first half of a head with the second. Quantized are the linears of the
blocks but for their modulations, which stay in float as the embeddings and the last linear do.
"""

import math
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.fold import LinearModulation, Producer
from edge_hadanorm.method.linear import equal_parts
from edge_hadanorm.method.operators import layer_norm, rms_norm
from edge_hadanorm.models.conversion import Conversion, Pair, add_ones, check_fixed, check_sizes
from edge_hadanorm.models.denoiser import Denoiser, State
from edge_hadanorm.models.layers import (
    TIME_CHANNELS,
    Heads,
    StackedLinear,
    attention,
    rotary,
    rotary_tables,
    sinusoid,
    time_frequencies,
)
from edge_hadanorm.models.patches import check_latent_size, latent_size

PATCH = 2
# Where a config leaves them out: latent pixels a side, as the pipeline has them by default, and features of a head that
# rotate with each of a token's ids.
DEFAULTS = {"sample_size": 128, "axes_dims_rope": (16, 56, 56), "guidance_embeds": False}
# What diffusers multiplies timesteps and guidance with.
TIME_SCALE = 1000
# Diffusers' names in a double-stream block: q, k and v, the norms of q and k, the linear after attention, and the MLP.
MODALITIES = {
    "image": (("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), "to_out.0", "ff"),
    "text": (("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k"), "to_add_out", "ff_context"),
}


class Embedding(nn.Module):
    def __init__(self, inner: int, width: int):
        super().__init__()
        self.up = nn.Linear(inner, width)
        self.down = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.up(x)))


class QKNorm(nn.Module):
    """RMS norms of q and k head by head."""

    def __init__(self, head: int):
        super().__init__()
        self.q = nn.Parameter(torch.empty(head))
        self.k = nn.Parameter(torch.empty(head))

    def forward(self, q: Heads, k: Heads) -> tuple[Heads, Heads]:
        return [rms_norm(head, self.q) for head in q], [rms_norm(head, self.k) for head in k]


class Modality(nn.Module):
    """Layers of a double-stream block for the tokens of the image, and once more for those of the text."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = StackedLinear(width, 3 * width)
        self.norm = QKNorm(width // heads)
        self.out = nn.Linear(width, width)
        self.up = StackedLinear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def project(self, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> tuple[Heads, Heads, Heads]:
        """q, k and v of tokens [B, S, d]."""
        heads, count = self.qkv(layer_norm(x) * scale, shift=shift, parts=3 * self.heads), self.heads
        return *self.norm(heads[:count], heads[count : 2 * count]), heads[2 * count :]

    def update(self, x, attended, gate_a, shift, scale, gate_f):
        """The residuals of attention and of the MLP."""
        x = x + gate_a * self.out(attended)
        return x + gate_f * self.down(F.gelu(self.up(layer_norm(x) * scale, shift=shift), approximate="tanh"))


class DoubleBlock(nn.Module):
    """Image and text in one attention, each with weights of its own (MM-DiT, arXiv 2403.03206, section 4).

    Modulation gives shift, scale and gate of attention and of the MLP, for the image and then for the text. The 1 of a
    scale is in its bias.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.modulation = nn.Linear(width, 12 * width)
        self.image = Modality(width, heads)
        self.text = Modality(width, heads)

    def forward(self, x, text, time, tables):
        """x [B, S, d], text [B, L, d], time [B, 1, d] -> x, text."""
        parts, tokens = equal_parts(self.modulation(time), 12), x.shape[1]
        streams = self.image.project(x, *parts[:2]), self.text.project(text, *parts[6:8])
        q, k, v = (
            [torch.cat(pair, dim=1) for pair in zip(*heads, strict=True)] for heads in zip(*streams, strict=True)
        )
        attended = attention(rotary(q, *tables), rotary(k, *tables), v)
        x = self.image.update(x, attended[:, :tokens], *parts[2:6])
        return x, self.text.update(text, attended[:, tokens:], *parts[8:])


class SingleBlock(nn.Module):
    """Image and text as one sequence, attention and MLP in parallel (arXiv 2302.05442, section 2).

    Modulation gives shift, scale and gate. The 1 of the scale is in its bias.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 3 * width)
        self.qkv_up = StackedLinear(width, 7 * width)
        self.norm = QKNorm(width // heads)
        self.down = nn.Linear(5 * width, width)

    def forward(self, x, time, tables):
        """x [B, S + L, d], time [B, 1, d]."""
        shift, scale, gate = equal_parts(self.modulation(time), 3)
        *qkv, a, b, c, d = self.qkv_up(layer_norm(x) * scale, shift=shift, parts=7)
        q, k, v = (equal_parts(part, self.heads) for part in qkv)
        q, k = self.norm(q, k)
        attended = attention(rotary(q, *tables), rotary(k, *tables), v)
        inner = [F.gelu(part, approximate="tanh") for part in (a, b, c, d)]
        return x + gate * self.down(torch.cat([attended, *inner], dim=-1))


class FluxDenoiser(Denoiser):
    """The denoiser of a FluxTransformer2DModel config; H and W are `latent_size(config)`, by default 128."""

    cos: torch.Tensor
    sin: torch.Tensor
    frequencies: torch.Tensor
    double_blocks: Any  # a ModuleList of DoubleBlock
    single_blocks: Any  # a ModuleList of SingleBlock

    source_class = "FluxTransformer2DModel"

    def __init__(self, config: dict):
        super().__init__(config)
        config = DEFAULTS | config
        heads, head = config["num_attention_heads"], config["attention_head_dim"]
        width = heads * head
        self.channels, self.size = config["in_channels"] // PATCH**2, latent_size(config)
        self.grid = self.size[0] // PATCH, self.size[1] // PATCH
        self.text_width, self.pooled_width = config["joint_attention_dim"], config["pooled_projection_dim"]
        self.patch_embed = nn.Conv2d(self.channels, width, PATCH, stride=PATCH)
        self.register_buffer("cos", torch.empty(1, math.prod(self.grid), head))
        self.register_buffer("sin", torch.empty(1, math.prod(self.grid), head))
        self.register_buffer("frequencies", torch.empty(TIME_CHANNELS // 2))
        self.time = Embedding(TIME_CHANNELS, width)
        self.guidance = Embedding(TIME_CHANNELS, width) if config["guidance_embeds"] else None
        self.pooled = Embedding(self.pooled_width, width)
        self.text = nn.Linear(self.text_width, width)
        self.double_blocks = nn.ModuleList(DoubleBlock(width, heads) for _ in range(config["num_layers"]))
        self.single_blocks = nn.ModuleList(SingleBlock(width, heads) for _ in range(config["num_single_layers"]))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, PATCH**2 * self.channels)

    def latent_shape(self) -> tuple[int, int, int]:
        return self.channels, *self.size

    def prompt_shapes(self, tokens: int, masked: bool = False) -> dict[str, tuple[int, ...]]:
        """Without a mask: FLUX attends to the padding of its text too."""
        shapes = {"text": (tokens, self.text_width), "pooled": (self.pooled_width,)}
        return shapes if self.guidance is None else shapes | {"guidance": ()}

    def unpacked(self, arguments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tokens [N, S, 4 C] become latents; ids, [S, 3] for all samples or [N, S, 3], are checked and left out."""
        arguments, ids = dict(arguments), positions(*self.grid)
        image, text = arguments.pop("img_ids", ids), arguments.pop("txt_ids", torch.zeros(1, 3))
        if image.shape[-2:] != ids.shape or (image != ids).any():
            raise UserError(f"img_ids are not those of latents of {self.size[0]} x {self.size[1]} (height, width)")
        if text.any():
            raise UserError("txt_ids are not 0; only text without positions is supported")
        latents = arguments.get("hidden_states")
        if latents is not None and latents.shape[1:] == (len(ids), PATCH**2 * self.channels):
            arguments["hidden_states"] = self._latents(latents)
        return arguments

    def stages(self) -> list[list[str]]:
        """Double-stream blocks, then single-stream blocks."""
        after = ("out", "up", "down")
        double = ("image.qkv", "text.qkv", *(f"{own}.{name}" for own in ("image", "text") for name in after))
        stages = [[f"double_blocks.{i}.{name}" for name in double] for i in range(len(self.double_blocks))]
        single = ("qkv_up", "down")
        return stages + [[f"single_blocks.{i}.{name}" for name in single] for i in range(len(self.single_blocks))]

    def steady(self) -> list[str]:
        """All of the image but what is behind an adaptive layer norm."""
        moving = ("qkv", "up", "text.out", "text.down")
        return [name for name in self.quantizable() if not name.endswith(moving)]

    def producers(self) -> dict[str, Producer]:
        """Adaptive layer norms. Attention mixes values of two linears, or goes into a linear with the MLP."""
        made: dict[str, Producer] = {}
        for block in (f"double_blocks.{i}" for i in range(len(self.double_blocks))):
            for i, name in enumerate(("image.qkv", "image.up", "text.qkv", "text.up")):
                made[f"{block}.{name}"] = LinearModulation(f"{block}.modulation", shift=3 * i, scale=3 * i + 1)
        for block in (f"single_blocks.{i}" for i in range(len(self.single_blocks))):
            made[f"{block}.qkv_up"] = LinearModulation(f"{block}.modulation", shift=0, scale=1)
        return made

    def prepare(
        self, text: torch.Tensor, pooled: torch.Tensor, guidance: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Text [B, L, d], and what pooled [B, P] and guidance [B] add to the embedding of time: [B, 1, d]."""
        share = self.pooled(pooled.reshape(-1, 1, self.pooled_width))
        if self.guidance is not None:
            share = share + self.guidance(sinusoid(cast(torch.Tensor, guidance), self.frequencies))
        return [self.text(text), share]

    def begin(self, latents: torch.Tensor, timestep: torch.Tensor, **prompt: torch.Tensor) -> State:
        text, share = self.prepare(**prompt)
        return self._tokens(latents), text, self._time(timestep, share)

    def advance(self, stage: int, state: State) -> State:
        """Run one block; behind the double-stream blocks the text is among the tokens."""
        x, text, time = state
        if stage < len(self.double_blocks):
            return *self.double_blocks[stage](x, text, time, self._tables(x.shape[1] + text.shape[1])), time
        x = x if text is None else torch.cat([x, text], dim=1)
        return self.single_blocks[stage - len(self.double_blocks)](x, time, self._tables(x.shape[1])), None, time

    def finish(self, state: State) -> torch.Tensor:
        x, _, time = state
        scale, shift = equal_parts(self.final_modulation(time), 2)
        return self._latents(self.final(layer_norm(x[:, : math.prod(self.grid)]) * scale + shift))

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        text, share = conditioning
        x, time = self._tokens(latents), self._time(timestep, share)
        tables = self._tables(x.shape[1] + text.shape[1])
        for block in self.double_blocks:
            x, text = block(x, text, time, tables)
        x = torch.cat([x, text], dim=1)
        for block in self.single_blocks:
            x = block(x, time, tables)
        return self.finish((x, None, time))

    def _tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, S, d]."""
        return self.patch_embed(latents).flatten(2).transpose(1, 2)

    def _latents(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens of (channel, patch row, patch column) [B, S, 4 C] -> [B, C, H, W]."""
        x = x.reshape(-1, *self.grid, self.channels, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(-1, self.channels, *self.size)

    def _time(self, timestep: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Input of the modulations, of a timestep [1] and the prompt's share: [B, 1, d]."""
        return F.silu(self.time(sinusoid(timestep, self.frequencies)) + share)

    def _tables(self, tokens: int) -> list[torch.Tensor]:
        """Cosines and sines [1, S + L, h] of so many tokens: the image's, and those of the text, at position 0."""
        shape = (1, tokens - math.prod(self.grid), self.cos.shape[-1])
        pairs = ((self.cos, 1.0), (self.sin, 0.0))
        return [torch.cat([image, image.new_full(shape, text)], dim=1) for image, text in pairs]

    @staticmethod
    def check(config: dict) -> None:
        config = DEFAULTS | config
        blocks = ("num_layers", "num_single_layers")
        check_sizes(config, "num_attention_heads", "attention_head_dim", "in_channels", *blocks)
        check_sizes(config, "joint_attention_dim", "pooled_projection_dim", "sample_size")
        check_fixed(config, {"patch_size": 1})
        check_latent_size(config, PATCH)
        side, channels, out = config["sample_size"], config["in_channels"], config.get("out_channels")
        axes, head = config["axes_dims_rope"], config["attention_head_dim"]
        if side % PATCH or channels % PATCH**2:
            raise UserError(f"transformer config: sample_size {side}, in_channels {channels} are not of 2 x 2 patches")
        if out not in (None, channels):
            raise UserError(
                f"transformer config: out_channels is {out!r}; only {channels} (no Fill, Canny, Depth) is supported"
            )
        whole = isinstance(axes, list | tuple) and all(type(n) is int and n > 0 and n % 2 == 0 for n in axes)
        if not whole or len(axes) != 3 or sum(axes) != head:
            raise UserError(
                f"transformer config: axes_dims_rope is {axes!r}; only 3 even parts of {head} are supported"
            )

    @staticmethod
    def fill(config: dict, into: Conversion) -> None:
        """Stacked, ordered, scaled."""
        config = DEFAULTS | config
        heads, head, channels = config["num_attention_heads"], config["attention_head_dim"], config["in_channels"]
        width = heads * head
        # Diffusers' rotary embeddings rotate a feature with its neighbour, ours with that of the head's other half.
        order = torch.arange(head).reshape(-1, 2).T.flatten()
        rows = (torch.arange(heads)[:, None] * head + order).flatten()
        take, linear, put = into.take, into.linear, into.put

        def modulation(source: str, parts: int, *scales: int) -> Pair:
            return add_ones(linear(source, parts * width, width), *scales)

        def qkv(source: str, names: tuple[str, ...], norms: tuple[str, str], target: str) -> list[Pair]:
            norm_q, norm_k = (take(f"{source}.{name}.weight", head)[order] for name in norms)
            into.state |= {f"{target}.norm.q": norm_q * head**-0.5, f"{target}.norm.k": norm_k}
            q, k, v = (linear(f"{source}.{name}", width, width) for name in names)
            ordered = [(weight[rows], cast(torch.Tensor, bias)[rows]) for weight, bias in (q, k)]
            return [*ordered, v]

        weight, bias = linear("x_embedder", width, channels)
        put("patch_embed", (weight.reshape(width, -1, PATCH, PATCH), bias))
        into.put_embedding("time.", "time_text_embed.timestep_embedder", width, TIME_CHANNELS)
        if config["guidance_embeds"]:
            into.put_embedding("guidance.", "time_text_embed.guidance_embedder", width, TIME_CHANNELS)
        into.put_embedding("pooled.", "time_text_embed.text_embedder", width, config["pooled_projection_dim"])
        put("text", linear("context_embedder", width, config["joint_attention_dim"]))
        for i in range(config["num_layers"]):
            source, target = f"transformer_blocks.{i}", f"double_blocks.{i}"
            adaptive = (modulation(f"{source}.{norm}.linear", 6, 1, 4) for norm in ("norm1", "norm1_context"))
            put(f"{target}.modulation", *adaptive)
            for own, (names, norms, out, ff) in MODALITIES.items():
                put(f"{target}.{own}.qkv", *qkv(f"{source}.attn", names, norms, f"{target}.{own}"))
                put(f"{target}.{own}.out", linear(f"{source}.attn.{out}", width, width))
                into.put_feed_forward(f"{target}.{own}", f"{source}.{ff}", width)
        for i in range(config["num_single_layers"]):
            source, target = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
            put(f"{target}.modulation", modulation(f"{source}.norm.linear", 3, 1))
            up = linear(f"{source}.proj_mlp", 4 * width, width)
            put(f"{target}.qkv_up", *qkv(f"{source}.attn", *MODALITIES["image"][:2], target), up)
            put(f"{target}.down", linear(f"{source}.proj_out", width, 5 * width))
        put("final_modulation", modulation("norm_out.linear", 2, 0))
        put("final", linear("proj_out", channels, width))
        into.put_constants(frequencies=TIME_SCALE * time_frequencies(), **FluxDenoiser.placed(config))

    @classmethod
    def placed(cls, config: dict) -> dict[str, torch.Tensor]:
        config = DEFAULTS | config
        height, width = latent_size(config)
        ids, axes = positions(height // PATCH, width // PATCH), enumerate(config["axes_dims_rope"])
        cos, sin = rotary_tables(torch.cat([ids[:, i, None] * time_frequencies(axis) for i, axis in axes], dim=1))
        return {"cos": cos, "sin": sin}


def positions(rows: int, columns: int) -> torch.Tensor:
    """The ids [S, 3] of an image's tokens: 0, row, column."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3)
