"""Sana, Sana 1.5 and Sana-Sprint: diffusers' SanaTransformer2DModel as `prepare` and `denoise`.

Linear Diffusion Transformers (arXiv 2410.10629): self attention is linear, a feed-forward has a depthwise convolution
in it, and there are positions only where the config has an `interpolation_scale`. Linears that read the same tensor are
stacked into one, the scale of the attention on the text is folded into q, and the 1x1 convolutions of a feed-forward
are linears on tokens. Quantized are the linears of the blocks; patch, time and guidance embedding, caption projection,
the depthwise convolutions and the last linear stay in float.
"""

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.fold import LinearValues, Modulation, Producer, Values
from edge_hadanorm.linear import equal_parts
from edge_hadanorm.models import pixart
from edge_hadanorm.models.denoiser import Denoiser, State
from edge_hadanorm.models.parts import (
    LAYER_NORM_EPS,
    TIME_CHANNELS,
    Pair,
    StackedLinear,
    Weights,
    attention,
    check_fixed,
    check_sizes,
    layer_norm,
    mask_bias,
    rms_norm,
    sinusoid,
    stacked,
    time_frequencies,
)
from edge_hadanorm.models.pixart import CrossAttention, modulation

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
    """The same of normed queries and keys."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        self.norm_q, self.norm_k = Norm(width), Norm(width)

    def prepare(self, text: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        k, v = super().prepare(text, weights)
        return self.norm_k(k), v

    def forward(self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self.out(attention(*(equal_parts(t, self.heads) for t in (self.norm_q(self.q(x)), k, v)), bias))


class FeedForward(nn.Module):
    """Mix-FFN: a gated linear unit that mixes each token with its neighbours [B, S, d], S = H W, W = `side`."""

    def __init__(self, width: int, inner: int, side: int):
        super().__init__()
        self.side = side
        self.up = StackedLinear(width, 2 * inner)
        self.mix = nn.Conv2d(2 * inner, 2 * inner, 3, padding=1, groups=2 * inner)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        tokens = F.silu(self.up(x, shift=shift))
        x = self.mix(tokens.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2))
        # Gated before the way back, which then has half to move.
        half = x.shape[1] // 2
        x = x[:, :half] * F.silu(x[:, half:])
        return self.down(x.permute(0, 2, 3, 1).flatten(1, 2))


class Block(pixart.Block):
    """PixArt's, with this attention and feed-forward."""

    def __init__(self, config: dict):
        heads, text_heads = config["num_attention_heads"], config["num_cross_attention_heads"]
        width = heads * config["attention_head_dim"]
        super().__init__(width, text_heads)
        self.attn1 = Attention(width, heads, normed=config.get("qk_norm") is not None)
        if config.get("qk_norm") is not None:
            self.attn2 = NormedCrossAttention(width, text_heads)
        self.ff = FeedForward(width, int(config["mlp_ratio"] * width), config["sample_size"] // config["patch_size"])


class SanaDenoiser(Denoiser):
    """The denoiser of a SanaTransformer2DModel config; H = W = config["sample_size"].

    With `guidance_embeds` a prompt has a `guidance` [B], as the transformer's forward takes it: scaled already.
    """

    source_class = "SanaTransformer2DModel"

    def __init__(self, config: dict):
        super().__init__(config)
        check_config(config)
        self.width = width = config["num_attention_heads"] * config["attention_head_dim"]
        self.channels, self.patch, self.side = config["in_channels"], config["patch_size"], config["sample_size"]
        self.text_width, self.guided = config["caption_channels"], bool(config.get("guidance_embeds"))
        grid = self.side // self.patch
        self.patch_embed = nn.Conv2d(self.channels, width, self.patch, stride=self.patch)
        placed = config.get("interpolation_scale") is not None
        self.register_buffer("positions", torch.empty(1, grid * grid, width) if placed else None)
        for name in ("time", "guidance") if self.guided else ("time",):
            setattr(self, f"{name}_up", nn.Linear(TIME_CHANNELS, width))
            setattr(self, f"{name}_down", nn.Linear(width, width))
        self.time_modulation = nn.Linear(width, 6 * width)
        self.text_up = nn.Linear(self.text_width, width)
        self.text_down = nn.Linear(width, width)
        self.text_norm = Norm(width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["num_layers"]))
        self.final_modulation = nn.Parameter(torch.empty(1, 1, 2 * width))
        self.final = nn.Linear(width, self.patch * self.patch * self.channels)
        self.register_buffer("frequencies", torch.empty(TIME_CHANNELS // 2))

    @staticmethod
    def convert(config: dict, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Stacked and scaled."""
        return convert(config, Weights(weights))

    def latent_shape(self) -> tuple[int, int, int]:
        return self.channels, self.side, self.side

    def prompt_shapes(self, tokens: int, masked: bool = False) -> dict[str, tuple[int, ...]]:
        shapes = {"text": (tokens, self.text_width)} | ({"mask": (tokens,)} if masked else {})
        return shapes | ({"guidance": ()} if self.guided else {})

    def stages(self) -> list[list[str]]:
        names = ("attn1.qkv", "attn1.out", "attn2.q", "attn2.kv", "attn2.out", "ff.up", "ff.down")
        return [[f"blocks.{i}.{name}" for name in names] for i in range(len(self.blocks))]

    def steady(self) -> list[str]:
        """As of PixArt: a mean moves behind an adaptive layer norm, and with the prompt."""
        moving = ("attn1.qkv", "attn2.kv", "ff.up")
        return [name for name in self.quantizable() if not name.endswith(moving)]

    def producers(self) -> dict[str, Producer]:
        made, width = {}, self.width
        head, text_head = self.config["attention_head_dim"], width // self.config["num_cross_attention_heads"]
        for block in (f"blocks.{i}" for i in range(len(self.blocks))):
            made |= {
                f"{block}.attn1.qkv": Modulation(block, shift=0, scale=1),
                f"{block}.attn1.out": LinearValues(f"{block}.attn1.qkv", 2 * width, head, f"{block}.attn1"),
                f"{block}.attn2.out": Values(f"{block}.attn2.kv", width, text_head),
                f"{block}.ff.up": Modulation(block, shift=3, scale=4),
            }
        return made

    def prepare(
        self, text: torch.Tensor, mask: torch.Tensor | None = None, guidance: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Keys and values of every block for a text [B, L, C], a mask's bias of scores, a guidance's embedding."""
        text = self._text(text)
        conditioning = [t for block in self.blocks for t in block.attn2.prepare(text, mask)]
        if mask is not None:
            conditioning.append(mask_bias(mask))
        if self.guided:
            conditioning.append(self._guidance(guidance))
        return conditioning

    def begin(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        mask: torch.Tensor | None = None,
        guidance: torch.Tensor | None = None,
    ) -> State:
        time = self._time(timestep, self._guidance(guidance) if self.guided else None)
        modulation = self.time_modulation(F.silu(time))
        return self._tokens(latents), modulation.expand(len(latents), -1, -1), self._text(text), mask

    def advance(self, stage: int, state: State) -> State:
        x, modulation, text, mask = state
        block = self.blocks[stage]
        bias = None if mask is None else mask_bias(mask)
        return block(x, modulation, *block.attn2.prepare(text, mask), bias), modulation, text, mask

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        pairs = 2 * len(self.blocks)
        bias = conditioning[pairs] if len(conditioning) > pairs + self.guided else None
        time = self._time(timestep, conditioning[-1] if self.guided else None)
        modulation = self.time_modulation(F.silu(time))
        x = self._tokens(latents)
        for i, block in enumerate(self.blocks):
            x = block(x, modulation, conditioning[2 * i], conditioning[2 * i + 1], bias)
        shift, scale = (part + time for part in equal_parts(self.final_modulation, 2))
        x = self.final(layer_norm(x) * scale + shift)
        grid, patch = self.side // self.patch, self.patch
        x = x.reshape(-1, grid, grid, patch, patch, self.channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, self.channels, self.side, self.side)

    def _tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """Patches, and their positions where there are any: [B, C, H, W] -> [B, S, d]."""
        x = self.patch_embed(latents).flatten(2).transpose(1, 2)
        return x if self.positions is None else x + self.positions

    def _text(self, text: torch.Tensor) -> torch.Tensor:
        """The caption projection and its norm: [B, L, C] -> [B, L, d]."""
        return self.text_norm(self.text_down(F.gelu(self.text_up(text), approximate="tanh")))

    def _time(self, timestep: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
        """The embedding of a timestep [1], to which a guidance's [B, 1, d] adds: [1 or B, 1, d]."""
        time = self.time_down(F.silu(self.time_up(sinusoid(timestep, self.frequencies))))
        return time if guidance is None else time + guidance

    def _guidance(self, guidance: torch.Tensor) -> torch.Tensor:
        """[B] -> [B, 1, d]"""
        return self.guidance_down(F.silu(self.guidance_up(sinusoid(guidance, self.frequencies))))


def check_config(config: dict) -> None:
    """Raises UserError where the config is of a Sana this form does not cover."""
    check_sizes(config, "num_attention_heads", "attention_head_dim", "in_channels", "patch_size", "sample_size")
    check_sizes(config, "num_layers", "caption_channels", "num_cross_attention_heads")
    side, patch, ratio = config["sample_size"], config["patch_size"], config.get("mlp_ratio")
    if side % patch:
        raise UserError(f"transformer config: patch_size {patch} does not divide sample_size {side}")
    if type(ratio) not in (int, float) or ratio <= 0:
        raise UserError(f"transformer config: 'mlp_ratio' is {ratio!r}, not a positive number")
    width, fixed = config["num_attention_heads"] * config["attention_head_dim"], {}
    if config.get("out_channels") is not None:
        fixed["out_channels"] = config["in_channels"]
    if config.get("qk_norm") is not None:
        fixed["qk_norm"] = "rms_norm_across_heads"
    fixed |= {"cross_attention_dim": width, "cross_attention_head_dim": width // config["num_cross_attention_heads"]}
    check_fixed(config, fixed | {"norm_elementwise_affine": False, "norm_eps": LAYER_NORM_EPS})


def convert(config: dict, weights: Weights) -> dict[str, torch.Tensor]:
    """A SanaTransformer2DModel state dict as a SanaDenoiser's."""
    patch, channels = config["patch_size"], config["in_channels"]
    width = config["num_attention_heads"] * config["attention_head_dim"]
    inner, grid = int(config["mlp_ratio"] * width), config["sample_size"] // patch
    normed, guided = config.get("qk_norm") is not None, config.get("guidance_embeds")
    take, linear, state = weights.take, weights.linear, {}
    bias = take("patch_embed.proj.bias", width)
    zero = bias.new_zeros(width)

    def put(target: str, *pairs: Pair) -> None:
        state.update(stacked(target, *pairs))

    def put_both(target: str, source: str, columns: int) -> None:
        put(f"{target}_up", linear(f"{source}.linear_1", width, columns))
        put(f"{target}_down", linear(f"{source}.linear_2", width, width))

    def times(factor: torch.Tensor | float, pair: Pair) -> Pair:
        """Outputs times a number or a factor [d] each."""
        weight, bias = pair
        return (weight.T * factor).T, bias * factor

    put("patch_embed", (take("patch_embed.proj.weight", width, channels, patch, patch), bias))
    put_both("time", f"time_embed{'' if guided else '.emb'}.timestep_embedder", TIME_CHANNELS)
    if guided:
        put_both("guidance", "time_embed.guidance_embedder", TIME_CHANNELS)
    put("time_modulation", linear("time_embed.linear", 6 * width, width))
    put_both("text", "caption_projection", config["caption_channels"])
    state["text_norm.weight"] = take("caption_norm.weight", width)
    for i in range(config["num_layers"]):
        source, target = f"transformer_blocks.{i}", f"blocks.{i}"
        state[f"{target}.modulation"] = modulation(take(f"{source}.scale_shift_table", 6, width), scales=(1, 4))
        state[f"{target}.gain"] = torch.ones_like(state[f"{target}.modulation"])
        state[f"{target}.attn1.rest"] = zero.clone()
        for attn, biased in (("attn1", config.get("attention_bias")), ("attn2", True)):
            pairs = (linear(f"{source}.{attn}.to_{name}", width, width, biased) for name in "qkv")
            # With biases in any case, for what transforms of the values add.
            q, k, v = ((w, zero if b is None else b) for w, b in pairs)
            scale = 1 if attn == "attn1" else config["cross_attention_head_dim"] ** -0.5
            if normed:
                state[f"{target}.{attn}.norm_k.weight"] = take(f"{source}.{attn}.norm_k.weight", width)
                scale = scale * take(f"{source}.{attn}.norm_q.weight", width)
            if attn == "attn1":
                put(f"{target}.attn1.qkv", times(scale, q), k, v)
            else:
                put(f"{target}.attn2.q", q if normed else times(scale, q))
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
    state["final_modulation"] = modulation(take("scale_shift_table", 2, width), scales=(1,))
    put("final", linear("proj_out", patch * patch * channels, width))
    state["frequencies"] = time_frequencies().to(bias.dtype)
    if (scale := config.get("interpolation_scale")) is not None:
        positions = get_2d_sincos_pos_embed(width, grid, base_size=grid, interpolation_scale=scale, output_type="pt")
        state["positions"] = positions.unsqueeze(0).to(bias.dtype)
    weights.check_all_taken("patch_embed.pos_embed")
    return state
