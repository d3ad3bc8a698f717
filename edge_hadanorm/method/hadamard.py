"""Hadamard matrices by construction, block rotation and the fast transform.

A Hadamard matrix has entries +-1 and orthogonal rows; divided by sqrt(n) it is the rotation R of HadaNorm.
Those of order n = m 2^k are Kronecker products

    H_n = P_m (x) S_(2^k)

- S: Sylvester (1867), S_2t = [[1, 1], [1, -1]] (x) S_t;
- P: Paley (1933), of the smallest order m with the odd part of n that is 1, q + 1 with q = 3 mod 4 (Paley I), or
  2 (q + 1) with q = 1 mod 4 (Paley II), where q is an odd prime or the square of one.

The Sylvester factor is the inner one: H_n is a block Hadamard of width 2^k, then a small mix across the m blocks.
1152 = 36 x 32, 1536 = 12 x 128, 2432 = 76 x 32.
"""

from functools import lru_cache
from itertools import count
from math import isqrt, sqrt
from typing import cast

import numpy as np
import torch


def hadamard_matrix(n: int) -> torch.Tensor:
    """The orthonormal Hadamard matrix of order n: [n, n] float64 on the CPU, entries +-1/sqrt(n).

    It is symmetric when n is a power of two, and not in general: the inverse is the transpose. The signs are cached
    and the tensor is new at each call, so callers may write into it.
    Raises ValueError when no construction here reaches n.
    """
    return torch.tensor(_signs(n), dtype=torch.float64, device="cpu").div_(sqrt(n))


def is_hadamard_order(n: int) -> bool:
    """Whether hadamard_matrix(n) can be constructed; every such n is 1, 2 or a multiple of 4."""
    return _split(n) is not None


def largest_block(width: int, limit: int | None = None) -> int:
    """The largest power of two that divides width and is at most limit: the widest pure butterfly for a block rotation.

    Raises ValueError when width or limit is below 1.
    """
    if width < 1 or (limit is not None and limit < 1):
        raise ValueError(f"largest_block needs a width and a limit of at least 1, got width={width}, limit={limit}")
    block = width & -width
    return block if limit is None else min(block, 1 << (limit.bit_length() - 1))


def rotate(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Multiply every contiguous block of b features by one matrix: x @ block_diag(matrix, ..., matrix).

    x [..., d], matrix [b, b] of the dtype and device of x, b divides d; returns [..., d].
    The inverse, for an orthogonal matrix, is rotate(x, matrix.T). Raises ValueError when b does not divide d.
    """
    width, block = x.shape[-1], matrix.shape[0]
    if width % block:
        raise ValueError(f"cannot rotate {width} features in blocks of {block}: {block} does not divide {width}")
    # Two-dimensional, so that an exported program has one plain product, which every backend takes.
    return (x.reshape(-1, block) @ matrix).reshape(x.shape)


def fast_hadamard(x: torch.Tensor) -> torch.Tensor:
    """x @ hadamard_matrix(n) in n (log2(2^k) + m) operations a row for n = m 2^k.

    x [..., n], floating point; returns [..., n] in the dtype of x, equal to the product with the matrix up to rounding.
    Raises ValueError when n is not a supported order.
    """
    base, two = _require_split(x.shape[-1])
    # Scaled first: no partial sum then exceeds the bound of the result, which matters in float16.
    y = (x * two**-0.5).unflatten(-1, (base, two))
    half = 1
    while half < two:
        a, b = y.unflatten(-1, (two // (2 * half), 2, half)).unbind(-2)
        y = torch.stack((a + b, a - b), dim=-2).flatten(-3)
        half *= 2
    if base > 1:
        # With X [m, 2^k] the row x unflattened: x (P (x) S) is P^T X S, flattened.
        y = hadamard_matrix(base).to(y).T @ y
    return y.flatten(-2)


@lru_cache(maxsize=16)
def _signs(n: int) -> np.ndarray:
    """The unnormalized matrix of order n: [n, n] int8; shared, so copy it before writing.

    An array and not a tensor: what a cache filled under torch.export would keep is a FakeTensor.
    """
    base, two = _require_split(n)
    sylvester = np.ones((1, 1), dtype=np.int8)
    while len(sylvester) < two:
        sylvester = np.block([[sylvester, sylvester], [sylvester, -sylvester]])
    return np.kron(_paley(base), sylvester)


def _paley(m: int) -> np.ndarray:
    """The base matrix of order m, [m, m] int8: [[1]], or Paley's ("On orthogonal matrices", J. Math. Phys. 12, 1933).

    The bordered Jacobsthal matrix C of GF(q) has C C^T = q I. For q = 3 mod 4 it is skew, so that I + C is Hadamard.
    For q = 1 mod 4 it is symmetric, and C (x) A + I (x) B is Hadamard with A A^T = B B^T = 2 I, A B^T + B A^T = 0.
    """
    if m == 1:
        return np.ones((1, 1), dtype=np.int8)
    q = cast(int, _paley_field(m))  # the orders that come here have one
    skew = q % 4 == 3
    conference = np.zeros((q + 1, q + 1), dtype=np.int8)
    conference[0, 1:] = 1
    conference[1:, 0] = -1 if skew else 1
    conference[1:, 1:] = _jacobsthal(q)
    identity = np.eye(q + 1, dtype=np.int8)
    if skew:
        return identity + conference
    a, b = np.array([[1, 1], [1, -1]], dtype=np.int8), np.array([[1, -1], [-1, -1]], dtype=np.int8)
    return np.kron(conference, a) + np.kron(identity, b)


def _jacobsthal(q: int) -> np.ndarray:
    """Q[i, j] = chi(e_j - e_i) over the elements of GF(q), [q, q] int8; chi is 1 on squares, -1 on the rest, 0 at 0."""
    p = cast(int, _characteristic(q))
    chi = np.full(p, -1, dtype=np.int8)
    chi[np.arange(p) ** 2 % p] = 1
    chi[0] = 0
    # GF(p^2) is a + b sqrt(r), r a non-residue of GF(p); such an element is a square when its norm a^2 - r b^2 is one.
    b, a = (part[None, :] - part[:, None] for part in np.divmod(np.arange(q), p))
    norm = a if q == p else a**2 - int(chi.argmin()) * b**2
    return chi[norm % p]


def _split(n: int) -> tuple[int, int] | None:
    """n as (base order m, power of two) with the smallest m that Paley or 1 gives; None when there is none."""
    if n < 1:
        return None
    base = n // (n & -n)
    while n % base == 0:
        if base == 1 or _paley_field(base):
            return base, n // base
        base *= 2
    return None


def _require_split(n: int) -> tuple[int, int]:
    """_split(n), or a ValueError that names the nearest supported orders."""
    split = _split(n)
    if split is None:
        below = next((k for k in range(n - 1, 0, -1) if is_hadamard_order(k)), None)
        above = next(k for k in count(max(n, 0) + 1) if is_hadamard_order(k))
        nearest = above if below is None else f"{below} and {above}"
        raise ValueError(
            f"no Hadamard matrix of order {n}: possible orders are 2^k and m 2^k, where 4 divides m = q + 1 or "
            f"2 (q + 1) and q is an odd prime or the square of one; nearest: {nearest}"
        )
    return split


def _paley_field(m: int) -> int | None:
    """The size q of the field from which Paley I (m = q + 1) or II (m = 2 (q + 1)) builds order m, or None."""
    if m % 4:
        return None
    if _characteristic(m - 1):
        return m - 1
    # q = 1 mod 4 exactly when m = 4 mod 8.
    return m // 2 - 1 if m % 8 == 4 and _characteristic(m // 2 - 1) else None


def _characteristic(q: int) -> int | None:
    """The odd prime p with q = p or q = p^2, or None."""
    root = isqrt(q)
    p = root if root * root == q else q
    is_odd_prime = p > 2 and p % 2 == 1 and all(p % k for k in range(3, isqrt(p) + 1, 2))
    return p if is_odd_prime else None
