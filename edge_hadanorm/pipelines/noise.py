"""Initial noise: Philox4x32-10 (Salmon et al. 2011) and Box-Muller, the same bits on every platform.

Everything is integer arithmetic or single IEEE 754 float64 operations (+, -, *, /, sqrt), each rounded to nearest even,
in the order written, never fused. No libm: its last bit differs between platforms. This text is the whole definition.

Words. uint32, wrapping. Block i of a (seed, stream), 0 <= seed < 2^63, 0 <= stream < 2^32:
    c = (i mod 2^32, i div 2^32, stream, 0)        k = (seed mod 2^32, seed div 2^32)
    10 times:  (h0, l0) = high and low word of 0xD2511F53 * c0        (h1, l1) = the same of 0xCD9E8D57 * c2
               c = (h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0)        then  k0 += 0x9E3779B9, k1 += 0xBB67AE85
Word n of the stream is c[n mod 4] of block n div 4.

Normals. Normals 2p and 2p + 1 come from the words v = word 2p and w = word 2p + 1, unsigned:
    u = (v + 0.5) * 2^-32                          exact, 0 < u < 1
    z(2p), z(2p + 1) = r * C, r * S                rounded to float32, with
    r = sqrt(-2 * log(u))   and   C, S = cosine, sine of 2 pi w / 2^32, as follows.
log(u):
    u = f * 2^e with 0.5 <= f < 1; if f < 0.7071067811865476: f = 2 * f, e = e - 1          (both exact)
    s = (f - 1) / (f + 1)        y = s * s        q = A_0 + y * (A_1 + y * (... + y * A_11)), A_j = 1 / (2 j + 1)
    log(u) = e * 0.6931471805599453 + (s + s) * q
C and S:
    o = (w + 2^29) div 2^30  (0..4)        t = (w - o * 2^30) * 2^-32        exact, -1/8 <= t < 1/8
    x = t * 6.283185307179586        y = x * x
    sine   = x * (B_0 + y * (B_1 + y * (... + y * B_8)))        B_j = (-1)^j / (2 j + 1)!
    cosine =      D_0 + y * (D_1 + y * (... + y * D_8))         D_j = (-1)^j / (2 j)!
    o mod 4 = 0: (C, S) = (cosine, sine)    1: (-sine, cosine)    2: (-cosine, -sine)    3: (sine, -cosine)
Each A_j, B_j, D_j is one division of two integers that float64 holds exactly. The brackets are worked out from the
innermost outwards, a product rounded and then a sum rounded. Normal n depends on seed, stream and n alone: a shape is
filled row by row, and a shorter request is a prefix of a longer one.

Example, seed 0, stream 0: words 6627e8d5 e169c58d bc57ac4c 9b00dbd8, normals as float32 bits 3f7dbb33 bf6cb6b0 bf1e1b9f
bef6d1b2.
"""

import math

import numpy as np

from edge_hadanorm.errors import UserError

LOW = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

LOG_TERMS = [1 / (2 * j + 1) for j in range(12)]
SINE_TERMS = [(-1) ** j / math.factorial(2 * j + 1) for j in range(9)]
COSINE_TERMS = [(-1) ** j / math.factorial(2 * j) for j in range(9)]


def philox(seed: int, count: int, stream: int = 0) -> np.ndarray:
    """Make the first `count` words, uint32 [count], of a seed's stream. Raises UserError for an impossible seed."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise UserError(f"seed must be an integer with 0 <= seed < 2**63, got {seed!r}")
    if not isinstance(stream, int | np.integer) or not 0 <= stream < 2**32:
        raise UserError(f"noise stream must be an integer with 0 <= stream < 2**32, got {stream!r}")
    index = np.arange(-(-count // 4), dtype=np.uint64)
    counter = [index & LOW, index >> 32, np.full_like(index, stream), np.zeros_like(index)]
    return (
        np.stack(_philox_block(counter, (int(seed) & LOW, int(seed) >> 32)), axis=1).astype(np.uint32).ravel()[:count]
    )


def normal(seed: int, shape: int | tuple[int, ...], stream: int = 0) -> np.ndarray:
    """Make standard normals, float32, of a shape, row-major. Raises UserError for an impossible seed."""
    count = math.prod(np.atleast_1d(shape).tolist())
    words = philox(seed, count + count % 2, stream)
    radius = np.sqrt(-2.0 * _log((words[0::2] + 0.5) * 2.0**-32))
    cosine, sine = _cos_sin_turn(words[1::2])
    pairs = np.stack([radius * cosine, radius * sine], axis=1)
    return pairs.astype(np.float32).ravel()[:count].reshape(shape)


def _philox_block(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Run ten rounds on a counter of four words and a key of two; words are held in uint64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ np.uint64(k0),
            product1 & LOW,
            (product0 >> 32) ^ c3 ^ np.uint64(k1),
            product0 & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return [c0, c1, c2, c3]


def _log(u: np.ndarray) -> np.ndarray:
    f, e = np.frexp(u)
    low = f < 0.7071067811865476
    f, e = np.where(low, f + f, f), e - low
    s = (f - 1.0) / (f + 1.0)
    return e * 0.6931471805599453 + (s + s) * _horner(s * s, LOG_TERMS)


def _cos_sin_turn(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of 2 pi w / 2^32, reduced to an eighth of a turn in integers, without error."""
    words = words.astype(np.int64)
    quadrant = (words + 2**29) >> 30
    x = (words - (quadrant << 30)) * 2.0**-32 * 6.283185307179586
    sine, cosine = x * _horner(x * x, SINE_TERMS), _horner(x * x, COSINE_TERMS)
    return (
        np.choose(quadrant & 3, [cosine, -sine, -cosine, sine]),
        np.choose(quadrant & 3, [sine, cosine, -sine, -cosine]),
    )


def _horner(y: np.ndarray, terms: list[float]) -> np.ndarray:
    total = np.full_like(y, terms[-1])
    for term in reversed(terms[:-1]):
        total = total * y + term
    return total
