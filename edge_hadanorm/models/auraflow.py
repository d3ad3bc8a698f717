"""AuraFlow: diffusers' AuraFlowTransformer2DModel as `prepare` (once a prompt) and `denoise` (every step).

An MMDiT (arXiv 2403.03206), whose first blocks keep layers apart for image and text and attend on both, and whose other
blocks take the two as one sequence; there is no paper of its own. Linears that read the same tensor are stacked into
one (q, k and v; the halves of a gated feed-forward), and the mean that the layer norms of q and k take off is taken off
the rows of their weights. Timesteps are from 0 to 1. Quantized are the linears of the blocks; patch and time embedding,
modulations, the projection of the text and the last linear stay in float.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.fold import Gate, LinearModulation, Producer, Values
from edge_hadanorm.method.linear import equal_parts
from edge_hadanorm.method.operators import layer_norm, rms_norm
from edge_hadanorm.models.conversion import Conversion, Pair, add_ones, check_fixed
from edge_hadanorm.models.denoiser import State
from edge_hadanorm.models.layers import (
    TIME_CHANNELS,
    Heads,
    StackedLinear,
    attention,
    sinusoid,
    time_frequencies,
)
from edge_hadanorm.models.patches import PatchDenoiser, check_patches, crop_positions, grid_of, latent_size

EPS = 1e-5
TIMES = 1000  # timesteps from 0 to 1 are embedded as from 0 to 1000
REGISTERS = 8
# q, k, v and the output linear of an attention, for the image and for the text.
IMAGE = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class Branch(nn.Module):
    """A block's layers on one kind of tokens, without biases but for the 1 of a scale, in the modulation."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = StackedLinear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = StackedLinear(width, 2 * inner_width(width), bias=False)
        self.down = nn.Linear(inner_width(width), width, bias=False)

    def enter(self, x: torch.Tensor, time: torch.Tensor) -> tuple[Heads, list[torch.Tensor]]:
        """Heads [B, S, h] of q, of k and of v, and what `leave` takes of the modulation."""
        shift, scale, *rest = equal_parts(self.modulation(time), 6)
        heads, count = self.qkv(layer_norm(x, EPS) * scale, shift=shift, parts=3 * self.heads), self.heads
        q = [rms_norm(head, eps=EPS, rms=head.shape[-1] ** -0.5) for head in heads[:count]]
        k = [rms_norm(head, eps=EPS) for head in heads[count : 2 * count]]
        return q + k + heads[2 * count :], rest

    def leave(self, x: torch.Tensor, attended: torch.Tensor, modulation: list[torch.Tensor]) -> torch.Tensor:
        """The block's output: attention goes on through the feed-forward alone, not beside it."""
        gate_a, shift, scale, gate_f = modulation
        y = layer_norm(x + gate_a * self.out(attended), EPS)
        gate, value = self.up(y * scale, shift=shift, parts=2)
        return x + gate_f * self.down(F.silu(gate) * value)


class JointBlock(nn.Module):
    """Image and text with layers of their own, in one attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.image, self.text = Branch(width, heads), Branch(width, heads)

    def forward(self, x, text, time):
        """Tokens x [B, S, d] and text [B, L, d], time [1 or B, 1, d]; both tokens again."""
        heads, modulation = self.image.enter(x, time)
        text_heads, text_modulation = self.text.enter(text, time)
        attended = attend([torch.cat(pair, dim=1) for pair in zip(heads, text_heads, strict=True)])
        count = x.shape[1]
        x = self.image.leave(x, attended[:, :count], modulation)
        return x, self.text.leave(text, attended[:, count:], text_modulation)


class SingleBlock(Branch):
    """Image and text as one sequence."""

    def forward(self, x, time):
        heads, modulation = self.enter(x, time)
        return self.leave(x, attend(heads), modulation)


def attend(heads: Heads) -> torch.Tensor:
    """Attention [B, S, d] of heads of q, of k and of v."""
    count = len(heads) // 3
    return attention(heads[:count], heads[count : 2 * count], heads[2 * count :])


def inner_width(width: int) -> int:
    """Features between the linears of a feed-forward: 8/3 of the tokens', rounded up to a multiple of 256."""
    return -(-(8 * width // 3) // 256) * 256


class AuraFlowDenoiser(PatchDenoiser):
    """The denoiser of an AuraFlowTransformer2DModel config; H and W are `latent_size(config)`."""

    blocks: Any  # a ModuleList of Block

    source_class = "AuraFlowTransformer2DModel"

    def __init__(self, config: dict):
        super().__init__(config, biased=False)
        self.text_width, self.joint = config["joint_attention_dim"], config["num_mmdit_layers"]
        self.time_up = nn.Linear(TIME_CHANNELS, self.width)
        self.time_down = nn.Linear(self.width, self.width)
        self.text = nn.Linear(self.text_width, self.width, bias=False)
        self.registers = nn.Parameter(torch.empty(1, REGISTERS, self.width))
        kinds = [JointBlock] * self.joint + [SingleBlock] * config["num_single_dit_layers"]
        self.blocks = nn.ModuleList(kind(self.width, self.heads) for kind in kinds)
        self.final_modulation = nn.Linear(self.width, 2 * self.width)

    def prompt_shapes(self, tokens: int, masked: bool = False) -> dict[str, tuple[int, ...]]:
        """The transformer takes no mask: padding is text of zeros."""
        return {"text": (tokens, self.text_width)}

    def stages(self) -> list[list[str]]:
        rest = ("out", "up", "down")
        return [
            [f"{own}.qkv" for own in branches] + [f"{own}.{name}" for own in branches for name in rest]
            for branches in self._branches()
        ]

    def steady(self) -> list[str]:
        """Linears as PixArt's: a mean moves behind an adaptive layer norm and, of text on its own, with the prompt."""
        return [name for name in self.quantizable() if name.endswith((".out", ".down")) and ".text." not in name]

    def producers(self) -> dict[str, Producer]:
        """Producers outside joint blocks, whose values two linears make and two read, so that nothing folds there."""
        made: dict[str, Producer] = {}
        for branches in self._branches():
            for own in branches:
                made |= {
                    f"{own}.qkv": LinearModulation(f"{own}.modulation", shift=0, scale=1),
                    f"{own}.up": LinearModulation(f"{own}.modulation", shift=3, scale=4),
                    f"{own}.down": Gate(f"{own}.up", inner_width(self.width)),
                }
            if len(branches) == 1:
                made[f"{own}.out"] = Values(f"{own}.qkv", 2 * self.width, self.width // self.heads)
        return made

    def prepare(self, text: torch.Tensor) -> list[torch.Tensor]:
        """Tokens [B, L + REGISTERS, d] of a text [B, L, C], registers (arXiv 2309.16588) first."""
        return [torch.cat([torch.cat([self.registers] * len(text)), self.text(text)], dim=1)]

    def begin(self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> State:
        return self._tokens(latents), *self.prepare(text), self._time(timestep).expand(len(latents), -1, -1)

    def advance(self, stage: int, state: State) -> State:
        """Run one block on tokens, those of the text, and time; past joint blocks the first hold both, image first."""
        x, text, time = state
        if stage < self.joint:
            return *self.blocks[stage](x, text, time), time
        if stage == self.joint:
            x = torch.cat([x, text], dim=1)
        return self.blocks[stage](x, time), None, time

    def finish(self, state: State) -> torch.Tensor:
        x, _, time = state
        scale, shift = equal_parts(self.final_modulation(time), 2)
        return self._latents(x[:, : math.prod(self.grid)] * scale + shift)

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        state = self._tokens(latents), *conditioning, self._time(timestep)
        for stage in range(len(self.blocks)):
            state = self.advance(stage, state)
        return self.finish(state)

    def _branches(self) -> list[list[str]]:
        """Names, block by block."""
        kinds = [("image", "text")] * self.joint + [()] * (len(self.blocks) - self.joint)
        return [[f"blocks.{i}.{kind}" for kind in own] or [f"blocks.{i}"] for i, own in enumerate(kinds)]

    def _time(self, timestep: torch.Tensor) -> torch.Tensor:
        """Input of every modulation: [1] -> [1, 1, d]."""
        return F.silu(self.time_down(F.silu(self.time_up(sinusoid(timestep, self.frequencies)))))

    @staticmethod
    def check(config: dict) -> None:
        check_patches(config, "num_mmdit_layers", "num_single_dit_layers", "joint_attention_dim", "pos_embed_max_size")
        most, limit = max(grid_of(config)), math.isqrt(config["pos_embed_max_size"])
        if most > limit:
            raise UserError(
                f"transformer config: {max(latent_size(config))} latent pixels have {most} patches a side, more than "
                f"the {limit} of pos_embed_max_size"
            )
        width = config["num_attention_heads"] * config["attention_head_dim"]
        check_fixed(config, {"out_channels": config["in_channels"], "caption_projection_dim": width})

    @staticmethod
    def fill(config: dict, into: Conversion) -> None:
        """Stacked, centred, cut to the positions of this size."""
        patch, channels, head = config["patch_size"], config["in_channels"], config["attention_head_dim"]
        width, joint = head * config["num_attention_heads"], config["num_mmdit_layers"]
        take, put = into.take, into.put

        def bare(name: str, rows: int, columns: int) -> Pair:
            return into.linear(name, rows, columns, bias=False)

        def put_branch(target: str, source: str, names: tuple[str, ...] = IMAGE, context: str = "") -> None:
            put(f"{target}.modulation", add_ones(bare(f"{source}.norm1{context}.linear", 6 * width, width), 1, 4))
            (q, _), (k, _), v, out = (bare(f"{source}.attn.{name}", width, width) for name in names)
            put(f"{target}.qkv", (centred(q, head), None), (centred(k, head), None), v)
            put(f"{target}.out", out)
            feed, inner = f"{source}.ff{context}", inner_width(width)
            put(f"{target}.up", bare(f"{feed}.linear_1", inner, width), bare(f"{feed}.linear_2", inner, width))
            put(f"{target}.down", bare(f"{feed}.out_projection", width, inner))

        weight, bias = into.linear("pos_embed.proj", width, channels * patch * patch)
        put("patch_embed", (weight.unflatten(1, (channels, patch, patch)), bias))
        most, (rows, columns) = config["pos_embed_max_size"], grid_of(config)
        side, positions = math.isqrt(most), take("pos_embed.pos_embed", 1, most, width)
        first = side // 2 - rows // 2, side // 2 - columns // 2
        into.state["positions"] = crop_positions(positions, side, first, (rows, columns))
        into.put_embedding("time_", "time_step_proj", width, TIME_CHANNELS)
        put("text", bare("context_embedder", width, config["joint_attention_dim"]))
        into.state["registers"] = take("register_tokens", 1, REGISTERS, width)
        for i in range(joint):
            put_branch(f"blocks.{i}.image", f"joint_transformer_blocks.{i}")
            put_branch(f"blocks.{i}.text", f"joint_transformer_blocks.{i}", TEXT, "_context")
        for i in range(config["num_single_dit_layers"]):
            put_branch(f"blocks.{joint + i}", f"single_transformer_blocks.{i}")
        put("final_modulation", add_ones(bare("norm_out.linear", 2 * width, width), 0))
        put("final", bare("proj_out", patch * patch * channels, width))
        into.put_constants(frequencies=TIMES * time_frequencies())

    @classmethod
    def placed(cls, config: dict) -> dict[str, torch.Tensor]:
        raise UserError(f"positions of {cls.source_class} are learned: give `size` where it is quantized")


def centred(weight: torch.Tensor, head: int) -> torch.Tensor:
    """A weight [m, d] less the mean row of each head, so that its outputs have mean 0 within heads."""
    heads = weight.double().unflatten(0, (-1, head))
    return (heads - heads.mean(1, keepdim=True)).flatten(0, 1).to(weight.dtype)
