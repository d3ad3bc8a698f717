"""noise.py: published Philox vectors, the definition in scalar Python to the bit, and the statistics of its normals."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_hadanorm.pipelines.noise import _cos_sin_turn, _log, _philox_block, normal, philox

SEEDS = st.integers(0, 2**63 - 1)
STREAMS = st.integers(0, 2**32 - 1)


def hexes(values: np.ndarray) -> str:
    return " ".join(f"{word:08x}" for word in values.view(np.uint32).tolist())


def words_of(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def normal_pair_by_definition(v: int, w: int) -> tuple[float, float]:
    """The module's docstring transcribed: Python's floats are IEEE float64, and it never fuses operations."""

    def horner(y: float, terms: list[float]) -> float:
        total = terms[-1]
        for term in terms[-2::-1]:
            total = term + y * total
        return total

    f, e = math.frexp((v + 0.5) * 2.0**-32)
    if f < 0.7071067811865476:
        f, e = 2 * f, e - 1
    s = (f - 1) / (f + 1)
    log = e * 0.6931471805599453 + (s + s) * horner(s * s, [1 / (2 * j + 1) for j in range(12)])
    o = (w + 2**29) // 2**30
    x = (w - o * 2**30) * 2.0**-32 * 6.283185307179586
    sine = x * horner(x * x, [(-1) ** j / math.factorial(2 * j + 1) for j in range(9)])
    cosine = horner(x * x, [(-1) ** j / math.factorial(2 * j) for j in range(9)])
    c, s = [(cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine)][o % 4]
    radius = math.sqrt(-2 * log)
    return radius * c, radius * s


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123, kat_vectors
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    block = _philox_block([np.array([c], np.uint64) for c in words_of(counter)], tuple(words_of(key)))
    assert [int(word[0]) for word in block] == words_of(words)


@settings(max_examples=30, deadline=None)
@given(SEEDS, STREAMS, st.integers(0, 50))
def test_words_are_the_blocks_of_seed_and_stream(seed, stream, index):
    words = philox(seed, 4 * index + 4, stream)
    counter = [np.array([c], np.uint64) for c in (index, 0, stream, 0)]
    block = _philox_block(counter, (seed % 2**32, seed // 2**32))
    assert words.dtype == np.uint32
    assert words[-4:].tolist() == [int(word[0]) for word in block]


@settings(max_examples=30, deadline=None)
@given(SEEDS, STREAMS, st.integers(0, 200), st.integers(0, 200))
def test_a_shorter_request_is_a_prefix(seed, stream, short, more):
    assert philox(seed, short, stream).tolist() == philox(seed, short + more, stream)[:short].tolist()
    assert hexes(normal(seed, short, stream)) == hexes(normal(seed, short + more, stream)[:short])


@settings(max_examples=30, deadline=None)
@given(SEEDS, STREAMS)
def test_normals_are_the_definition_to_the_bit(seed, stream):
    words = philox(seed, 40, stream).tolist()
    expected = [z for v, w in zip(words[::2], words[1::2], strict=True) for z in normal_pair_by_definition(v, w)]
    assert hexes(normal(seed, 40, stream)) == hexes(np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("seed", "bits"),
    [
        (0, "3f7dbb33 bf6cb6b0 bf1e1b9f bef6d1b2 be1d5357 3e392a6d 3f54ec98 3e4a2da3"),
        (2**40 + 1, "bfec44e9 3f9d51c9 bd7436eb bef7da4e 3d86b1ab 3d9f8101 bfbab98b 3e06b9f2"),
    ],
)
def test_recorded_bits(seed, bits):
    assert hexes(normal(seed, 8)) == bits


def test_logarithm_is_accurate_to_the_last_bits():
    u = np.concatenate([(philox(1, 100_000) + 0.5) * 2.0**-32, [2.0**-33, 1 - 2.0**-33, 0.5, 0.7071067811865476]])
    np.testing.assert_allclose(_log(u), np.log(u), rtol=1e-15, atol=0)


def test_cosine_and_sine_are_accurate_to_the_last_bits():
    eighths = np.arange(8, dtype=np.int64) * 2**29
    words = np.concatenate([philox(2, 100_000), (eighths[:, None] + [-1, 0, 1]).ravel() % 2**32]).astype(np.uint32)
    angle = words * 2.0**-32 * (2 * np.pi)
    cosine, sine = _cos_sin_turn(words)
    np.testing.assert_allclose(cosine, np.cos(angle), rtol=0, atol=1e-15)
    np.testing.assert_allclose(sine, np.sin(angle), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (1, 0), (0, 1), (2**63 - 1, 2**32 - 1)])
def test_normals_are_standard_and_independent(seed, stream):
    z = normal(seed, 200_000, stream).astype(np.float64)
    assert scipy.stats.kstest(z, "norm").pvalue > 1e-3
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((z**power).mean() - moment) < 4 * math.sqrt(variance / z.size)
    for lag in (1, 2, 3, 4):
        assert abs((z[lag:] * z[:-lag]).mean()) < 4 / math.sqrt(z.size)


def test_seeds_and_streams_differ():
    draws = {hexes(normal(seed, 4, stream)) for seed in (0, 1, 2**32, 2**62) for stream in (0, 1, 2**31)}
    assert len(draws) == 12


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3, 5, 7), (0, 4), 6])
def test_shapes_are_filled_row_by_row(shape):
    z = normal(5, shape)
    assert z.dtype == np.float32
    assert z.shape == (shape if isinstance(shape, tuple) else (shape,))
    assert hexes(z.reshape(-1)) == hexes(normal(5, z.size))


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "7", None])
def test_a_bad_seed_is_named(seed):
    with pytest.raises(ValueError, match=r"^seed must be .* got .*$"):
        normal(seed, 4)


def test_a_bad_stream_is_named():
    with pytest.raises(ValueError, match=r"^noise stream must be .* got 4294967296$"):
        philox(0, 4, 2**32)
