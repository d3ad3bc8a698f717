"""Layers of the families' denoisers: attention, rotary embedding, feed-forward, timestep embedding."""

import torch
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.method.linear import equal_parts
from edge_hadanorm.method.operators import rms_norm

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


def normed_heads(x: torch.Tensor, weight: torch.Tensor) -> Heads:
    """Heads [B, S, h] of x [B, S, d], RMS-normed with a weight [h]: all at once, for a program of few operators."""
    normed = rms_norm(x.reshape(len(x), -1, len(weight)), weight).reshape(x.shape)
    return equal_parts(normed, x.shape[-1] // len(weight))


def rotary_tables(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines [1, S, h] for `rotary`, of angles [S, h / 2]."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1).unsqueeze(0), torch.cat([-sin, sin], dim=-1).unsqueeze(0)


def rotary(heads: Heads, cos: torch.Tensor, sin: torch.Tensor) -> Heads:
    """Rotary embedding (RoFormer, arXiv 2104.09864) of heads [B, S, h]: feature i rotates with feature i + h / 2."""
    return [x * cos + torch.cat(equal_parts(x, 2)[::-1], dim=-1) * sin for x in heads]


class StackedLinear(nn.Linear):
    """Linears that read one tensor, as one: the float form of a `QuantizedLinear`, with its arguments."""

    def forward(  # type: ignore[override]  # a linear with more arguments, and parts where they are asked for
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
    """Feed-forward of tokens, to which a shift is still to be added."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.up = StackedLinear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x, shift=shift), approximate="tanh"))


def sinusoid(timestep: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """The embedding [1 or B, 1, 2 n] of a timestep [1], or of one each [B], at frequencies [n], cosines first."""
    angles = timestep.reshape(-1, 1, 1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def time_frequencies(channels: int = TIME_CHANNELS, shift: int = 0) -> torch.Tensor:
    """Frequencies [channels / 2], float64, of diffusers' timestep embedding; shift: its downscale_freq_shift."""
    half = channels // 2
    return 10000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - shift))


def mask_bias(mask: torch.Tensor) -> torch.Tensor:
    """The bias [B, 1, L] that a mask [B, L] (1: keep) adds to attention's scores [B, S, L]."""
    return ((1 - mask) * -10000.0).unsqueeze(1)


def mask_of(bias: torch.Tensor) -> torch.Tensor:
    """The mask [B, L] that such a bias was made of: float32 knows no power of e as small as what padding gets."""
    return bias.exp().reshape(len(bias), -1)
