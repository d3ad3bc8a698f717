"""The transform of a linear's input, and its inverse folded into the weight.

For tokens x [S, d], a linear y = x W^T + b, any mean mu [d], positive scale D [d] and orthogonal R [d, d]:

    z = ((x - mu) / D) R            what the device quantizes
    W' = (W diag(D)) R              what is quantized offline
    y = z W'^T + (mu W^T + b)       exact before quantization (HadaNorm, arXiv 2506.09932)

A dynamic mu, the mean over the tokens of one call, is split into the calibrated mean, whose share mu W^T is exact in
the bias, and the rest, whose share is computed on the device with W'.
"""

import torch
from torch import nn

from edge_hadanorm.method.hadamard import hadamard_matrix, is_hadamard_order, largest_block, rotate
from edge_hadanorm.method.operators import token_mean

Rotation = tuple[tuple[int, int], ...]


class FeatureTransform(nn.Module):
    """z = ((x - mu) / D) R for inputs of `width` features.

    centre [d]: the calibrated mean, or None. dynamic: subtract the mean of each call's tokens instead of it.
    scale [d]: D, or None. rotation: orthonormal factors of R as (order, stride), applied in turn: a Hadamard matrix of
    that order mixes features that lie `stride` apart. A block Hadamard is one factor of stride 1, a Kronecker product
    two.
    """

    centre: torch.Tensor | None
    inverse_scale: torch.Tensor | None

    def __init__(
        self,
        centre: torch.Tensor | None = None,
        dynamic: bool = False,
        scale: torch.Tensor | None = None,
        rotation: Rotation = (),
    ):
        super().__init__()
        self.dynamic = dynamic
        self.rotation: Rotation = tuple((order, stride) for order, stride in rotation)
        self.register_buffer("centre", centre)
        self.register_buffer("inverse_scale", None if scale is None else 1 / scale)
        for order, _ in self.rotation:
            self.register_buffer(f"hadamard_{order}", hadamard_matrix(order), persistent=False)

    def forward(
        self, x: torch.Tensor, weights: torch.Tensor | None = None, shift: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """z [B, S, d] of tokens x [B, S, d], and with a dynamic centre the row r [B, 1, d] that z misses, else None.

        Then y = z W'^T + r W'^T + b' with `fold`'s W' and b'. weights [B, S]: non-negative weights of the tokens in
        the mean (0 for padding), not all zero; None: all the same. Any mean keeps the identity exact.
        shift [1 or B, 1, d]: is still to be added to every token, which a dynamic centre would only take away again.
        """
        if not self.dynamic:
            x = x if shift is None else x + shift
            return self.linear(x if self.centre is None else x - self.centre), None
        mean = token_mean(x, weights)
        rest = mean if shift is None else mean + shift
        return self.linear(x - mean), self.linear(rest if self.centre is None else rest - self.centre)

    @classmethod
    def from_layout(cls, layout: dict, tensors: dict[str, torch.Tensor]) -> "FeatureTransform":
        """The transform with this `layout` and these tensors, its state dict, to the bit. KeyError: one is missing."""
        made = cls(tensors["centre"] if layout["centre"] else None, layout["dynamic"], rotation=layout["rotation"])
        made.inverse_scale = tensors["inverse_scale"] if layout["scale"] else None
        return made.float()

    def layout(self) -> dict:
        """Parts that it consists of, as JSON."""
        return {
            "centre": self.centre is not None,
            "dynamic": self.dynamic,
            "scale": self.inverse_scale is not None,
            "rotation": [list(factor) for factor in self.rotation],
        }

    def extra_repr(self) -> str:
        """Describe the steps in a printed model."""
        return ", ".join(self.steps()) or "nothing"

    @property
    def is_identity(self) -> bool:
        """Tell whether it leaves every input as it is."""
        return not self.steps()

    def steps(self) -> list[str]:
        """Steps in order, in words."""
        centre = "token mean" if self.dynamic else None if self.centre is None else "mean"
        scale = None if self.inverse_scale is None else "scale"
        return [step for step in (centre, scale) if step] + [f"H{order}" for order, _ in self.rotation]

    def fold(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W' [m, d] and b' [m] of a weight [m, d], stacked for all linears on this input, and its bias [m] or None."""
        folded = weight if self.inverse_scale is None else weight / self.inverse_scale
        if self.centre is not None:
            share = weight @ self.centre
            bias = share if bias is None else bias + share
        return self._rotate(folded), bias

    def linear(self, x: torch.Tensor) -> torch.Tensor:
        """x D^-1 R of x [..., d]: the transform of a difference, which has no centre."""
        return self._rotate(x if self.inverse_scale is None else x * self.inverse_scale)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        for order, stride in self.rotation:
            x = rotate_strided(x, getattr(self, f"hadamard_{order}"), stride)
        return x


def rotate_strided(x: torch.Tensor, matrix: torch.Tensor, stride: int) -> torch.Tensor:
    """Multiply by `matrix` [n, n] the features of x [..., d] that lie `stride` apart, in blocks of n * stride."""
    if stride == 1:
        return rotate(x, matrix)
    n = matrix.shape[0]
    blocks = x.unflatten(-1, (x.shape[-1] // (n * stride), n, stride)).transpose(-1, -2)
    return rotate(blocks, matrix).transpose(-1, -2).reshape(x.shape)


def rotation_factors(width: int, kind: str, block: int, head: int | None = None) -> Rotation:
    """The factors of a rotation for inputs of `width` features.

    block: Hadamard blocks of the largest power of two that divides width, at most `block`.
    full: over the whole width, as a Kronecker product of two, which costs n1 + n2 multiplications a feature. A width
    that is no Hadamard order gets factors that `FeatureTransform` refuses.
    head: where a rotation within heads of so many features costs nothing (see fold.py), a first factor that is one.
    """
    if kind == "none":
        return ()
    if kind == "block":
        if head is None:
            order = largest_block(width, block)
        else:
            order = head if is_hadamard_order(head) else largest_block(head)
        factors = [(order, 1)]
    else:
        if head is not None and is_hadamard_order(head) and is_hadamard_order(width // head):
            inner = head
        else:
            inner = largest_block(width, 1 << (width.bit_length() // 2))
            while inner > 1 and not is_hadamard_order(width // inner):
                inner //= 2
        factors = [(inner, 1), (width // inner, inner)]
    return tuple((order, stride) for order, stride in factors if order > 1)
