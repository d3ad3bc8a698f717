"""PixArt-alpha and -Sigma: diffusers' PixArtTransformer2DModel as `prepare` (once a prompt) and `denoise` (every step).

Linears that read the same tensor are stacked into one (q, k and v; k and v of the text), the attention scale is folded
into q, and a learned variance, which no sampler here reads, is cut from the last linear. Quantized are the linears of
the blocks; patch and time embedding, caption projection and the last linear stay in float.
"""

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.fold import Modulation, Producer, Values
from edge_hadanorm.linear import equal_parts
from edge_hadanorm.models.denoiser import Denoiser, State
from edge_hadanorm.models.parts import (
    LAYER_NORM_EPS,
    TIME_CHANNELS,
    StackedLinear,
    Weights,
    attention,
    check_fixed,
    check_sizes,
    layer_norm,
    mask_bias,
    sinusoid,
    stacked,
    time_frequencies,
)


class Attention(nn.Module):
    """Multi-head attention on the tokens themselves, to which a shift is still to be added."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = StackedLinear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        heads, count = self.qkv(x, shift=shift, parts=3 * self.heads), self.heads
        return self.out(attention(heads[:count], heads[count : 2 * count], heads[2 * count :]))


class CrossAttention(nn.Module):
    """Multi-head attention on the text, whose keys and values come from `prepare`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = StackedLinear(width, width)
        self.kv = StackedLinear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def prepare(self, text: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [B, L, d] of text [B, L, d]."""
        return tuple(self.kv(text, weights, parts=2))

    def forward(self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        q = self.q(x, parts=self.heads)
        return self.out(attention(q, equal_parts(k, self.heads), equal_parts(v, self.heads), bias))


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.up = StackedLinear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x, shift=shift), approximate="tanh"))


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


class PixArtDenoiser(Denoiser):
    """The denoiser of a PixArtTransformer2DModel config; H = W = config["sample_size"]."""

    source_class = "PixArtTransformer2DModel"

    def __init__(self, config: dict):
        super().__init__(config)
        check_config(config)
        self.heads = config["num_attention_heads"]
        self.width = width = self.heads * config["attention_head_dim"]
        self.channels, self.patch, self.side = config["in_channels"], config["patch_size"], config["sample_size"]
        self.text_width = config["caption_channels"]
        grid = self.side // self.patch
        self.patch_embed = nn.Conv2d(self.channels, width, self.patch, stride=self.patch)
        self.register_buffer("positions", torch.empty(1, grid * grid, width))
        self.time_up = nn.Linear(TIME_CHANNELS, width)
        self.time_down = nn.Linear(width, width)
        self.time_modulation = nn.Linear(width, 6 * width)
        self.text_up = nn.Linear(self.text_width, width)
        self.text_down = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, self.heads) for _ in range(config["num_layers"]))
        self.final_modulation = nn.Parameter(torch.empty(1, 1, 2 * width))
        self.final = nn.Linear(width, self.patch * self.patch * self.channels)
        self.register_buffer("frequencies", torch.empty(TIME_CHANNELS // 2))

    @staticmethod
    def convert(config: dict, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Stacked, scaled, cut."""
        return convert(config, Weights(weights))

    def latent_shape(self) -> tuple[int, int, int]:
        return self.channels, self.side, self.side

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
        head, made = self.width // self.heads, {}
        for block in (f"blocks.{i}" for i in range(len(self.blocks))):
            made |= {
                f"{block}.attn1.qkv": Modulation(block, shift=0, scale=1),
                f"{block}.attn1.out": Values(f"{block}.attn1.qkv", 2 * self.width, head),
                f"{block}.attn2.out": Values(f"{block}.attn2.kv", self.width, head),
                f"{block}.ff.up": Modulation(block, shift=3, scale=4),
            }
        return made

    def prepare(self, text: torch.Tensor, mask: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Keys and values of every block for a text [B, L, C], and with a mask [B, L] the scores' bias."""
        text = self._text(text)
        conditioning = [t for block in self.blocks for t in block.attn2.prepare(text, mask)]
        if mask is not None:
            conditioning.append(mask_bias(mask))
        return conditioning

    def begin(
        self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, mask: torch.Tensor | None = None
    ) -> State:
        modulation = self.time_modulation(F.silu(self._time(timestep)))
        return self._tokens(latents), modulation.expand(len(latents), -1, -1), self._text(text), mask

    def advance(self, stage: int, state: State) -> State:
        x, modulation, text, mask = state
        block = self.blocks[stage]
        bias = None if mask is None else mask_bias(mask)
        return block(x, modulation, *block.attn2.prepare(text, mask), bias), modulation, text, mask

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        time = self._time(timestep)
        modulation = self.time_modulation(F.silu(time))
        x = self._tokens(latents)
        bias = conditioning[2 * len(self.blocks)] if len(conditioning) % 2 else None
        for i, block in enumerate(self.blocks):
            x = block(x, modulation, conditioning[2 * i], conditioning[2 * i + 1], bias)
        shift, scale = (part + time for part in equal_parts(self.final_modulation, 2))
        x = self.final(layer_norm(x) * scale + shift)
        grid, patch = self.side // self.patch, self.patch
        x = x.reshape(-1, grid, grid, patch, patch, self.channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, self.channels, self.side, self.side)

    def _tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """Patches and their positions: [B, C, H, W] -> [B, S, d]."""
        return self.patch_embed(latents).flatten(2).transpose(1, 2) + self.positions

    def _text(self, text: torch.Tensor) -> torch.Tensor:
        """The caption projection: [B, L, C] -> [B, L, d]."""
        return self.text_down(F.gelu(self.text_up(text), approximate="tanh"))

    def _time(self, timestep: torch.Tensor) -> torch.Tensor:
        """Sinusoidal embedding and its two linears: [1] -> [1, 1, d]."""
        return self.time_down(F.silu(self.time_up(sinusoid(timestep, self.frequencies))))


def check_config(config: dict) -> None:
    """Raises UserError where the config is of a PixArt this form does not cover."""
    check_sizes(config, "num_attention_heads", "attention_head_dim", "in_channels", "patch_size", "sample_size")
    check_sizes(config, "num_layers", "caption_channels")
    side, patch, channels, out = (config.get(k) for k in ("sample_size", "patch_size", "in_channels", "out_channels"))
    if side % patch:
        raise UserError(f"transformer config: patch_size {patch} does not divide sample_size {side}")
    if out is not None and out < channels:
        raise UserError(f"transformer config: out_channels {out} is less than in_channels {channels}")
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


def modulation(table: torch.Tensor, scales: tuple[int, ...]) -> torch.Tensor:
    """A table [n, d] as a row [1, 1, n d], with 1 added to the rows that are scales."""
    table = table.clone()
    table[list(scales)] += 1
    return table.reshape(1, 1, -1)


def convert(config: dict, weights: Weights) -> dict[str, torch.Tensor]:
    """A PixArtTransformer2DModel state dict as a PixArtDenoiser's."""
    patch, side, channels = config["patch_size"], config["sample_size"], config["in_channels"]
    head = config["attention_head_dim"]
    width = head * config["num_attention_heads"]
    take, linear, state = weights.take, weights.linear, {}

    def put(target: str, *pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
        state.update(stacked(target, *pairs))

    put(
        "patch_embed",
        (take("pos_embed.proj.weight", width, channels, patch, patch), take("pos_embed.proj.bias", width)),
    )
    time = "adaln_single.emb.timestep_embedder"
    put("time_up", linear(f"{time}.linear_1", width, TIME_CHANNELS))
    put("time_down", linear(f"{time}.linear_2", width, width))
    put("time_modulation", linear("adaln_single.linear", 6 * width, width))
    put("text_up", linear("caption_projection.linear_1", width, config["caption_channels"]))
    put("text_down", linear("caption_projection.linear_2", width, width))
    for i in range(config["num_layers"]):
        source, target = f"transformer_blocks.{i}", f"blocks.{i}"
        state[f"{target}.modulation"] = modulation(take(f"{source}.scale_shift_table", 6, width), scales=(1, 4))
        state[f"{target}.gain"] = torch.ones_like(state[f"{target}.modulation"])
        for attn in ("attn1", "attn2"):
            q, k, v = (linear(f"{source}.{attn}.to_{name}", width, width) for name in "qkv")
            q = tuple(t * head**-0.5 for t in q)
            if attn == "attn1":
                put(f"{target}.attn1.qkv", q, k, v)
            else:
                put(f"{target}.attn2.q", q)
                put(f"{target}.attn2.kv", k, v)
            put(f"{target}.{attn}.out", linear(f"{source}.{attn}.to_out.0", width, width))
        put(f"{target}.ff.up", linear(f"{source}.ff.net.0.proj", 4 * width, width))
        put(f"{target}.ff.down", linear(f"{source}.ff.net.2", width, 4 * width))
    state["final_modulation"] = modulation(take("scale_shift_table", 2, width), scales=(1,))
    out = config.get("out_channels") or channels
    weight, bias = linear("proj_out", patch * patch * out, width)
    # Rows are (patch row, patch column, channel); channels past the latents' are a learned variance.
    keep = torch.arange(patch * patch * out).reshape(-1, out)[:, :channels].flatten()
    put("final", (weight[keep], bias[keep]))
    dtype = bias.dtype
    state["frequencies"] = time_frequencies().to(dtype)
    grid = side // patch
    scale = config.get("interpolation_scale") or max(side // 64, 1)
    positions = get_2d_sincos_pos_embed(width, grid, base_size=grid, interpolation_scale=scale, output_type="pt")
    state["positions"] = positions.unsqueeze(0).to(dtype)
    weights.check_all_taken("pos_embed.pos_embed")
    return state
