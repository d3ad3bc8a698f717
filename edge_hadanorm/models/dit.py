"""DiT: diffusers' class-conditional DiTTransformer2DModel (arXiv 2212.09748) as `prepare` and `denoise`.

A prompt is a `label` [B], the number of a class as a float; the number after the last class is that of no class. Every
block of diffusers' DiT embeds label and timestep on its own: its row for the label is looked up in `prepare`. q, k and
v are stacked, the attention scale is folded into q, and a learned variance, which no sampler here reads, is cut from
the last linear. Quantized are attention and feed-forward; patch, time and label embeddings, the linears of the
modulation, of which there is one token, and the last linear stay in float.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.fold import LinearModulation, Producer, Values
from edge_hadanorm.method.linear import equal_parts
from edge_hadanorm.method.operators import layer_norm
from edge_hadanorm.models.conversion import Conversion, add_ones, check_fixed, cut_variance, scaled
from edge_hadanorm.models.denoiser import State
from edge_hadanorm.models.layers import TIME_CHANNELS, Attention, FeedForward, sinusoid, time_frequencies
from edge_hadanorm.models.patches import PatchDenoiser, check_patches, check_variance, latent_size, sincos_positions

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
        """Condition of the modulations, [B, 1, d]: sinusoids [1 or B, 1, c] of the timestep, rows [B, 1, d]."""
        return F.silu(self.time_down(F.silu(self.time_up(time))) + label)

    def forward(self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """x [B, S, d], and what `condition` takes."""
        parts = equal_parts(self.modulation(self.condition(time, label)), 6)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
        x = x + gate_a * self.attn(layer_norm(x) * scale_a, shift_a)
        return x + gate_f * self.ff(layer_norm(x, FEED_FORWARD_EPS) * scale_f, shift_f)


class DiTDenoiser(PatchDenoiser):
    """The denoiser of a DiTTransformer2DModel config; H and W are `latent_size(config)`."""

    blocks: Any  # a ModuleList of Block

    source_class = "DiTTransformer2DModel"
    unread = ("pos_embed.pos_embed",)

    def __init__(self, config: dict):
        super().__init__(config)
        self.classes = config["num_embeds_ada_norm"]
        self.blocks = nn.ModuleList(Block(self.width, self.heads, self.classes) for _ in range(config["num_layers"]))
        self.final_modulation = nn.Linear(self.width, 2 * self.width)

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
        head = self.width // self.heads
        made: dict[str, Producer] = {}
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

    def finish(self, state: State) -> torch.Tensor:
        x, time, label = state
        return self._prediction(x, time, self.blocks[0].prepare(label))

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        time = sinusoid(timestep, self.frequencies)
        x = self._tokens(latents)
        for block, label in zip(self.blocks, conditioning, strict=True):
            x = block(x, time, label)
        return self._prediction(x, time, conditioning[0])

    def _prediction(self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Prediction from the last block's tokens, their norm modulated by the first block's timestep and class."""
        shift, scale = equal_parts(self.final_modulation(self.blocks[0].condition(time, label)), 2)
        return self._latents(layer_norm(x) * scale + shift)

    @staticmethod
    def check(config: dict) -> None:
        check_patches(config, "num_layers", "num_embeds_ada_norm")
        check_variance(config)
        if len(set(size := latent_size(config))) > 1:  # diffusers puts patches together as those of a square
            raise UserError(f"`size`: latents of {list(size)} (height, width) are no square, which a DiT needs")
        fixed = {
            "norm_type": "ada_norm_zero",
            "activation_fn": "gelu-approximate",
            "norm_elementwise_affine": False,
            "norm_eps": FEED_FORWARD_EPS,
            "attention_bias": True,
        }
        check_fixed(config, fixed)

    @staticmethod
    def fill(config: dict, into: Conversion) -> None:
        """Stacked, scaled, cut."""
        patch, channels, head = config["patch_size"], config["in_channels"], config["attention_head_dim"]
        width, rows = head * config["num_attention_heads"], config["num_embeds_ada_norm"] + 1
        linear, put = into.linear, into.put
        into.put_patches("pos_embed.proj", width, channels, patch)
        for i in range(config["num_layers"]):
            source, target = f"transformer_blocks.{i}", f"blocks.{i}"
            embedder = f"{source}.norm1.emb"
            into.put_embedding(f"{target}.time_", f"{embedder}.timestep_embedder", width, TIME_CHANNELS)
            labels = into.take(f"{embedder}.class_embedder.embedding_table.weight", rows, width)
            into.state[f"{target}.labels.weight"] = labels
            put(f"{target}.modulation", add_ones(linear(f"{source}.norm1.linear", 6 * width, width), 1, 4))
            q, k, v = (linear(f"{source}.attn1.to_{name}", width, width) for name in "qkv")
            put(f"{target}.attn.qkv", scaled(q, head**-0.5), k, v)
            put(f"{target}.attn.out", linear(f"{source}.attn1.to_out.0", width, width))
            into.put_feed_forward(f"{target}.ff", f"{source}.ff", width)
        put("final_modulation", add_ones(linear("proj_out_1", 2 * width, width), 1))
        out = config.get("out_channels") or channels
        put("final", cut_variance(linear("proj_out_2", patch * patch * out, width), channels, out))
        into.put_constants(frequencies=time_frequencies(shift=1), **DiTDenoiser.placed(config))

    @classmethod
    def placed(cls, config: dict) -> dict[str, torch.Tensor]:
        return {"positions": sincos_positions(config)}
