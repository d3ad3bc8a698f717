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

LAYER_NORM_EPS = 1e-6
TIME_CHANNELS = 256
# What attention's scores may take; one head of 2048 tokens fits.
SCORES_BYTES = 16 << 20
Heads = list[torch.Tensor]


def attention(q: Heads, k: Heads, v: Heads, bias: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(q k^T + bias) v [B, S, d] from a q [B, S, h] (already scaled), k and v [B, L, h] a head, bias [B, 1, L].

    Head by head, and for long sequences a part of the queries at a time: exact, with SCORES_BYTES of scores in memory
    at most, and faster than all heads at once, whose scores leave the caches.
    """
    batch, tokens, _ = q[0].shape
    chunk = max(1, min(tokens, SCORES_BYTES // (batch * k[0].shape[1] * q[0].element_size())))
    outputs = []
    for queries, keys, values in zip(q, k, v, strict=True):
        keys, rows = keys.transpose(1, 2), []
        for start in range(0, tokens, chunk):
            scores = torch.bmm(queries if chunk == tokens else queries[:, start : start + chunk], keys)
            rows.append(torch.bmm(torch.softmax(scores if bias is None else scores + bias, dim=-1), values))
        outputs.append(torch.cat(rows, dim=1) if len(rows) > 1 else rows[0])
    return torch.cat(outputs, dim=-1)


def layer_norm(x: torch.Tensor) -> torch.Tensor:
    """Layer norm over the features of x [..., d], without weight: in products, which mobile backends take whole.

    As an operator of its own it would split a program into two delegates, and run on one thread.
    """
    mean = x.new_full((1, x.shape[-1]), 1 / x.shape[-1])
    x = x - F.linear(x, mean)
    return x * torch.rsqrt(F.linear(x * x, mean) + LAYER_NORM_EPS)


class StackedLinear(nn.Linear):
    """Linears that read one tensor, as one: the float form of a `QuantizedLinear`, with its arguments."""

    def forward(
        self,
        x: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        shift: torch.Tensor | None = None,
        parts: int | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        y = super().forward(x if shift is None else x + shift)
        return y if parts is None else equal_parts(y, parts)


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


class PixArtDenoiser(nn.Module):
    """The denoiser of a PixArtTransformer2DModel config.

    Latents are [B, C, H, W] with H = W = config["sample_size"], timesteps [1], text [B, L, caption_channels].
    """

    source_class = "PixArtTransformer2DModel"

    def __init__(self, config: dict):
        super().__init__()
        check_config(config)
        self.config = config
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

    @classmethod
    def from_diffusers(cls, config: dict, weights: dict[str, torch.Tensor]) -> "PixArtDenoiser":
        """From a transformer's config and its state dict, in the state dict's dtype.

        Raises UserError for a missing or mis-shaped tensor.
        """
        with torch.device("meta"):
            denoiser = cls(config)
        denoiser.load_state_dict(convert(config, weights), assign=True)
        return denoiser

    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        return self.channels, self.side, self.side

    def quantizable(self) -> list[str]:
        """Names of the linears that a recipe quantizes, in order of execution."""
        return [name for stage in self.stages() for name in stage]

    def stages(self) -> list[list[str]]:
        """The same, block by block: what `advance` runs, and no transform folds from one into another."""
        names = ("attn1.qkv", "attn1.out", "attn2.q", "attn2.kv", "attn2.out", "ff.up", "ff.down")
        return [[f"blocks.{i}.{name}" for name in names] for i in range(len(self.blocks))]

    def steady(self) -> list[str]:
        """Linears whose inputs keep their mean from call to call: a recipe's dynamic centre is a static one there.

        A mean moves where the timestep shifts it, behind an adaptive layer norm, and with the prompt. On the reference
        model dynamic means of the other inputs gain 0.08 dB at W4A4, within 0.1 dB of nothing at W4A8 and W8A8, and
        cost a twentieth of a step.
        """
        moving = ("attn1.qkv", "attn2.kv", "ff.up")
        return [name for name in self.quantizable() if not name.endswith(moving)]

    def producers(self) -> dict[str, Producer]:
        """What makes the input of a quantizable linear, where a transform can fold into it."""
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
        """The conditioning of a prompt: keys and values of every block, and with a mask [B, L] the scores' bias."""
        text = self._text(text)
        conditioning = [t for block in self.blocks for t in block.attn2.prepare(text, mask)]
        if mask is not None:
            conditioning.append(mask_bias(mask))
        return conditioning

    def begin(
        self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, ...]:
        """A call of the denoiser, up to its first block, for `advance`: tensors of B sequences each."""
        modulation = self.time_modulation(F.silu(self._time(timestep)))
        return self._tokens(latents), modulation.expand(len(latents), -1, -1), self._text(text), mask

    def advance(self, stage: int, state: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
        """Such calls, one block on: prepare and denoise of that block."""
        x, modulation, text, mask = state
        block = self.blocks[stage]
        bias = None if mask is None else mask_bias(mask)
        return block(x, modulation, *block.attn2.prepare(text, mask), bias), modulation, text, mask

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        """The prediction [B, C, H, W] at one timestep [1], the same for the whole batch."""
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
        angles = timestep.reshape(1, 1, 1) * self.frequencies
        return self.time_down(F.silu(self.time_up(torch.cat([angles.cos(), angles.sin()], dim=-1))))


def mask_bias(mask: torch.Tensor) -> torch.Tensor:
    """What a mask [B, L] (1: keep) adds to attention's scores [B, S, L]: [B, 1, L]."""
    return ((1 - mask) * -10000.0).unsqueeze(1)


def check_config(config: dict) -> None:
    """Raises UserError where the config is of a PixArt this form does not cover."""
    required = ("num_attention_heads", "attention_head_dim", "in_channels", "patch_size", "sample_size", "num_layers")
    for key in (*required, "caption_channels"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise UserError(f"transformer config: {key!r} is {config.get(key)!r}, not a positive whole number")
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
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise UserError(f"transformer config: {key} is {config[key]!r}; only {value!r} is supported")


def modulation(table: torch.Tensor, scales: tuple[int, ...]) -> torch.Tensor:
    """A table [n, d] as a row [1, 1, n d], with 1 added to the rows that are scales."""
    table = table.clone()
    table[list(scales)] += 1
    return table.reshape(1, 1, -1)


def convert(config: dict, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A PixArtTransformer2DModel state dict as a PixArtDenoiser's: stacked, scaled, cut."""
    patch, side, channels = config["patch_size"], config["sample_size"], config["in_channels"]
    head = config["attention_head_dim"]
    width = head * config["num_attention_heads"]
    taken = set()

    def take(name: str, *shape: int) -> torch.Tensor:
        if name not in weights:
            raise UserError(f"transformer weights: tensor {name!r} is missing; the file is not of this config")
        if (found := tuple(weights[name].shape)) != shape:
            raise UserError(f"transformer weights: {name!r} has shape {list(found)}, the config asks for {list(shape)}")
        taken.add(name)
        return weights[name]

    def linear(source: str, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        return take(f"{source}.weight", rows, columns), take(f"{source}.bias", rows)

    state: dict[str, torch.Tensor] = {}

    def put(target: str, *parts: tuple[torch.Tensor, torch.Tensor]) -> None:
        state[f"{target}.weight"] = torch.cat([weight for weight, _ in parts])
        state[f"{target}.bias"] = torch.cat([bias for _, bias in parts])

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
    half = TIME_CHANNELS // 2
    state["frequencies"] = (10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)).to(dtype)
    grid = side // patch
    scale = config.get("interpolation_scale") or max(side // 64, 1)
    positions = get_2d_sincos_pos_embed(width, grid, base_size=grid, interpolation_scale=scale, output_type="pt")
    state["positions"] = positions.unsqueeze(0).to(dtype)
    if foreign := sorted(set(weights) - taken - {"pos_embed.pos_embed"}):
        raise UserError(f"transformer weights: unknown tensor {foreign[0]!r}; the file is not of this config")
    return {name: tensor.contiguous() for name, tensor in state.items()}
