"""The low-rank branch of SVDQuant (Li et al., arXiv 2411.05007): W' = L + R, L in float beside the quantized R.

L takes the largest singular values out of what is rounded, so that R has a smaller range and smaller steps. Among them
is what smoothing has moved from the activations into the weight, which the paper does first and the recipes of the name
do too.
"""

import torch
from torch import nn
from torch.nn import functional as F


class LowRank(nn.Module):
    """z -> z L^T with L = up down, for down [r, d] and up [m, r]: r (m + d) products a token instead of m d.

    A module of its own, so that export can tell its linears from those that are quantized.
    """

    down: torch.Tensor
    up: torch.Tensor

    def __init__(self, down: torch.Tensor, up: torch.Tensor):
        super().__init__()
        self.register_buffer("down", down)
        self.register_buffer("up", up)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """z [..., d] -> [..., m]."""
        return F.linear(F.linear(z, self.down), self.up)

    def weight(self) -> torch.Tensor:
        """L [m, d] in float64."""
        return self.up.double() @ self.down.double()


def low_rank(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """down [r, d] and up [m, r] of a weight [m, d]: their product is the nearest of that rank (Eckart-Young).

    By eigenvectors of the smaller Gram matrix, which take a fraction of the time of a singular value decomposition.
    """
    rows, columns = weight.shape
    if rows < columns:
        up, down = low_rank(weight.T, rank)
        return down.T.contiguous(), up.T.contiguous()
    largest = torch.linalg.eigh(weight.T @ weight).eigenvectors[:, -rank:]
    return largest.T.contiguous(), weight @ largest
