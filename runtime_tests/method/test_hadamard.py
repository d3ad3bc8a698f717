"""What hadamard.py promises: orthogonality, the constructions, block rotation and the fast transform."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_hadanorm.method.hadamard import fast_hadamard, hadamard_matrix, is_hadamard_order, largest_block, rotate

BASES = [1, 12, 20, 28, 36, 44, 52, 60, 76, 100, 140]  # 52 and 100 come from GF(25) and GF(49)
DIT_WIDTHS = [1152, 1536, 2240, 2432, 3072, 4608]
ORDERS = sorted({m << k for m in BASES for k in range(11) if m << k <= 1280} | set(DIT_WIDTHS))
SMALL_ORDERS = [n for n in ORDERS if n <= 600]


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def sylvester(n: int) -> torch.Tensor:
    """Signs (-1)^(number of ones that i and j have in common), [n, n] float64, for a power of two."""
    common = torch.arange(n)[:, None] & torch.arange(n)
    ones = sum((common >> bit) & 1 for bit in range(n.bit_length()))
    return (1 - 2 * (ones % 2)).double()


def assert_equal(actual: torch.Tensor, expected: torch.Tensor, error: float = 1e-12) -> None:
    assert actual.shape == expected.shape
    assert torch.allclose(actual, expected, rtol=0, atol=error)


@pytest.mark.parametrize("n", SMALL_ORDERS)
def test_rows_and_columns_are_orthonormal(n):
    h = hadamard_matrix(n)
    identity = torch.eye(n, dtype=torch.float64)
    assert_equal(h @ h.T, identity)
    assert_equal(h.T @ h, identity)


@pytest.mark.parametrize("n", [n for n in ORDERS if n > 600])
def test_wide_matrices_are_orthogonal_on_random_vectors(n):
    """Freivalds' check, O(n^2): a random Gaussian v satisfies H H^T v = v with probability 0 unless H H^T = I."""
    h, v = hadamard_matrix(n), randn(n, 4)
    assert_equal(h @ (h.T @ v), v)


@pytest.mark.parametrize("n", [*SMALL_ORDERS, 1152])
def test_entries_are_plus_or_minus_one_over_root_n(n):
    h = hadamard_matrix(n)
    assert h.shape == (n, n)
    assert h.dtype == torch.float64
    assert torch.all(h.abs() == 1 / math.sqrt(n))


@pytest.mark.parametrize("n", [1 << k for k in range(11)])
def test_powers_of_two_are_sylvester(n):
    assert_equal(hadamard_matrix(n) * n**0.5, sylvester(n))


@pytest.mark.parametrize(("n", "base"), [(1152, 36), (1536, 12), (2432, 76), (280, 140), (104, 104)])
def test_other_orders_are_kronecker_products_with_sylvester_inside(n, base):
    assert_equal(hadamard_matrix(n), torch.kron(hadamard_matrix(base), hadamard_matrix(n // base)))


def test_supported_orders_are_one_two_or_multiples_of_four():
    supported = [n for n in range(-4, 129) if is_hadamard_order(n)]
    assert supported == [1, 2, *(n for n in range(4, 129, 4) if n not in (92, 116))]
    assert all(is_hadamard_order(n) for n in ORDERS)


@pytest.mark.parametrize("n", [-8, 0, 3, 6, 92, 1150])
def test_unsupported_orders_are_named_with_the_nearest_supported_ones(n):
    assert not is_hadamard_order(n)
    with pytest.raises(ValueError, match=rf"order {n}: .*nearest: ") as raised:
        hadamard_matrix(n)
    assert "\n" not in str(raised.value)
    nearest = [int(word) for word in str(raised.value).split("nearest: ")[1].split(" and ")]
    assert all(is_hadamard_order(k) for k in nearest)
    assert nearest == [1] if n < 1 else nearest[0] < n < nearest[1]


def test_writing_into_a_matrix_does_not_change_the_next_one():
    expected = hadamard_matrix(12).clone()
    hadamard_matrix(12).zero_()
    assert_equal(hadamard_matrix(12), expected, error=0)


@pytest.mark.parametrize("n", [*SMALL_ORDERS, *DIT_WIDTHS])
def test_fast_transform_is_the_product_with_the_matrix(n):
    x = randn(2, n)
    assert_equal(fast_hadamard(x), x @ hadamard_matrix(n))


@pytest.mark.parametrize("shape", [(36,), (0, 36), (2, 3, 5, 96)])
def test_fast_transform_keeps_leading_dimensions(shape):
    x = randn(*shape)
    assert_equal(fast_hadamard(x), x @ hadamard_matrix(shape[-1]))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_fast_transform_keeps_the_dtype_within_its_rounding(dtype, error):
    x = randn(4, 1152).to(dtype)
    y = fast_hadamard(x)
    assert y.dtype == dtype
    assert_equal(y.double(), x.double() @ hadamard_matrix(1152), error)


def test_fast_transform_overflows_float16_only_when_its_result_does():
    x = torch.full((1, 1024), 1000.0, dtype=torch.float16)  # plain sums reach 1024000, the result 32000
    assert fast_hadamard(x)[0, 0] == 32000


@pytest.mark.parametrize(("width", "block"), [(96, 32), (96, 12), (36, 36), (24, 1), (1152, 128)])
def test_block_rotation_is_the_product_with_a_block_diagonal_matrix(width, block):
    x, h = randn(2, 5, width), hadamard_matrix(block)
    assert_equal(rotate(x, h), x @ torch.block_diag(*[h] * (width // block)))


@settings(max_examples=50, deadline=None)
@given(block=st.sampled_from([n for n in ORDERS if n <= 160]), blocks=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_rotation_preserves_norms_and_inner_products_and_has_its_transpose_as_inverse(block, blocks, seed):
    x = torch.randn(6, block * blocks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    h = hadamard_matrix(block)
    z = rotate(x, h)
    assert_equal(z @ z.T, x @ x.T, error=1e-10)
    assert_equal(rotate(z, h.T), x)


@pytest.mark.parametrize("n", [64, 96, 1152])
def test_rotation_spreads_one_outlier_evenly(n):
    """What quantization gains: a single channel of size s becomes s / sqrt(n) in every channel."""
    x = torch.zeros(n, dtype=torch.float64)
    x[n // 3] = 100.0
    assert_equal(fast_hadamard(x).abs(), torch.full_like(x, 100.0 / n**0.5))


def test_rotation_needs_blocks_that_divide_the_width():
    with pytest.raises(ValueError, match="64 does not divide 96"):
        rotate(randn(2, 96), hadamard_matrix(64))


@given(width=st.integers(1, 10**6), limit=st.none() | st.integers(1, 10**4))
def test_largest_block_is_the_largest_power_of_two_that_divides_and_fits(width, limit):
    fitting = [1 << k for k in range(20) if width % (1 << k) == 0 and (limit is None or 1 << k <= limit)]
    assert largest_block(width, limit) == max(fitting)


@pytest.mark.parametrize(("width", "limit"), [(0, None), (-4, None), (8, 0)])
def test_largest_block_rejects_sizes_below_one(width, limit):
    with pytest.raises(ValueError, match="at least 1"):
        largest_block(width, limit)
