"""Stable Diffusion 3 and 3.5: diffusers' SD3Transformer2DModel as `prepare` (once a prompt) and `denoise` (every step).

An MMDiT (arXiv 2403.03206): image and text are two streams of tokens with weights of their own, which attend jointly.
Both streams change with the timestep, so that `prepare` is no more than the text's and the pooled text's projections.
The last block's text only gives keys and values: its queries are cut. Linears that read the same tensor are stacked
into one, and the attention scale is folded into q, or into the weight of its norm. Quantized are the linears of the
blocks; embeddings, projections of the prompt, adaptive layer norms and the last linear stay in float.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from typing_extensions import Self

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.fold import LinearModulation, Producer, Values
from edge_hadanorm.method.linear import equal_parts
from edge_hadanorm.method.operators import layer_norm
from edge_hadanorm.models.conversion import Conversion, add_ones, check_fixed, scaled
from edge_hadanorm.models.denoiser import State
from edge_hadanorm.models.layers import (
    TIME_CHANNELS,
    FeedForward,
    Heads,
    StackedLinear,
    attention,
    normed_heads,
    sinusoid,
    time_frequencies,
)
from edge_hadanorm.models.patches import PatchDenoiser, check_patches, crop_positions, grid_of, sincos_positions

# Linears of a block, those that it has, in order of execution.
LINEARS = (
    *("image.attn.qkv", "text.attn.qkv", "image.attn.out", "image.attn2.qkv", "image.attn2.out"),
    *("image.ff.up", "image.ff.down", "text.attn.out", "text.ff.up", "text.ff.down"),
)
# Shift and scale, as parts of their stream's modulation, of the linears that read an adaptive layer norm.
MODULATED = {"attn.qkv": (0, 1), "ff.up": (3, 4), "attn2.qkv": (6, 7)}
# How far positions may be from those of the formula, as they are where they were saved in half precision.
ROUNDED = 2e-3
# Where diffusers has q, k, v, out and the norms of q and k of each stream.
IMAGE = ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k")
TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k")


class Attention(nn.Module):
    """One stream's linears of multi-head attention. normed: q and k have an RMS norm. last: without q and out."""

    def __init__(self, width: int, heads: int, normed: bool, last: bool = False):
        super().__init__()
        self.heads, self.count = heads, 2 if last else 3
        self.qkv = StackedLinear(width, self.count * width)
        self.norm_q: Any = nn.Parameter(torch.empty(width // heads)) if normed and not last else None
        self.norm_k = nn.Parameter(torch.empty(width // heads)) if normed else None
        self.out: Any = None if last else nn.Linear(width, width)

    def project(self, x: torch.Tensor, shift: torch.Tensor) -> tuple[Heads, Heads, Heads]:
        """q (scaled), k and v of tokens x, to which a shift is still to be added."""
        heads = self.heads
        if self.norm_k is None:
            made = self.qkv(x, shift=shift, parts=self.count * heads)
            return made[: -2 * heads], made[-2 * heads : -heads], made[-heads:]
        *q, k, v = self.qkv(x, shift=shift, parts=self.count)
        q = normed_heads(q[0], self.norm_q) if q else []
        return q, normed_heads(k, self.norm_k), equal_parts(v, heads)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Attention of the stream's tokens on themselves."""
        return self.out(attention(*self.project(x, shift)))


class Stream(nn.Module):
    """One stream's part of a block. dual: with a second attention, of the stream on itself (SD 3.5 medium).

    Its modulation is shift, scale and gate of the joint attention, the feed-forward and a dual attention, with the 1 of
    a scale in the bias. last: it is shift and scale, as there is nothing past the attention's keys and values.
    """

    def __init__(self, width: int, heads: int, normed: bool, dual: bool = False, last: bool = False):
        super().__init__()
        self.count = 2 if last else 9 if dual else 6
        self.modulation = nn.Linear(width, self.count * width)
        self.attn = Attention(width, heads, normed, last)
        self.attn2: Any = Attention(width, heads, normed) if dual else None
        self.ff: Any = None if last else FeedForward(width, 4 * width)

    def parts(self, condition: torch.Tensor) -> list[torch.Tensor]:
        """Shifts, scales and gates, each [B, 1, d]."""
        return equal_parts(self.modulation(condition), self.count)

    def forward(self, x: torch.Tensor, y: torch.Tensor, parts: list[torch.Tensor], attended: torch.Tensor):
        """x [B, S, d] past the block; y: its layer norm, attended [B, S, d]: what the joint attention made of it."""
        gate_a, shift_f, scale_f, gate_f, *dual = parts[2:]
        x = x + gate_a * self.attn.out(attended)
        if dual:
            shift, scale, gate = dual
            x = x + gate * self.attn2(y * scale, shift)
        return x + gate_f * self.ff(layer_norm(x) * scale_f, shift_f)


class Block(nn.Module):
    """MMDiT block (arXiv 2403.03206, section 4). last: after it the text is read no more."""

    def __init__(self, width: int, heads: int, normed: bool, dual: bool, last: bool):
        super().__init__()
        self.last = last
        self.image = Stream(width, heads, normed, dual)
        self.text = Stream(width, heads, normed, last=last)

    def forward(self, x, text, condition):
        """x [B, S, d], text [B, L, d], condition [B, 1, d] -> x and text, None after the last block."""
        image, words = self.image.parts(condition), self.text.parts(condition)
        y, z, tokens = layer_norm(x), layer_norm(text), x.shape[1]
        q, k, v = self.image.attn.project(y * image[1], image[0])
        text_q, text_k, text_v = self.text.attn.project(z * words[1], words[0])
        attended = attention(joined(q, text_q), joined(k, text_k), joined(v, text_v))
        if self.last:
            return self.image(x, y, image, attended), None
        x = self.image(x, y, image, attended[:, :tokens])
        return x, self.text(text, z, words, attended[:, tokens:])


class SD3Denoiser(PatchDenoiser):
    """The denoiser of an SD3Transformer2DModel config; H and W are `latent_size(config)`.

    Of a prompt it takes text [L, joint_attention_dim] and pooled [pooled_projection_dim].
    """

    blocks: Any  # a ModuleList of Block

    source_class = "SD3Transformer2DModel"

    def __init__(self, config: dict):
        super().__init__(config)
        width, layers = self.width, config["num_layers"]
        self.text_width, self.pooled_width = config["joint_attention_dim"], config["pooled_projection_dim"]
        self.time_up = nn.Linear(TIME_CHANNELS, width)
        self.time_down = nn.Linear(width, width)
        self.pooled_up = nn.Linear(self.pooled_width, width)
        self.pooled_down = nn.Linear(width, width)
        self.text_embed = nn.Linear(self.text_width, width)
        normed, dual = config.get("qk_norm") is not None, config.get("dual_attention_layers") or ()
        self.blocks = nn.ModuleList(Block(width, self.heads, normed, i in dual, i == layers - 1) for i in range(layers))
        self.final_modulation = nn.Linear(width, 2 * width)

    def prompt_shapes(self, tokens: int, masked: bool = False) -> dict[str, tuple[int, ...]]:
        """There is no mask: the transformer attends to the padding too."""
        return {"text": (tokens, self.text_width), "pooled": (self.pooled_width,)}

    def stages(self) -> list[list[str]]:
        present = [set(dict(block.named_modules())) for block in self.blocks]
        return [[f"blocks.{i}.{name}" for name in LINEARS if name in present[i]] for i in range(len(self.blocks))]

    def steady(self) -> list[str]:
        """A mean moves behind an adaptive layer norm, and with the prompt, whose are all of the text's tokens."""
        return [name for name in self.quantizable() if ".image." in name and name.endswith((".out", ".down"))]

    def producers(self) -> dict[str, Producer]:
        """A joint attention's output has two readers, and two linears make its values: that is left online."""
        made: dict[str, Producer] = {}
        for name in self.quantizable():
            stream, *parts = name.rsplit(".", 2)
            if (linear := ".".join(parts)) in MODULATED:
                made[name] = LinearModulation(f"{stream}.modulation", *MODULATED[linear])
            elif linear == "attn2.out":
                made[name] = Values(f"{stream}.attn2.qkv", 2 * self.width, self.width // self.heads)
        return made

    def prepare(self, text: torch.Tensor, pooled: torch.Tensor) -> list[torch.Tensor]:
        """The text's tokens [B, L, d] and its share [B, 1, d] of the condition, of text [B, L, C] and pooled [B, P]."""
        return [self.text_embed(text), self.pooled_down(F.silu(self.pooled_up(pooled))).unsqueeze(1)]

    def begin(self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor) -> State:
        return self._begun(latents, timestep, self.prepare(text, pooled))

    def advance(self, stage: int, state: State) -> State:
        x, text, condition = state
        return *self.blocks[stage](x, text, condition), condition

    def finish(self, state: State) -> torch.Tensor:
        x, _, condition = state
        shift, scale = equal_parts(self.final_modulation(condition), 2)
        return self._latents(layer_norm(x) * scale + shift)

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        state = self._begun(latents, timestep, conditioning)
        for stage in range(len(self.blocks)):
            state = self.advance(stage, state)
        return self.finish(state)

    def _begun(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> State:
        """x [B, S, d], text [B, L, d], condition [B, 1, d]."""
        text, pooled = conditioning
        return self._tokens(latents), text, self._condition(timestep, pooled)

    def _condition(self, timestep: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Input of every adaptive layer norm, of a timestep [1] and the pooled text's share: [B, 1, d]."""
        time = self.time_down(F.silu(self.time_up(sinusoid(timestep, self.frequencies))))
        return F.silu(time + pooled)

    @staticmethod
    def check(config: dict) -> None:
        check_patches(config, "num_layers", "joint_attention_dim", "pooled_projection_dim", "pos_embed_max_size")
        grid, most = max(grid_of(config)), config["pos_embed_max_size"]
        if grid > most:
            raise UserError(f"transformer config: {grid} patches a side are more than pos_embed_max_size {most}")
        width = config["num_attention_heads"] * config["attention_head_dim"]
        check_fixed(config, {"caption_projection_dim": width, "out_channels": config["in_channels"]})
        if (norm := config.get("qk_norm")) not in (None, "rms_norm"):
            raise UserError(f"transformer config: qk_norm is {norm!r}; only null and 'rms_norm' are supported")
        dual = config.get("dual_attention_layers") or ()
        if not isinstance(dual, list | tuple) or any(type(layer) is not int for layer in dual):
            raise UserError(f"transformer config: dual_attention_layers is {dual!r}, not a list of layers")

    @staticmethod
    def fill(config: dict, into: Conversion) -> None:
        """Stacked, scaled, cropped, cut."""
        head, layers, patch = config["attention_head_dim"], config["num_layers"], config["patch_size"]
        width, channels = head * config["num_attention_heads"], config["in_channels"]
        normed, duals = config.get("qk_norm") is not None, config.get("dual_attention_layers") or ()
        take, linear, put = into.take, into.linear, into.put

        def put_modulation(target: str, source: str, parts: int) -> None:
            """Shift, scale, gate and so on; of two parts diffusers has the scale first."""
            weight, bias = linear(source, parts * width, width)
            shift = width if parts == 2 else 0
            pair = weight.roll(shift, dims=0), cast(torch.Tensor, bias).roll(shift, dims=0)
            put(target, add_ones(pair, *range(1, parts, 3)))

        def put_attention(target: str, source: str, names: tuple[str, ...], last: bool = False) -> None:
            q, k, v = (linear(f"{source}.{name}", width, width) for name in names[:3])
            if normed:
                norm_q, norm_k = (take(f"{source}.{name}.weight", head) for name in names[4:])
                into.state |= {f"{target}.norm_k": norm_k} | ({} if last else {f"{target}.norm_q": norm_q * head**-0.5})
            else:
                q = scaled(q, head**-0.5)
            put(f"{target}.qkv", *(() if last else (q,)), k, v)
            if not last:
                put(f"{target}.out", linear(f"{source}.{names[3]}", width, width))

        into.put_patches("pos_embed.proj", width, channels, patch)
        into.put_embedding("time_", "time_text_embed.timestep_embedder", width, TIME_CHANNELS)
        into.put_embedding("pooled_", "time_text_embed.text_embedder", width, config["pooled_projection_dim"])
        put("text_embed", linear("context_embedder", width, config["joint_attention_dim"]))
        for i in range(layers):
            source, target, last = f"transformer_blocks.{i}", f"blocks.{i}", i == layers - 1
            put_modulation(f"{target}.image.modulation", f"{source}.norm1.linear", 9 if i in duals else 6)
            put_modulation(f"{target}.text.modulation", f"{source}.norm1_context.linear", 2 if last else 6)
            put_attention(f"{target}.image.attn", f"{source}.attn", IMAGE)
            put_attention(f"{target}.text.attn", f"{source}.attn", TEXT, last)
            into.put_feed_forward(f"{target}.image.ff", f"{source}.ff", width)
            if i in duals:
                put_attention(f"{target}.image.attn2", f"{source}.attn2", IMAGE)
            if not last:
                into.put_feed_forward(f"{target}.text.ff", f"{source}.ff_context", width)
        put_modulation("final_modulation", "norm_out.linear", 2)
        put("final", linear("proj_out", patch * patch * channels, width))
        # Positions are those of a larger grid, of which pictures of this size take the middle.
        most = config["pos_embed_max_size"]
        into.state["positions"] = middle(take("pos_embed.pos_embed", 1, most * most, width), config)
        into.put_constants(frequencies=time_frequencies())

    @classmethod
    def placed(cls, config: dict) -> dict[str, torch.Tensor]:
        """Positions as they were initialized: published checkpoints have those."""
        most = config["pos_embed_max_size"]
        return {"positions": middle(sincos_positions(config, grid=(most, most)), config)}

    def resized(self, height: int, width: int) -> Self:
        """Raises UserError also where positions are learned, of which only those of this size are here."""
        made = self.placed(self.config)["positions"].to(cast(torch.Tensor, self.positions))
        if (height, width) != self.size and not torch.allclose(made, cast(torch.Tensor, self.positions), atol=ROUNDED):
            raise UserError(f"positions of this {self.source_class} are learned: give `size` where it is quantized")
        return super().resized(height, width)


def middle(positions: torch.Tensor, config: dict) -> torch.Tensor:
    """The middle of positions [1, n, d] of the largest grid, for the grid of this config."""
    most, (rows, columns) = config["pos_embed_max_size"], grid_of(config)
    return crop_positions(positions, most, ((most - rows) // 2, (most - columns) // 2), (rows, columns))


def joined(image: Heads, text: Heads) -> Heads:
    """Heads of both streams' tokens, the image's first; the image's where the text has none."""
    return [torch.cat(pair, dim=1) for pair in zip(image, text, strict=True)] if text else image
