"""DiT: diffusers' class-conditional DiTTransformer2DModel (arXiv 2212.09748) as `prepare` and `denoise`.

A prompt is a `label` [B], the number of a class as a float; the number after the last class is that of no class. Every
block of diffusers' DiT embeds label and timestep on its own: its row for the label is looked up in `prepare`. q, k and
v are stacked, the attention scale is folded into q, and a learned variance, which no sampler here reads, is cut from
the last linear. Quantized are attention and feed-forward; patch, time and label embeddings, the linears of the
modulation, of which there is one token, and the last linear stay in float.
"""

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.fold import LinearModulation, Producer, Values
from edge_hadanorm.linear import equal_parts
from edge_hadanorm.models.denoiser import Denoiser, State
from edge_hadanorm.models.parts import (
    TIME_CHANNELS,
    Pair,
    Weights,
    check_fixed,
    check_sizes,
    layer_norm,
    sinusoid,
    stacked,
    time_frequencies,
)
from edge_hadanorm.models.pixart import Attention, FeedForward

# Of the norm before a feed-forward; the others have the default of `layer_norm`.
FEED_FORWARD_EPS = 1e-5


class Block(nn.Module):
    """adaLN-Zero block (section 3.2), whose shifts, scales and gates are the six parts of `modulation`.

    The 1 of a scale is in the bias of `modulation`. labels: a row for every class, and the last for none.
    """

    def __init__(self, width: int, heads: int, classes: int):
        super().__init__()
        self.time_up = nn.Linear(TIME_CHANNELS, width)
        self.time_down = nn.Linear(width, width)
        self.labels = nn.Embedding(classes + 1, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.attn = Attention(width, heads)
        self.ff = FeedForward(width, 4 * width)

    def prepare(self, label: torch.Tensor) -> torch.Tensor:
        """The rows [B, 1, d] of labels [B]."""
        return self.labels(label.long()).unsqueeze(1)

    def condition(self, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """What modulations are made of, [B, 1, d]: sinusoids [1 or B, 1, c] of the timestep, rows [B, 1, d]."""
        return F.silu(self.time_down(F.silu(self.time_up(time))) + label)

    def forward(self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """x [B, S, d], and what `condition` takes."""
        parts = equal_parts(self.modulation(self.condition(time, label)), 6)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
        x = x + gate_a * self.attn(layer_norm(x) * scale_a, shift_a)
        return x + gate_f * self.ff(layer_norm(x, FEED_FORWARD_EPS) * scale_f, shift_f)


class DiTDenoiser(Denoiser):
    """The denoiser of a DiTTransformer2DModel config; H = W = config["sample_size"]."""

    source_class = "DiTTransformer2DModel"

    def __init__(self, config: dict):
        super().__init__(config)
        check_config(config)
        self.heads = config["num_attention_heads"]
        self.width = width = self.heads * config["attention_head_dim"]
        self.channels, self.patch, self.side = config["in_channels"], config["patch_size"], config["sample_size"]
        self.classes = config["num_embeds_ada_norm"]
        grid = self.side // self.patch
        self.patch_embed = nn.Conv2d(self.channels, width, self.patch, stride=self.patch)
        self.register_buffer("positions", torch.empty(1, grid * grid, width))
        self.blocks = nn.ModuleList(Block(width, self.heads, self.classes) for _ in range(config["num_layers"]))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, self.patch * self.patch * self.channels)
        self.register_buffer("frequencies", torch.empty(TIME_CHANNELS // 2))

    @staticmethod
    def convert(config: dict, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Stacked, scaled, cut."""
        return convert(config, Weights(weights))

    def latent_shape(self) -> tuple[int, int, int]:
        return self.channels, self.side, self.side

    def prompt_shapes(self, tokens: int, masked: bool = False) -> dict[str, tuple[int, ...]]:
        """A class has no text, so there are no tokens and nothing to mask."""
        return {"label": ()}

    def stages(self) -> list[list[str]]:
        names = ("attn.qkv", "attn.out", "ff.up", "ff.down")
        return [[f"blocks.{i}.{name}" for name in names] for i in range(len(self.blocks))]

    def steady(self) -> list[str]:
        """A mean moves where timestep and class shift it, behind an adaptive layer norm."""
        return [name for name in self.quantizable() if name.endswith(("attn.out", "ff.down"))]

    def producers(self) -> dict[str, Producer]:
        head, made = self.width // self.heads, {}
        for block in (f"blocks.{i}" for i in range(len(self.blocks))):
            made |= {
                f"{block}.attn.qkv": LinearModulation(f"{block}.modulation", shift=0, scale=1),
                f"{block}.attn.out": Values(f"{block}.attn.qkv", 2 * self.width, head),
                f"{block}.ff.up": LinearModulation(f"{block}.modulation", shift=3, scale=4),
            }
        return made

    def prepare(self, label: torch.Tensor) -> list[torch.Tensor]:
        """Every block's rows [B, 1, d] for labels [B]."""
        return [block.prepare(label) for block in self.blocks]

    def begin(self, latents: torch.Tensor, timestep: torch.Tensor, label: torch.Tensor) -> State:
        time = sinusoid(timestep, self.frequencies)
        return self._tokens(latents), time.expand(len(latents), -1, -1), label

    def advance(self, stage: int, state: State) -> State:
        x, time, label = state
        block = self.blocks[stage]
        return block(x, time, block.prepare(label)), time, label

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        time = sinusoid(timestep, self.frequencies)
        x = self._tokens(latents)
        for block, label in zip(self.blocks, conditioning, strict=True):
            x = block(x, time, label)
        # The last norm is modulated by what the first block makes of timestep and class.
        shift, scale = equal_parts(self.final_modulation(self.blocks[0].condition(time, conditioning[0])), 2)
        x = self.final(layer_norm(x) * scale + shift)
        grid, patch = self.side // self.patch, self.patch
        x = x.reshape(-1, grid, grid, patch, patch, self.channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, self.channels, self.side, self.side)

    def _tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """Patches and their positions: [B, C, H, W] -> [B, S, d]."""
        return self.patch_embed(latents).flatten(2).transpose(1, 2) + self.positions


def check_config(config: dict) -> None:
    """Raises UserError where the config is of a DiT this form does not cover."""
    check_sizes(config, "num_attention_heads", "attention_head_dim", "in_channels", "patch_size", "sample_size")
    check_sizes(config, "num_layers", "num_embeds_ada_norm")
    side, patch, channels, out = (config.get(k) for k in ("sample_size", "patch_size", "in_channels", "out_channels"))
    if side % patch:
        raise UserError(f"transformer config: patch_size {patch} does not divide sample_size {side}")
    if out is not None and out < channels:
        raise UserError(f"transformer config: out_channels {out} is less than in_channels {channels}")
    fixed = {
        "norm_type": "ada_norm_zero",
        "activation_fn": "gelu-approximate",
        "norm_elementwise_affine": False,
        "norm_eps": FEED_FORWARD_EPS,
        "attention_bias": True,
    }
    check_fixed(config, fixed)


def modulation(pair: Pair, width: int, scales: tuple[int, ...]) -> Pair:
    """A linear of parts of `width` features, with 1 added to those that are scales."""
    weight, bias = pair[0], pair[1].clone()
    bias.view(-1, width)[list(scales)] += 1
    return weight, bias


def convert(config: dict, weights: Weights) -> dict[str, torch.Tensor]:
    """A DiTTransformer2DModel state dict as a DiTDenoiser's."""
    patch, side, channels = config["patch_size"], config["sample_size"], config["in_channels"]
    head = config["attention_head_dim"]
    width = head * config["num_attention_heads"]
    take, linear, state = weights.take, weights.linear, {}

    def put(target: str, *pairs: Pair) -> None:
        state.update(stacked(target, *pairs))

    put(
        "patch_embed",
        (take("pos_embed.proj.weight", width, channels, patch, patch), take("pos_embed.proj.bias", width)),
    )
    for i in range(config["num_layers"]):
        source, target = f"transformer_blocks.{i}", f"blocks.{i}"
        embedder = f"{source}.norm1.emb"
        put(f"{target}.time_up", linear(f"{embedder}.timestep_embedder.linear_1", width, TIME_CHANNELS))
        put(f"{target}.time_down", linear(f"{embedder}.timestep_embedder.linear_2", width, width))
        rows = config["num_embeds_ada_norm"] + 1
        state[f"{target}.labels.weight"] = take(f"{embedder}.class_embedder.embedding_table.weight", rows, width)
        pair = linear(f"{source}.norm1.linear", 6 * width, width)
        put(f"{target}.modulation", modulation(pair, width, scales=(1, 4)))
        q, k, v = (linear(f"{source}.attn1.to_{name}", width, width) for name in "qkv")
        put(f"{target}.attn.qkv", tuple(t * head**-0.5 for t in q), k, v)
        put(f"{target}.attn.out", linear(f"{source}.attn1.to_out.0", width, width))
        put(f"{target}.ff.up", linear(f"{source}.ff.net.0.proj", 4 * width, width))
        put(f"{target}.ff.down", linear(f"{source}.ff.net.2", width, 4 * width))
    put("final_modulation", modulation(linear("proj_out_1", 2 * width, width), width, scales=(1,)))
    out = config.get("out_channels") or channels
    weight, bias = linear("proj_out_2", patch * patch * out, width)
    # Rows are (patch row, patch column, channel); channels past the latents' are a learned variance.
    keep = torch.arange(patch * patch * out).reshape(-1, out)[:, :channels].flatten()
    put("final", (weight[keep], bias[keep]))
    dtype, grid = bias.dtype, side // patch
    state["frequencies"] = time_frequencies(shift=1).to(dtype)
    positions = get_2d_sincos_pos_embed(width, grid, base_size=grid, output_type="pt")
    state["positions"] = positions.unsqueeze(0).to(dtype)
    weights.check_all_taken("pos_embed.pos_embed")
    return state
