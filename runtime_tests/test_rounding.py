"""rounding.py: ranges of the codes, the clip search against brute force, groups as slices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_hadanorm.quantizer import Grid
from edge_hadanorm.rounding import CLIP_RATIOS, METHODS, clip_search, nearest
from helpers import randn

BITS = range(2, 9)
on_every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def squared_error(weight: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[m, groups]: what each group of a weight [m, d] loses."""
    value = codes * scale.repeat_interleave(codes.shape[1] // scale.shape[1], dim=1)
    return (value - weight).square().unflatten(1, (scale.shape[1], -1)).sum(-1)


@on_every_method
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("group", "groups"), [(None, 1), (96, 1), (32, 3), (1, 96)])
def test_codes_are_int8_inside_their_grid_and_scales_are_positive(method, bits, group, groups):
    weight = randn(5, 96, dtype=torch.float32)
    codes, scale = method(weight, bits, group)
    grid = Grid(bits, symmetric=True)
    assert (codes.shape, codes.dtype) == ((5, 96), torch.int8)
    assert (scale.shape, scale.dtype) == ((5, groups), torch.float32)
    assert codes.min() >= grid.qmin
    assert codes.max() <= grid.qmax
    assert torch.all(scale > 0)


@on_every_method
def test_8_bit_codes_are_never_minus_128(method):
    """Phones' int8 kernels need it so; a row whose largest magnitude is negative is where it would appear."""
    weight = -randn(64, 32).abs()
    codes, _ = method(weight, 8, None)
    assert codes.min() == -127


@pytest.mark.parametrize("bits", BITS)
def test_nearest_is_the_rounded_ratio_to_the_largest_magnitude(bits):
    weight = randn(20, 48)
    codes, scale = nearest(weight, bits, None)
    step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    torch.testing.assert_close(scale, step)
    assert torch.equal(codes, (weight / step).round().to(torch.int8))
    assert torch.all((codes * scale - weight).abs() <= step / 2 * (1 + 1e-12))


@settings(max_examples=40, deadline=None)
@given(bits=st.sampled_from(BITS), group=st.sampled_from([None, 8, 24]), seed=st.integers(0, 2**32 - 1))
def test_clip_search_never_loses_more_than_nearest(bits, group, seed):
    weight = randn(6, 48, seed=seed) ** 3  # heavy tails, which are what a clip cuts
    clipped, plain = (squared_error(weight, *method(weight, bits, group)) for method in (clip_search, nearest))
    assert torch.all(clipped <= plain)


def test_clip_search_gains_on_heavy_tails():
    weight = randn(8, 256) ** 3
    clipped, plain = (squared_error(weight, *method(weight, 4, None)).sum() for method in (clip_search, nearest))
    assert clipped < 0.8 * plain


@pytest.mark.parametrize("bits", BITS)
def test_clip_search_takes_the_best_of_its_ratios(bits):
    weight = randn(7, 24) ** 3
    grid = Grid(bits, symmetric=True)
    for row, found in zip(weight, squared_error(weight, *clip_search(weight, bits, None)), strict=True):
        largest = row.abs().max() / grid.qmax
        losses = []
        for ratio in CLIP_RATIOS:
            step = largest * ratio
            losses.append(((row / step).round().clamp(grid.qmin, grid.qmax) * step - row).square().sum())
        torch.testing.assert_close(found.squeeze(), torch.stack(losses).min(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("bits", BITS)
def test_clip_search_equals_brute_force_over_scales_within_its_resolution(bits):
    """The distance of a row to s Z^d changes by at most |q| |ds| when the scale s does."""
    weight = randn(10, 5)
    grid = Grid(bits, symmetric=True)
    largest = weight.abs().amax(1) / grid.qmax
    steps = largest * torch.linspace(CLIP_RATIOS[-1], 1, 4001, dtype=torch.float64)[:, None]  # [4001, m]
    codes = (weight / steps[..., None]).round().clamp(grid.qmin, grid.qmax)
    distance, best = (codes * steps[..., None] - weight).norm(dim=-1).min(0)
    best_codes = codes[best, torch.arange(10)]
    resolution = (CLIP_RATIOS[0] - CLIP_RATIOS[1]) / 2 * largest
    found = squared_error(weight, *clip_search(weight, bits, None)).squeeze(1).sqrt()
    assert torch.all(found <= distance + best_codes.norm(dim=1) * resolution + 1e-12)
    # The 4001 scales hold those of the search, so that it cannot be better than they are.
    assert torch.all(found >= distance - 1e-9)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_scale_below_the_search_would_lose_less_on_wide_rows(bits):
    weight = randn(16, 1152)
    grid = Grid(bits, symmetric=True)
    found = squared_error(weight, *clip_search(weight, bits, None)).squeeze(1)
    for ratio in (0.16, 0.12, 0.08):
        step = weight.abs().amax(1, keepdim=True) / grid.qmax * ratio
        below = ((weight / step).round().clamp(grid.qmin, grid.qmax) * step - weight).square().sum(1)
        assert torch.all(below >= found)


@on_every_method
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("group", [8, 16, 48])
def test_a_group_is_quantized_as_a_weight_of_its_own(method, bits, group):
    weight = randn(6, 48)
    codes, scale = method(weight, bits, group)
    for g in range(48 // group):
        part = slice(g * group, (g + 1) * group)
        own_codes, own_scale = method(weight[:, part], bits, group)
        assert torch.equal(codes[:, part], own_codes)
        assert torch.equal(scale[:, g : g + 1], own_scale)


@on_every_method
def test_group_scales_are_bfloat16_numbers_as_the_device_keeps_them(method):
    weight = randn(6, 64)
    _, scale = method(weight, 4, 32)
    assert torch.equal(scale, scale.bfloat16().double())
    _, channel = method(weight, 4, None)
    assert not torch.equal(channel, channel.bfloat16().double())


@on_every_method
def test_rows_do_not_depend_on_each_other(method):
    weight = randn(6, 32)
    codes, scale = method(weight, 4, 16)
    for i in range(6):
        own_codes, own_scale = method(weight[i : i + 1], 4, 16)
        assert torch.equal(codes[i : i + 1], own_codes)
        assert torch.equal(scale[i : i + 1], own_scale)


@on_every_method
@pytest.mark.parametrize(("group", "width"), [(32, 48), (64, 48), (7, 48)])
def test_groups_must_divide_the_width(method, group, width):
    with pytest.raises(ValueError, match=f"groups of {group} do not divide an input width of {width}"):
        method(randn(2, width), 4, group)


@on_every_method
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", [None, 8])
def test_a_row_of_zeros_has_codes_of_zero_and_leaves_its_neighbours_alone(method, bits, group):
    weight = randn(3, 32)
    weight[1] = 0
    codes, scale = method(weight, bits, group)
    assert torch.all(codes[1] == 0)
    assert torch.all(scale[1] == 1)
    assert torch.equal(codes[[0, 2]], method(weight[[0, 2]], bits, group)[0])


@on_every_method
@pytest.mark.parametrize("bits", BITS)
def test_a_weight_on_its_grid_keeps_its_codes(method, bits):
    """Full-range codes times a power of two: no clip can beat an error of zero."""
    top = 2 ** (bits - 1) - 1
    expected = torch.randint(-top, top + 1, (4, 32), generator=torch.Generator().manual_seed(0))
    expected[:, 0] = top
    codes, scale = method(expected * 0.125, bits, None)
    assert torch.equal(codes, expected.to(torch.int8))
    assert torch.all(scale == 0.125)
