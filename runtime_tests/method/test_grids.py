"""quantizer.py: the error of a grid, its fixed points, XNNPACK's rule, degenerate rows and packing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_hadanorm.method.grids import (
    Grid,
    choose_parameters,
    dequantize,
    fake_quantize,
    fake_quantize_per_token,
    grouped,
    pack,
    quantize,
    unpack,
)
from runtime_tests.support.helpers import randn

BITS = range(2, 9)
GRIDS = [Grid(bits, symmetric) for bits in BITS for symmetric in (True, False)]
FINITE = st.floats(-1e6, 1e6)
SEED = st.integers(0, 2**32 - 1)

on_every_grid = pytest.mark.parametrize(
    "grid", GRIDS, ids=lambda g: f"{'symmetric' if g.symmetric else 'asymmetric'}-{g.bits}"
)


def skewed_rows(seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Gaussian rows of many sizes and offsets: around zero, mostly and entirely on one side of it."""
    size = torch.logspace(-3, 3, 7, dtype=dtype)[:, None, None]
    offset = torch.tensor([-8.0, -1.0, 0.0, 1.0, 8.0], dtype=dtype)[:, None]
    return ((randn(7, 5, 64, seed=seed, dtype=dtype) + offset) * size).flatten(0, 1)


def row_parameters(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    return choose_parameters(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), Grid(bits, symmetric=False))


def codes_of(grid: Grid) -> torch.Tensor:
    return torch.arange(grid.qmin, grid.qmax + 1, dtype=torch.float64)


# The grid.


@on_every_grid
def test_a_grid_has_two_to_the_bits_codes(grid):
    without_lowest = grid.symmetric and grid.bits == 8
    assert len(codes_of(grid)) == 2**grid.bits - without_lowest
    assert (grid.qmin, grid.qmax) == (-(2 ** (grid.bits - 1)) + without_lowest, 2 ** (grid.bits - 1) - 1)


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"2 to 8 bits, not {bits}"):
        Grid(bits, symmetric=True)


@settings(max_examples=200, deadline=None)
@given(grid=st.sampled_from(GRIDS), ends=st.tuples(FINITE, FINITE))
def test_error_is_at_most_half_a_step_inside_the_range(grid, ends):
    low, high = torch.tensor(sorted(ends), dtype=torch.float64)
    x = torch.lerp(low, high, torch.linspace(0, 1, 257, dtype=torch.float64))
    scale, zero_point = choose_parameters(low, high, grid)
    error = dequantize(quantize(x, scale, zero_point, grid), scale, zero_point) - x
    assert error.abs().max() <= scale / 2 * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(grid=st.sampled_from(GRIDS), ends=st.tuples(FINITE, FINITE))
def test_zero_is_represented_exactly(grid, ends):
    low, high = torch.tensor(sorted(ends), dtype=torch.float64)
    scale, zero_point = choose_parameters(low, high, grid)
    assert scale > 0
    assert zero_point == zero_point.round()
    assert grid.qmin <= zero_point <= grid.qmax
    assert dequantize(quantize(torch.zeros(()), scale, zero_point, grid), scale, zero_point) == 0


@settings(max_examples=100, deadline=None)
@given(grid=st.sampled_from(GRIDS), ends=st.tuples(FINITE, FINITE))
def test_a_grid_value_is_a_fixed_point(grid, ends):
    low, high = torch.tensor(sorted(ends), dtype=torch.float64)
    scale, zero_point = choose_parameters(low, high, grid)
    values = dequantize(codes_of(grid), scale, zero_point)
    assert torch.equal(quantize(values, scale, zero_point, grid), codes_of(grid))
    assert torch.equal(dequantize(quantize(values, scale, zero_point, grid), scale, zero_point), values)


@on_every_grid
def test_values_beyond_the_range_saturate(grid):
    scale, zero_point = choose_parameters(torch.tensor(-1.0), torch.tensor(1.0), grid)
    assert quantize(torch.tensor([-99.0, 99.0]), scale, zero_point, grid).tolist() == [grid.qmin, grid.qmax]


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_magnitude_has_the_largest_symmetric_code(bits):
    grid, w = Grid(bits, symmetric=True), randn(50, 16)
    scale, zero_point = choose_parameters(w.amin(-1), w.amax(-1), grid)
    assert torch.all(zero_point == 0)
    torch.testing.assert_close(scale * grid.qmax, w.abs().amax(-1))


@pytest.mark.parametrize("bits", BITS)
def test_the_asymmetric_step_is_the_range_over_its_levels(bits):
    x = skewed_rows()
    scale, _ = row_parameters(x, bits)
    span = x.amax(-1, keepdim=True).clamp(min=0) - x.amin(-1, keepdim=True).clamp(max=0)
    torch.testing.assert_close(scale, span / (2**bits - 1))


# A range per token.


@pytest.mark.parametrize("bits", BITS)
def test_each_token_has_its_own_grid(bits):
    x = skewed_rows()
    alone = torch.stack([fake_quantize_per_token(row, bits) for row in x])
    assert torch.equal(fake_quantize_per_token(x, bits), alone)
    assert torch.equal(fake_quantize_per_token(x.reshape(7, 5, 64), bits), alone.reshape(7, 5, 64))
    scale, zero_point = row_parameters(x, bits)
    assert torch.equal(fake_quantize(x, scale, zero_point, bits), alone)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_narrow_grids_lie_inside_the_8_bit_grid_of_their_row(bits, dtype):
    """3 and 15 divide 255: the device's own 8-bit quantization leaves 2- and 4-bit activations as they are."""
    for seed in range(10):
        narrow = fake_quantize_per_token(skewed_rows(seed, dtype), bits)
        largest = narrow.abs().amax(-1, keepdim=True)
        assert torch.all((fake_quantize_per_token(narrow, 8) - narrow).abs() <= 1e-6 * largest)


def xnnpack_qd8(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scale and zero point of rows x, after xnn_f32_qd8_asymmetric_quantization_params."""
    codes, scales, zero_points = [], [], []
    for row in x:
        rmin, rmax = min(0, row.min()), max(0, row.max())
        scale = x.dtype.type(1) if rmin == rmax else (rmax - rmin) / x.dtype.type(255)
        error_from_min, error_from_max = -128 + rmin / scale, 127 + rmax / scale
        zero_point = -128 - rmin / scale if error_from_min + error_from_max > 0 else 127 - rmax / scale
        zero_point = np.rint(min(max(zero_point, -128), 127))
        codes.append(np.clip(np.rint(row / scale) + zero_point, -128, 127))
        scales.append(scale)
        zero_points.append(zero_point)
    return np.array(codes), np.array(scales)[:, None], np.array(zero_points)[:, None]


@settings(max_examples=30, deadline=None)
@given(seed=SEED)
def test_codes_are_those_of_xnnpack(seed):
    x = skewed_rows(seed)
    scale, zero_point = row_parameters(x, 8)
    codes, expected_scale, expected_zero_point = xnnpack_qd8(x.numpy())
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-14)
    np.testing.assert_array_equal(zero_point, expected_zero_point)
    np.testing.assert_array_equal(quantize(x, scale, zero_point, Grid(8, symmetric=False)), codes)


def test_float32_codes_leave_those_of_xnnpack_only_where_rounding_is_a_tie():
    x = torch.cat([skewed_rows(seed, torch.float32) for seed in range(20)])
    scale, zero_point = row_parameters(x, 8)
    codes, _, expected_zero_point = xnnpack_qd8(x.numpy())
    np.testing.assert_array_equal(zero_point, expected_zero_point)
    different = quantize(x, scale, zero_point, Grid(8, symmetric=False)).numpy() != codes
    distance_from_tie = ((x / scale).frac().abs() - 0.5).abs().numpy()
    assert np.all(distance_from_tie[different] < 1e-4)
    assert different.mean() < 1e-4


@pytest.mark.parametrize("zero_point", [0, 1, 2])
def test_values_are_rounded_to_nearest_even_before_the_zero_point_is_added(zero_point):
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    codes = quantize(halves, torch.ones(()), zero_point, Grid(4, symmetric=False))
    assert (codes - zero_point).tolist() == [-2, -2, 0, 0, 2, 2]


# Degenerate rows.

TINY = torch.finfo(torch.float32).tiny
DEGENERATE = {
    "zeros": [0.0] * 5,
    "a positive constant": [0.7] * 5,
    "a negative constant": [-0.7] * 5,
    "one huge value": [3e38, 0.0, 1.0, -1.0, 1e-3],
    "one huge negative value": [-3e38, 0.0, 1.0, -1.0, 1e-3],
    "huge values of both signs": [3e38, -3e38, 0.0, 1.0, 1e30],
    "subnormals": [1e-42, -1e-42, 1e-45, 0.0, 0.0],
    "one subnormal": [1e-42],
    "a single element": [-1.3],
}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_have_finite_scales_and_errors_of_half_a_step(name, bits):
    x = torch.tensor(DEGENERATE[name])
    scale, zero_point = row_parameters(x, bits)
    assert scale.isfinite()
    assert scale >= TINY
    codes = quantize(x, scale, zero_point, Grid(bits, symmetric=False))
    error = dequantize(codes, scale.double(), zero_point) - x
    span = max(*x.double().tolist(), 0.0) - min(*x.double().tolist(), 0.0)
    assert error.abs().max() <= max(span / (2**bits - 1), TINY) / 2 * (1 + 1e-4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_stay_finite_as_float32_activations(name, bits):
    """At 2 and 3 bits half a step beyond +-3e38 is past the largest float32."""
    assert fake_quantize_per_token(torch.tensor(DEGENERATE[name]), bits).isfinite().all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["zeros", "a positive constant", "a negative constant", "a single element"])
def test_a_constant_row_is_exact(name, bits):
    x = torch.tensor(DEGENERATE[name])
    torch.testing.assert_close(fake_quantize_per_token(x, bits), x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-42, 3e38])
def test_degenerate_symmetric_ranges_stay_finite(largest, bits):
    grid, x = Grid(bits, symmetric=True), torch.tensor([largest, -largest])
    scale, zero_point = choose_parameters(x.min(), x.max(), grid)
    value = dequantize(quantize(x, scale, zero_point, grid), scale)
    assert scale >= TINY
    assert value.isfinite().all()
    assert (value.double() - x).abs().max() <= max(largest / grid.qmax, TINY) / 2 * (1 + 1e-4)


# Groups.


@given(rows=st.integers(1, 4), groups=st.integers(1, 5), size=st.integers(1, 6))
def test_groups_are_contiguous_slices_of_the_input(rows, groups, size):
    weight = randn(rows, groups * size)
    view = grouped(weight, size)
    assert view.shape == (rows, groups, size)
    assert all(torch.equal(view[:, g], weight[:, g * size : (g + 1) * size]) for g in range(groups))
    assert torch.equal(grouped(weight, None), weight[:, None])


# Packing.


@st.composite
def bits_and_codes(draw):
    bits = draw(st.sampled_from(BITS))
    code = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return bits, draw(st.lists(code, min_size=0, max_size=67))


@settings(max_examples=300, deadline=None)
@given(case=bits_and_codes())
def test_unpack_is_the_inverse_of_pack_and_no_bit_is_wasted(case):
    bits, codes = case
    codes = torch.tensor(codes, dtype=torch.int8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == math.ceil(codes.numel() * bits / 8)
    unpacked = unpack(packed, bits, codes.shape)
    assert unpacked.dtype == torch.int8
    assert torch.equal(unpacked, codes)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (7, 9, 11)])
def test_odd_shapes_come_back(bits, shape):
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack(pack(codes, bits), bits, shape), codes.to(torch.int8))


def test_4_bit_codes_lie_two_in_a_byte_with_the_first_in_the_low_half():
    codes = torch.arange(-8, 8)
    low, high = codes[0::2] + 8, codes[1::2] + 8
    assert torch.equal(pack(codes, 4), (low + 16 * high).to(torch.uint8))


@pytest.mark.parametrize("bits", BITS)
def test_packed_bytes_are_one_little_endian_number(bits):
    codes = [-(2 ** (bits - 1)), -1, 0, 1, 2 ** (bits - 1) - 1]
    number = sum((code + 2 ** (bits - 1)) << (bits * i) for i, code in enumerate(codes))
    packed = pack(torch.tensor(codes), bits)
    assert bytes(packed.tolist()) == number.to_bytes(len(packed), "little")
