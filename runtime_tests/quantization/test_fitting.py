"""fitting.py: a linear is rounded for the inputs that it is given, and on their mean it is exact."""

import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional as F

from edge_hadanorm.method.fold import Folding
from edge_hadanorm.method.grids import Grid, choose_parameters
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.low_rank import LowRank, low_rank
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.method.rounding import METHODS, gptq, nearest
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.quantization import fitting
from edge_hadanorm.quantization.calibration import tokens
from edge_hadanorm.quantization.fitting import fit, fold_linear, output_noise, select_rows
from runtime_tests.support.helpers import randn

WIDTH, OUTPUTS, BATCH, TOKENS = 32, 12, 2, 150
CENTRES = ("none", "static", "dynamic")
ACTIVATIONS = (("token", 4), ("token", 8), ("token", 16), ("tensor", 8), ("tensor", 4))
WEIGHT, BIAS = randn(OUTPUTS, WIDTH, seed=1), randn(OUTPUTS, seed=2)

on_every_input = pytest.mark.parametrize(("centre", "activations"), list(itertools.product(CENTRES, ACTIVATIONS)))


def make_inputs(seed: int = 0) -> torch.Tensor:
    """Correlated tokens [B, S, d] with a mean of their own a sequence, and channels of many sizes."""
    mixing = randn(8, WIDTH, seed=100)
    x = randn(BATCH, TOKENS, 8, seed=seed) @ mixing + 0.3 * randn(BATCH, TOKENS, WIDTH, seed=seed + 1)
    x = x + randn(WIDTH, seed=101) + 0.5 * randn(BATCH, 1, WIDTH, seed=seed + 2)
    return (x * randn(WIDTH, seed=102).exp()).float()


X = make_inputs()
KEPT = (torch.arange(TOKENS) < torch.tensor([[90], [150]])).float()


def make_recipe(activations: tuple[str, int] = ("token", 8), **fields) -> Recipe:
    kind, bits = activations
    return Recipe(**dict(name="mine", weight_bits=4, activation_bits=bits, activations=kind, rounding="gptq") | fields)


def plain(
    recipe: Recipe, centre: str = "none", bias: torch.Tensor | None = BIAS, scale: bool = True
) -> QuantizedLinear:
    """The float linear with a transform folded in, of the centre and of a rotation."""
    mean = None if centre == "none" else X.double().mean((0, 1))
    deviation = X.double().std((0, 1)).sqrt() if scale else None
    transform = FeatureTransform(mean, centre == "dynamic", deviation, ((8, 1),))
    return fold_linear(recipe, Folding(FeatureTransform(), transform), WEIGHT, bias)


def fitted(recipe: Recipe, centre: str = "none", weights: torch.Tensor | None = None, **options) -> QuantizedLinear:
    return fit(plain(recipe, centre, **options), lambda: [(X, weights)])


def exact(x: torch.Tensor = X, bias: torch.Tensor | None = BIAS) -> torch.Tensor:
    return F.linear(x, WEIGHT.float(), None if bias is None else bias.float())


def noise(linear: QuantizedLinear, x: torch.Tensor = X, weights: torch.Tensor | None = None) -> torch.Tensor:
    return output_noise(linear, WEIGHT.float(), BIAS.float(), (x, weights))


def assert_same(a: QuantizedLinear, b: QuantizedLinear) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(tensor, b.state_dict()[name], rtol=1e-6, atol=1e-6)


# Before rounding.


@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize("centre", CENTRES)
def test_unrounded_it_is_the_linear(centre, rank):
    linear = plain(make_recipe(("token", 16), rank=rank), centre)
    assert linear.codes is None
    torch.testing.assert_close(linear(X), exact(), rtol=0, atol=1e-5 * exact().abs().max().item())


def test_the_branch_is_the_nearest_of_its_rank_and_the_rest_is_what_it_leaves():
    linear = plain(make_recipe(rank=3), "static")
    whole = plain(make_recipe(), "static").weight.double()
    down, up = low_rank(whole, 3)
    assert torch.linalg.matrix_rank(linear.low_rank.weight()) == 3
    torch.testing.assert_close(linear.low_rank.weight(), up @ down, rtol=0, atol=1e-6)
    torch.testing.assert_close(linear.weight.double() + linear.low_rank.weight(), whole, rtol=0, atol=1e-6)
    assert plain(make_recipe(rank=3, weight_bits=16)).low_rank is None


@on_every_input
def test_the_output_is_the_quantized_input_times_the_weight(centre, activations):
    """What GPTQ has the moment of is what the weight multiplies, the mean's row with it."""
    for linear in (fitted(make_recipe(activations), centre), fitted(make_recipe(activations, weight_bits=16), centre)):
        expected = F.linear(linear.quantized_input(X), linear.weight, linear.bias)
        torch.testing.assert_close(linear(X), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


# The bias.


@on_every_input
@pytest.mark.parametrize(
    "fields", [{}, dict(rounding="nearest"), dict(rank=4), dict(weight_bits=2), dict(weight_bits=16)]
)
def test_the_mean_output_is_exact(centre, activations, fields):
    linear = fitted(make_recipe(activations, **fields), centre)
    error = (linear(X).double() - exact()).mean((0, 1))
    assert torch.all(error.abs() <= 1e-4 * exact().double().square().mean().sqrt())


@pytest.mark.parametrize("centre", CENTRES)
def test_the_mean_output_is_exact_without_a_bias(centre):
    linear = fitted(make_recipe(), centre, bias=None)
    error = (linear(X).double() - exact(bias=None)).mean((0, 1))
    assert torch.all(error.abs() <= 1e-4 * exact().double().square().mean().sqrt())


@on_every_input
def test_the_mean_over_what_is_no_padding_is_exact(centre, activations):
    linear = fitted(make_recipe(activations), centre, KEPT)
    error = tokens(linear(X, KEPT).double() - exact(), KEPT).mean(0)
    assert torch.all(error.abs() <= 1e-4 * exact().double().square().mean().sqrt())


@on_every_input
def test_a_corrected_bias_loses_nothing_on_its_inputs(centre, activations):
    """What it takes away is the mean of each output's error."""
    recipe = make_recipe(activations, rounding="nearest")
    corrected = fitted(recipe, centre)
    before = QuantizedLinear(
        recipe, corrected.transform, corrected.codes, corrected.weight_scale, plain(recipe, centre).bias
    )
    before.activation_scale, before.activation_zero_point = corrected.activation_scale, corrected.activation_zero_point
    error = (before(X).double() - exact()).mean((0, 1))
    torch.testing.assert_close(noise(corrected), noise(before) - BATCH * TOKENS * error.square(), rtol=1e-3, atol=1e-3)


# The codes.


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize(("bits", "group"), [(2, None), (3, 8), (4, None), (8, None)])
def test_gptq_loses_less_than_nearest_on_its_inputs(activations, bits, group):
    own, other = (
        noise(fitted(make_recipe(activations, weight_bits=bits, group_size=group, rounding=rounding), "static"))
        for rounding in ("gptq", "nearest")
    )
    assert own.sum() <= 1.01 * other.sum()  # beside narrow activations an 8-bit weight hardly matters
    if activations[1] == 16:
        assert own.sum() < 0.6 * other.sum()


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("group", [None, 8])
def test_gptq_wins_on_other_inputs_of_the_kind_too(activations, group):
    own, other = (
        noise(fitted(make_recipe(activations, group_size=group, rounding=rounding), "static"), make_inputs(seed=50))
        for rounding in ("gptq", "nearest")
    )
    assert own.sum() < other.sum()


@pytest.mark.parametrize("group", [None, 8])
@pytest.mark.parametrize("rounding", ["nearest", "clip"])
def test_other_roundings_do_not_look_at_inputs_but_for_the_bias(rounding, group):
    recipe = make_recipe(rounding=rounding, group_size=group, rank=2)
    linear = fitted(recipe, "static")
    before = plain(recipe, "static")
    codes, scale = METHODS[rounding](before.weight, 4, group)
    assert torch.equal(linear.codes, codes)
    assert torch.equal(linear.weight_scale, scale)
    assert torch.equal(linear.low_rank.down, before.low_rank.down)
    assert not torch.equal(linear.bias, before.bias)


@on_every_input
def test_gptq_is_given_the_covariance_of_the_quantized_inputs(centre, activations):
    """Around their mean, whose share is the bias's."""
    recipe = make_recipe(activations)
    linear = fitted(recipe, centre, KEPT)
    z = tokens(linear.quantized_input(X, KEPT), KEPT).double()
    codes, scale = gptq(plain(recipe, centre).weight, 4, None, torch.cov(z.T, correction=0), WIDTH / len(z))
    torch.testing.assert_close(linear.weight_scale, scale)
    assert torch.equal(linear.codes, codes)


def test_columns_go_in_the_recipes_order():
    linear = fitted(make_recipe(act_order=True), "static")
    z = linear.quantized_input(X).flatten(0, 1).double()
    moment, damping = torch.cov(z.T, correction=0), WIDTH / len(z)
    codes, plain_codes = (
        gptq(plain(linear.recipe, "static").weight, 4, None, moment, damping, o)[0] for o in (True, False)
    )
    assert torch.equal(linear.codes, codes)
    assert not torch.equal(linear.codes, plain_codes)


def test_chunks_are_one_sample():
    recipe, parts = make_recipe(("tensor", 8)), [(X[:, :60], KEPT[:, :60]), (X[:, 60:], KEPT[:, 60:])]
    linear = fit(plain(recipe, "static"), lambda: parts)
    assert_same(linear, fitted(recipe, "static", KEPT))


def test_a_small_sample_is_trusted_less(monkeypatch):
    """Tokens that are the same at every step say no more than one of them."""
    given = []

    def spy(weight, bits, group_size, moment, damping, act_order):
        given.append(damping)
        return nearest(weight, bits, group_size)

    monkeypatch.setitem(fitting.METHODS, "gptq", spy)
    for x in (X, X[:1, :16], X[:1, :16].repeat(5, 3, 1), X.repeat(1, 5, 1)):
        fit(plain(make_recipe(("tensor", 8))), lambda x=x: [(x, None)])
    assert given == [WIDTH / (BATCH * TOKENS), 2, 2, WIDTH / (BATCH * TOKENS)]
    many = torch.cat([make_inputs(seed) for seed in range(0, 30, 5)])
    for damping in (0.05, 0.5):
        fit(plain(dataclasses.replace(make_recipe(), damping=damping)), lambda: [(many, None)])
        assert given[-1] == damping


def test_a_span_is_a_moment_of_blocks():
    recipe, options = make_recipe(), [None, 8, 16, WIDTH, 2 * WIDTH, 15]
    whole, eight, sixteen, all_columns, more, fifteen = (
        fit(plain(recipe, "static"), lambda: [(X, None)], span).codes for span in options
    )
    assert all(torch.equal(codes, whole) for codes in (all_columns, more))
    assert torch.equal(fifteen, eight)  # the most that divide
    z = plain(recipe, "static").quantized_input(X).flatten(0, 1)
    covariance = torch.cov(z.double().T, correction=0)
    for codes, span in ((eight, 8), (sixteen, 16)):
        mask = torch.block_diag(*[torch.ones(span, span)] * (WIDTH // span))
        damping = WIDTH / (BATCH * TOKENS)
        assert torch.equal(codes, gptq(plain(recipe, "static").weight, 4, None, covariance * mask, damping)[0])
        assert not torch.equal(codes, whole)


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
@pytest.mark.parametrize("bits", [8, 16])
def test_weights_of_16_bits_stay(rounding, bits):
    linear = fitted(make_recipe(("token", bits), weight_bits=16, rounding=rounding, rank=3), "dynamic")
    assert linear.codes is None
    assert linear.low_rank is None
    assert torch.equal(linear.weight, plain(make_recipe(weight_bits=16), "dynamic").weight)
    assert noise(linear).sum() < (1e-3 if bits == 8 else 1e-8) * exact().double().square().sum()


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_the_branch_is_kept_and_gains(centre, activations):
    recipe = make_recipe(activations, weight_bits=2, rank=8)
    linear, before = fitted(recipe, centre), plain(recipe, centre)
    assert torch.equal(linear.low_rank.down, before.low_rank.down)
    assert torch.equal(linear.low_rank.up, before.low_rank.up)
    assert noise(linear).sum() < noise(fitted(make_recipe(activations, weight_bits=2), centre)).sum()


# Padding.


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("activations", [("token", 4), ("token", 8), ("tensor", 8)])
def test_padding_is_not_seen(centre, activations):
    other = torch.where(KEPT[..., None] > 0, X, 1e3 * make_inputs(seed=9))
    recipe = make_recipe(activations)
    assert_same(fit(plain(recipe, centre), lambda: [(other, KEPT)]), fitted(recipe, centre, KEPT))
    assert not torch.equal(fitted(recipe, centre, KEPT).bias, fitted(recipe, centre).bias)


# Static activations.


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("clip", [1.0, 0.8])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_static_range_is_that_of_the_inputs_and_is_clipped(centre, clip, bits):
    recipe = make_recipe(("tensor", bits), activation_clip=clip)
    parts = [(X[:, :70], None), (X[:, 70:], None)]
    linear, before = fit(plain(recipe, centre), lambda: parts), plain(recipe, centre)
    rows = [before.rows(x) for x, _ in parts]
    low, high = min(row.min() for row in rows), max(row.max() for row in rows)
    scale, zero = choose_parameters(clip * low, clip * high, Grid(bits, symmetric=False))
    assert torch.equal(linear.activation_scale, scale)
    assert torch.equal(linear.activation_zero_point, zero)


def test_a_clip_of_tokens_is_of_each_tokens_range():
    """Of fewer than 8 bits: the device takes the whole range at 8."""
    clipped, whole = (fitted(make_recipe(("token", 4), activation_clip=clip), "static") for clip in (0.7, 1.0))
    for linear, clip in ((clipped, 0.7), (whole, 1.0)):
        z = linear.transform(X)[0]
        reached = linear.rows(X).abs().amax(-1) / z.abs().amax(-1)
        assert (reached - clip).abs().max() < 1 / 15
    eight = [fitted(make_recipe(("token", 8), activation_clip=clip), "static") for clip in (0.7, 1.0)]
    assert torch.equal(eight[0](X), eight[1](X))


# Hard inputs.


@pytest.mark.parametrize("activations", [("token", 8), ("token", 16), ("tensor", 8)])
def test_a_mean_of_many_deviations_is_no_reason_to_fail(activations):
    x = randn(2, 500, WIDTH, dtype=torch.float32) + 1e3 * randn(WIDTH, seed=1, dtype=torch.float32)
    linear = fit(plain(make_recipe(activations), scale=False), lambda: [(x, None)])
    assert linear.weight.isfinite().all()
    error = (linear(x).double() - F.linear(x.double(), WEIGHT, BIAS)).mean((0, 1))
    assert torch.all(error.abs() <= 1e-5 * F.linear(x.double(), WEIGHT, BIAS).square().mean().sqrt())


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_an_input_of_one_value_gives_the_exact_output(centre, activations):
    x = X[:1, :1].repeat(2, 20, 1)
    linear = fit(plain(make_recipe(activations), centre), lambda: [(x, None)])
    torch.testing.assert_close(linear(x), exact(x), rtol=0, atol=1e-5 * exact(x).abs().max().item())


# Parts of it.


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("bias", [BIAS, None])
def test_some_rows_are_rounded_as_among_all(rank, bias):
    rows, recipe = torch.tensor([0, 3, 11]), make_recipe(("token", 4), rank=rank)
    linear = plain(recipe, "dynamic", bias)
    part, whole = (fit(one, lambda: [(X, None)]) for one in (select_rows(linear, rows), linear))
    assert torch.equal(part.codes, whole.codes[rows])
    assert torch.equal(part.weight_scale, whole.weight_scale[rows])
    torch.testing.assert_close(part(X), whole(X)[..., rows], rtol=0, atol=1e-5 * whole(X).abs().max().item())


def test_output_noise_is_of_tokens_that_are_no_padding():
    linear = fitted(make_recipe(), "dynamic", KEPT)
    difference = (linear(X, KEPT) - exact()).double().square() * KEPT[..., None]
    torch.testing.assert_close(noise(linear, weights=KEPT), difference.sum((0, 1)))


def test_a_branch_is_its_two_factors():
    down, up = randn(2, 5), randn(3, 2, seed=1)
    torch.testing.assert_close(LowRank(down, up)(randn(4, 5, seed=2)), randn(4, 5, seed=2) @ (up @ down).T)
