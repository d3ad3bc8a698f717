"""rounding.py: ranges of the codes, the clip search and GPTQ against brute force, groups as slices."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_hadanorm.method import rounding
from edge_hadanorm.method.grids import Grid
from edge_hadanorm.method.rounding import (
    CLIP_RATIOS,
    GPTQ_BLOCK,
    METHODS,
    clip_search,
    damp,
    gptq,
    nearest,
    output_error,
)
from runtime_tests.support.helpers import randn

BITS = range(2, 9)
DAMPING = 0.01


def gptq_on_white_inputs(weight: torch.Tensor, bits: int, group_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    return gptq(weight, bits, group_size, torch.eye(weight.shape[1]))


on_every_method = pytest.mark.parametrize("method", [nearest, clip_search, gptq_on_white_inputs], ids=METHODS)


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
    assert torch.equal(scale, scale.bfloat16().to(scale.dtype))
    _, channel = method(weight, 4, None)
    assert not torch.equal(channel, channel.bfloat16().to(channel.dtype))


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


# Weighted columns.


def test_an_importance_of_ones_changes_nothing():
    weight = randn(6, 48) ** 3
    for group in (None, 16):
        for found, expected in zip(
            clip_search(weight, 4, group, torch.ones(48)), clip_search(weight, 4, group), strict=True
        ):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("group", [None, 12])
def test_the_clip_search_takes_the_best_of_its_ratios_by_importance(group):
    weight, importance = randn(7, 24) ** 3, randn(24, seed=1).exp()
    columns = weight.unflatten(1, (-1, group or 24))
    importance, largest = importance.view(columns.shape[1:]), columns.abs().amax(-1) / 7
    losses = []
    for ratio in CLIP_RATIOS:
        step = (largest * ratio if group is None else (largest * ratio).bfloat16().double())[..., None]
        losses.append((((columns / step).round().clamp(-8, 7) * step - columns).square() * importance).sum(-1))
    codes, scale = clip_search(weight, 4, group, importance.flatten())
    error = codes.unflatten(1, columns.shape[1:]) * scale[..., None] - columns
    found = (error.square() * importance).sum(-1)
    torch.testing.assert_close(found, torch.stack(losses).amin(0), rtol=1e-9, atol=0)


def test_columns_that_do_not_matter_are_clipped():
    weight = randn(16, 64)
    weight[:, 0] = 30
    importance = torch.ones(64)
    importance[0] = 0
    _, plain = clip_search(weight, 4, None)
    _, scale = clip_search(weight, 4, None, importance)
    assert torch.all(scale < plain)


# GPTQ.


def correlated(width: int, seed: int = 0) -> torch.Tensor:
    """The second moment [d, d] of inputs of a few directions and channels of many sizes, with some noise."""
    sizes = (0.7 * randn(width, seed=seed)).exp()
    few = max(2, width // 8)
    x = randn(4 * width, few, seed=seed + 1) @ randn(few, width, seed=seed + 2) / few**0.5
    x = (x + 0.3 * randn(4 * width, width, seed=seed + 3)) * sizes
    return x.T @ x / len(x)


def hessian_error(weight: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """[m] in float64: e H e^T of the damped moment, which GPTQ minimises."""
    scale = scale.double().repeat_interleave(weight.shape[1] // scale.shape[1], dim=1)
    error = codes.double() * scale - weight.double()
    return torch.einsum("mi,ij,mj->m", error, damp(moment, DAMPING)[0], error)


def textbook(weight: torch.Tensor, scale: torch.Tensor, moment: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [m, d] one column at a time, float64: equations 2 and 3 of the paper, with scales [m, d]."""
    grid, codes = Grid(bits, symmetric=True), torch.zeros_like(weight)
    weight, inverse = weight.clone(), damp(moment, DAMPING)[0].inverse()
    for j in range(weight.shape[1]):
        codes[:, j] = (weight[:, j] / scale[:, j]).round().clamp(grid.qmin, grid.qmax)
        error = (weight[:, j] - codes[:, j] * scale[:, j]) / inverse[j, j]
        weight -= torch.outer(error, inverse[j])
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return codes


def test_damping_adds_a_share_of_the_mean_diagonal():
    moment = correlated(12)
    expected = moment + 0.3 * moment.trace() / 12 * torch.eye(12)
    torch.testing.assert_close(damp(moment, 0.3), expected[None])
    spans = torch.stack([moment, 3 * moment])
    torch.testing.assert_close(damp(spans, 0.3), spans + 0.6 * moment.trace() / 12 * torch.eye(12))
    assert torch.equal(damp(torch.zeros(4, 4), 0.3)[0], 0.3 * torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("spans", [1, 4])
def test_the_output_error_is_the_mean_over_inputs(spans):
    """Of spans: the sum over spans, as if they were not correlated."""
    weight, x = randn(5, 24), randn(100, 24, seed=1)
    codes, scale = nearest(weight, 3, 8)
    error = codes * scale.repeat_interleave(8, dim=1) - weight
    parts = [x[:, part] @ error[:, part].T for part in torch.arange(24).view(spans, -1)]
    moment = torch.stack([x[:, part].T @ x[:, part] for part in torch.arange(24).view(spans, -1)]) / 100
    expected = sum(part.square().mean(0) for part in parts)
    torch.testing.assert_close(output_error(weight, codes, scale, moment), expected)


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_gptq_is_near_the_best_of_all_codes(bits, width):
    grid, weight, gain = Grid(bits, symmetric=True), randn(30, width, dtype=torch.float32), []
    every = torch.tensor(list(itertools.product(range(grid.qmin, grid.qmax + 1), repeat=width)))
    for seed in range(5):
        moment = correlated(width, seed=10 * seed)
        codes, scale = gptq(weight, bits, None, moment, DAMPING)
        found = hessian_error(weight, codes, scale, moment)
        losses = [hessian_error(weight, codes.expand_as(weight), scale, moment) for codes in every]
        best = torch.stack(losses).amin(0)
        assert torch.all(found >= best * (1 - 1e-9))
        gain.append((found / best).log())
    assert torch.cat(gain).mean().exp() < 1.2


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_is_the_best_of_all_codes_for_inputs_without_correlation(bits, act_order):
    grid, weight = Grid(bits, symmetric=True), randn(40, 4, dtype=torch.float32)
    moment = randn(4, seed=1).exp().diag()
    codes, scale = gptq(weight, bits, None, moment, DAMPING, act_order)
    assert torch.equal(codes, (weight / scale).round().clamp(grid.qmin, grid.qmax).to(torch.int8))
    assert torch.equal(codes, gptq(weight, bits, None, moment, DAMPING)[0])


@settings(max_examples=12, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([None, 32]),
    width=st.sampled_from([256, 512]),
    act_order=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_no_row_is_worse_than_nearest(bits, group, width, act_order, seed):
    weight, moment = randn(12, width, seed=seed, dtype=torch.float32), correlated(width, seed)
    found = hessian_error(weight, *gptq(weight, bits, group, moment, DAMPING, act_order), moment)
    plain = hessian_error(weight, *nearest(weight, bits, group), moment)
    assert torch.all(found <= plain * (1 + 1e-3))
    if bits < 8:
        assert found.sum() < 0.7 * plain.sum()


@pytest.mark.parametrize("group", [None, 64])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_row_of_a_wide_weight_is_worse_than_nearest(bits, group):
    weight, moment = randn(24, 1024, dtype=torch.float32) ** 3, correlated(1024)
    found = hessian_error(weight, *gptq(weight, bits, group, moment, DAMPING), moment)
    plain = hessian_error(weight, *nearest(weight, bits, group), moment)
    assert torch.all(found <= plain * (1 + 1e-3))
    assert found.sum() < 0.7 * plain.sum()


@pytest.mark.parametrize("bits", BITS)
def test_white_inputs_ask_for_nearest_codes(bits, monkeypatch):
    weight = randn(20, 96, dtype=torch.float32)
    assert torch.all(
        squared_error(weight, *gptq_on_white_inputs(weight, bits, None))
        <= squared_error(weight, *nearest(weight, bits, None)) * (1 + 1e-6)
    )
    monkeypatch.setattr(rounding, "GPTQ_RATIOS", (1.0,))
    for found, expected in zip(gptq_on_white_inputs(weight, bits, None), nearest(weight, bits, None), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("width", [40, GPTQ_BLOCK, 2 * GPTQ_BLOCK + 16])
@pytest.mark.parametrize(("bits", "group"), [(4, None), (3, 8), (8, None)])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_is_its_textbook(bits, group, width, act_order, monkeypatch):
    """Block by block and by a Cholesky factor as column by column; in another order, with the columns in that order."""
    monkeypatch.setattr(rounding, "GPTQ_RATIOS", (1.0,))
    weight, moment = randn(8, width, dtype=torch.float32), correlated(width)
    codes, scale = gptq(weight, bits, group, moment, DAMPING, act_order)
    columns = scale.double().repeat_interleave(width // scale.shape[1], dim=1)
    order = moment.diagonal().argsort(descending=True) if act_order else torch.arange(width)
    expected = textbook(weight.double()[:, order], columns[:, order], moment[order][:, order], bits)
    assert torch.equal(codes[:, order].double(), expected)


def test_each_row_has_the_best_of_its_clips(monkeypatch):
    weight, moment = randn(12, 64, dtype=torch.float32) ** 3, correlated(64)
    best = hessian_error(weight, *gptq(weight, 3, None, moment), moment)
    errors = []
    for ratio in rounding.GPTQ_RATIOS:
        monkeypatch.setattr(rounding, "GPTQ_RATIOS", (ratio,))
        errors.append(hessian_error(weight, *gptq(weight, 3, None, moment), moment))
    torch.testing.assert_close(best, torch.stack(errors).amin(0), rtol=1e-4, atol=0)


def test_groups_take_the_clips_of_least_error_by_the_moments_diagonal():
    weight, moment = randn(6, 96, dtype=torch.float32) ** 3, correlated(96)
    _, scale = gptq(weight, 4, 32, moment, DAMPING)
    _, expected = clip_search(weight, 4, 32, damp(moment, DAMPING)[0].diagonal())
    assert torch.equal(scale, expected)
    assert torch.equal(scale, scale.bfloat16().float())


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(4, None), (3, 16)])
@pytest.mark.parametrize("spans", [2, 3])
def test_spans_are_a_moment_of_blocks(bits, group, spans, act_order):
    width = 96 // spans
    blocks = torch.stack([correlated(width, seed=seed) for seed in range(spans)])
    weight, whole = randn(6, 96, dtype=torch.float32), torch.block_diag(*blocks)
    found, expected = (gptq(weight, bits, group, moment, DAMPING, act_order) for moment in (blocks, whole))
    for actual, same in zip(found, expected, strict=True):
        assert torch.equal(actual, same)


def test_a_moment_without_signal_is_no_reason_to_fail():
    weight = randn(4, 32, dtype=torch.float32)
    moment = correlated(32)
    moment[5], moment[:, 5] = 0, 0
    for silent in (torch.zeros(32, 32), moment):
        codes, scale = gptq(weight, 4, None, silent)
        assert torch.all(hessian_error(weight, codes, scale, silent) < weight.square().sum(1))


@pytest.mark.slow
def test_gptq_takes_the_width_of_a_feed_forward():
    weight, x = randn(1152, 4608, dtype=torch.float32), randn(2048, 4608, seed=1, dtype=torch.float32)
    moment = (x.T @ x / len(x)).double()
    found = hessian_error(weight, *gptq(weight, 4, None, moment), moment)
    assert torch.all(found <= hessian_error(weight, *nearest(weight, 4, None), moment) * (1 + 1e-3))
