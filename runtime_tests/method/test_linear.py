"""linear.py: the quantized linear is its formulas, and the float linear in the limit."""

import dataclasses

import numpy as np
import pytest
import torch

from edge_hadanorm.method.grids import fake_quantize_per_token
from edge_hadanorm.method.hadamard import hadamard_matrix
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.low_rank import LowRank, low_rank
from edge_hadanorm.method.recipe import METHODS, named
from edge_hadanorm.method.rounding import nearest
from edge_hadanorm.method.transform import FeatureTransform, rotation_factors
from runtime_tests.support.helpers import randn, relative_error

WIDTH, OUTPUTS, TOKENS, BLOCK = 96, 40, 11, 32
R = torch.block_diag(*[hadamard_matrix(BLOCK)] * (WIDTH // BLOCK))

on_every_method = pytest.mark.parametrize("method", METHODS)


CENTRE, SCALE = 0.1 * randn(WIDTH, seed=3), (0.2 * randn(WIDTH, seed=4)).exp()


def weight_of(seed: int = 1) -> torch.Tensor:
    return randn(OUTPUTS, WIDTH, seed=seed) * WIDTH**-0.5


def bias_of(seed: int = 2) -> torch.Tensor:
    return randn(OUTPUTS, seed=seed)


def recipe(name: str, **fields):
    return dataclasses.replace(named(name), block=BLOCK, **fields)


def make_transform(recipe) -> FeatureTransform:
    return FeatureTransform(
        centre=None if recipe.centre == "none" else CENTRE,
        dynamic=recipe.centre == "dynamic",
        scale=None if recipe.scale == "none" else SCALE,
        rotation=rotation_factors(WIDTH, recipe.rotation, recipe.block),
    )


def make_linear(recipe, weight=None, bias=None) -> QuantizedLinear:
    transform = make_transform(recipe)
    folded, share = transform.fold(weight_of() if weight is None else weight, bias)
    branch = LowRank(*low_rank(folded, recipe.rank)) if recipe.rank else None
    rest = folded if branch is None else folded - branch.weight()
    codes, scale = nearest(rest, recipe.weight_bits, recipe.group_size)
    return QuantizedLinear(recipe, transform, codes, scale, share, low_rank=branch)


class Unquantized:
    """A lowering that leaves the quantization of the input out."""

    def __init__(self, linear: QuantizedLinear):
        self.linear = linear

    def rows(self, rows):
        return rows

    def weight(self):
        return self.linear.weight


def assert_equal(actual: torch.Tensor, expected: torch.Tensor, error: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=error)


# The limit of many bits.


@on_every_method
@pytest.mark.parametrize("bias", [None, "random"])
def test_8_bit_weights_alone_come_close_to_the_float_linear(method, bias):
    x, bias = randn(2, TOKENS, WIDTH), None if bias is None else bias_of()
    expected = torch.nn.functional.linear(x, weight_of(), bias)
    assert relative_error(make_linear(recipe(f"{method}-w8a16"), bias=bias)(x), expected) < 0.015


@on_every_method
def test_w8a8_is_within_two_percent_of_float_on_gaussian_data(method):
    """A step of 1/127 of a row's 3 sigma, and of 1/255 of a token's 6: about 1 % each way."""
    x = randn(2, 64, WIDTH)
    expected = torch.nn.functional.linear(x, weight_of(), bias_of())
    assert relative_error(make_linear(recipe(f"{method}-w8a8"), bias=bias_of())(x), expected) < 0.02


def test_a_weight_on_its_grid_with_float_activations_is_exact():
    codes = torch.randint(-127, 128, (OUTPUTS, WIDTH), generator=torch.Generator().manual_seed(0))
    codes[:, 0] = 127
    weight, x = codes * 2.0**-9, randn(2, TOKENS, WIDTH)
    linear = make_linear(recipe("rtn-w8a16"), weight.double(), bias_of())
    assert torch.equal(linear.weight, weight.double())
    assert_equal(linear(x), x @ weight.double().T + bias_of())


@pytest.mark.parametrize("method", ["rtn", "hadanorm"])
def test_the_error_falls_with_every_bit(method):
    def error(name: str) -> float:
        linear = make_linear(recipe(f"{method}-{name}"), bias=bias_of())
        inputs = [randn(4, 32, WIDTH, seed=seed) for seed in range(3)]
        return sum(relative_error(linear(x), x @ weight_of().T + bias_of()) for x in inputs)

    by_weight = [error(f"w{bits}a16") for bits in range(2, 9)]
    by_activation = [error(f"w8a{bits}") for bits in (*range(2, 9), 16)]
    assert by_weight == sorted(by_weight, reverse=True)
    assert by_activation == sorted(by_activation, reverse=True)


def test_groups_lose_less_than_channels():
    weight, x = weight_of() * randn(WIDTH, seed=9).exp(), randn(2, TOKENS, WIDTH)
    channel, group = (
        relative_error(make_linear(recipe(name), weight)(x), x @ weight.T) for name in ("rtn-w4a16", "rtn-w4a16-g32")
    )
    assert group < 0.9 * channel


# The formulas.


def on_token_grid(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """Each row of [..., d] on 2^bits evenly spaced values, one of them 0, that span its smallest to largest value."""
    low, high = rows.amin(-1, keepdim=True).clamp(max=0), rows.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low) / (2**bits - 1)
    bottom = (low / step).round()
    return (rows / step).round().clamp(bottom, bottom + 2**bits - 1) * step


@on_every_method
@pytest.mark.parametrize("format", ["w4a8", "w4a8-g32", "w8a8", "w4a4", "w3a2", "w8a16", "w4a6-g16"])
@pytest.mark.parametrize("bias", [None, "random"])
def test_forward_is_its_formulas(method, format, bias):
    """y = q(z) Q(R)^T + q(r) Q(R)^T + (z + r) L^T + b', q at the recipe's bits and then at 8, r at 8 alone.

    L is the nearest of the recipe's rank to W', and R = W' - L.
    """
    r = recipe(f"{method}-{format}")
    x, bias = randn(3, TOKENS, WIDTH), None if bias is None else bias_of()
    linear = make_linear(r, bias=bias)
    zeros, ones = torch.zeros(WIDTH).double(), torch.ones(WIDTH).double()
    static = zeros if r.centre == "none" else CENTRE
    scale = ones if r.scale == "none" else SCALE
    rotation = torch.eye(WIDTH).double() if r.rotation == "none" else R
    mean = x.mean(1, keepdim=True) if r.centre == "dynamic" else static
    z, rest = (x - mean) / scale @ rotation, (mean - static) / scale @ rotation
    exact = z + rest if r.centre == "dynamic" else z
    if r.activation_bits < 8:
        z = on_token_grid(z, r.activation_bits)
    if r.activation_bits <= 8:
        z = on_token_grid(z, 8)
        rest = on_token_grid(rest, 8) if r.centre == "dynamic" else rest
    folded = weight_of() * scale @ rotation
    nearest_of_rank = truncated(folded, r.rank)
    groups = (folded - nearest_of_rank).unflatten(1, (-1, r.group_size or WIDTH))
    step = groups.abs().amax(-1, keepdim=True) / (2 ** (r.weight_bits - 1) - 1)
    step = step if r.group_size is None else step.bfloat16().double()
    low, high = -(2 ** (r.weight_bits - 1)), 2 ** (r.weight_bits - 1) - 1
    quantized = ((groups / step).round().clamp(max(low, -127), high) * step).flatten(1)
    expected = z @ quantized.T + (rest @ quantized.T if r.centre == "dynamic" else 0) + static @ weight_of().T
    expected += exact @ nearest_of_rank.T
    expected = expected if bias is None else expected + bias
    assert_equal(linear(x), expected, 1e-11)


@pytest.mark.parametrize("format", ["w4a4", "w4a8", "w4a16"])
def test_with_a_dynamic_centre_the_branch_takes_the_means_row_too(format):
    """A recipe of no method: what the branch adds is (z + r) L^T of the unquantized z and r."""
    with_branch = make_linear(recipe(f"hadanorm-{format}", rank=8), bias=bias_of())
    parts = with_branch.codes, with_branch.weight_scale, with_branch.bias
    without = QuantizedLinear(with_branch.recipe, with_branch.transform, *parts)
    x = randn(2, TOKENS, WIDTH)
    added = sum(with_branch.transform(x)) @ with_branch.low_rank.weight().T
    assert_equal(with_branch(x), without(x) + added)
    assert_equal(torch.cat(with_branch(x, parts=5), -1), with_branch(x))


@pytest.mark.parametrize("format", ["w4a8", "w4a4", "w8a8", "w8a16"])
def test_the_share_of_the_dynamic_mean_is_a_row_of_the_same_product(format):
    linear, x = make_linear(recipe(f"hadanorm-{format}"), bias=bias_of()), randn(2, TOKENS, WIDTH)
    r = linear.recipe
    z, rest = linear.transform(x)
    if r.activation_bits < 8:
        z = fake_quantize_per_token(z, r.activation_bits)
    if r.activation_bits <= 8:
        z, rest = fake_quantize_per_token(z, 8), fake_quantize_per_token(rest, 8)
    assert_equal(linear(x), z @ linear.weight.T + (rest @ linear.weight.T + linear.bias))


@on_every_method
def test_the_device_is_given_the_rows_unquantized_and_nothing_else_differs(method):
    linear, x = make_linear(recipe(f"{method}-w4a8"), bias=bias_of()), randn(2, TOKENS, WIDTH)
    unquantized = make_linear(recipe(f"{method}-w4a16"), bias=bias_of())
    simulated = linear(x)
    linear.lowering = Unquantized(linear)
    assert torch.equal(linear(x), unquantized(x))
    assert 1e-4 < relative_error(linear(x), simulated) < 0.02


@on_every_method
@pytest.mark.parametrize("bits", [2, 4])
def test_2_and_4_bit_tokens_reach_the_device_on_their_own_grid(method, bits):
    """That grid lies inside the device's 8-bit one, so that only the mean's row is left to quantize."""
    linear, x = make_linear(recipe(f"{method}-w8a{bits}"), bias=bias_of()), randn(2, TOKENS, WIDTH)
    simulated = linear(x)
    linear.lowering = Unquantized(linear)
    mean_row = linear.transform(x)[1]
    expected = linear(x)
    if mean_row is not None:
        expected = expected + (fake_quantize_per_token(mean_row, 8) - mean_row) @ linear.weight.T
    assert_equal(simulated, expected, 1e-10)


@on_every_method
@pytest.mark.parametrize("bits", [4, 8])
def test_static_activations_have_one_range(method, bits):
    r = recipe(f"{method}-w8a{bits}-static")
    linear, x = make_linear(r, bias=bias_of()), randn(2, TOKENS, WIDTH)
    low, high = linear.rows(x).aminmax()
    linear.set_activation_range(low, high)
    step = (high - low) / (2**bits - 1)
    bottom = (low / step).round()
    z, rest = (
        None if t is None else (t / step).round().clamp(bottom, bottom + 2**bits - 1) * step
        for t in linear.transform(x)
    )
    expected = z @ linear.weight.T + linear.bias
    if linear.low_rank is not None:
        expected = expected + linear.low_rank(linear.transform(x)[0])
    assert_equal(linear(x), expected if rest is None else expected + rest @ linear.weight.T, 1e-11)
    linear.lowering = Unquantized(linear)
    assert_equal(linear(x), make_linear(recipe(f"{method}-w8a16"), bias=bias_of())(x))


def test_static_activations_saturate_beyond_their_range():
    linear = make_linear(recipe("rtn-w8a8-static"))
    linear.set_activation_range(torch.tensor(-1.0).double(), torch.tensor(1.0).double())
    x = torch.full((1, 1, WIDTH), 0.9).double()
    x[..., 0] = 50.0
    near = x.clone()
    near[..., 0] = 1.0
    assert torch.equal(linear(x), linear(near))


@on_every_method
def test_what_was_absorbed_is_not_done_again(method):
    """It says what the input is, for whoever compares with the float linear."""
    r, x = recipe(f"{method}-w4a8"), randn(2, TOKENS, WIDTH)
    plain = make_linear(r, bias=bias_of())
    absorbed = FeatureTransform(CENTRE, scale=SCALE, rotation=((12, 1),))
    parts = plain.transform, plain.codes, plain.weight_scale, plain.bias
    told = QuantizedLinear(r, *parts, absorbed=absorbed, low_rank=plain.low_rank)
    assert torch.equal(told(x), plain(x))
    assert plain.absorbed.is_identity
    assert set(told.state_dict()) - set(plain.state_dict()) == {"absorbed.centre", "absorbed.inverse_scale"}


# The low-rank branch.


def truncated(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest matrix of that rank, by numpy."""
    u, s, vt = np.linalg.svd(weight.numpy(), full_matrices=False)
    return torch.from_numpy((u[:, :rank] * s[:rank]) @ vt[:rank])


@pytest.mark.parametrize("shape", [(OUTPUTS, WIDTH), (WIDTH, OUTPUTS)])
@pytest.mark.parametrize("rank", [1, 16, OUTPUTS])
def test_the_branch_is_the_nearest_of_its_rank(shape, rank):
    """Eckart-Young: what it leaves are the other singular values, and no other matrix of the rank leaves less."""
    weight = randn(*shape)
    down, up = low_rank(weight, rank)
    assert (down.shape, up.shape) == ((rank, shape[1]), (shape[0], rank))
    assert_equal(up @ down, truncated(weight, rank))
    left = np.linalg.svd(weight.numpy(), compute_uv=False)[rank:]
    assert (weight - up @ down).norm().item() == pytest.approx(np.linalg.norm(left), abs=1e-12)
    for seed in range(10):
        nearby = (up + 1e-3 * randn(*up.shape, seed=seed)) @ (down + 1e-3 * randn(*down.shape, seed=seed + 50))
        assert (weight - nearby).norm() > (weight - up @ down).norm()


@on_every_method
@pytest.mark.parametrize("rank", [1, 16, OUTPUTS])
def test_without_rounding_the_branch_and_the_rest_are_the_float_linear(method, rank):
    r, x = recipe(f"{method}-w16a16"), randn(2, TOKENS, WIDTH)
    transform = make_transform(r)
    folded, share = transform.fold(weight_of(), bias_of())
    branch = LowRank(*low_rank(folded, rank))
    rest = folded - branch.weight()
    linear = QuantizedLinear(r, transform, None, None, share, float_weight=rest, low_rank=branch)
    assert_equal(linear(x), x @ weight_of().T + bias_of())


@pytest.mark.parametrize("format", ["w4a16", "w4a8", "w4a4", "w4a8-g32"])
def test_the_branch_loses_less_of_a_weight_with_a_strong_low_rank_part(format):
    """Of rank 4 and four times as large as the rest, whose grid then need not span it."""
    part = randn(OUTPUTS, 4, seed=7) @ randn(4, WIDTH, seed=8) * WIDTH**-0.5
    weight, x = weight_of() + 2 * part, randn(2, 64, WIDTH)
    errors = [
        relative_error(make_linear(recipe(f"rtn-{format}", rank=rank), weight)(x), x @ weight.T) for rank in (0, 2, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] / 2


# Shapes, tokens, state.


@on_every_method
@pytest.mark.parametrize("batch", [1, 3])
def test_sequences_do_not_depend_on_each_other(method, batch):
    linear, x = make_linear(recipe(f"{method}-w4a8"), bias=bias_of()), randn(batch, TOKENS, WIDTH)
    y = linear(x)
    assert y.shape == (batch, TOKENS, OUTPUTS)
    assert_equal(y, torch.cat([linear(sequence) for sequence in x.split(1)]))


def test_padding_does_not_reach_the_other_tokens():
    linear, x, real = make_linear(recipe("hadanorm-w4a8"), bias=bias_of()), randn(2, TOKENS, WIDTH), 5
    mask = (torch.arange(TOKENS) < real).double().expand(2, -1)
    assert_equal(linear(x, mask)[:, :real], linear(x[:, :real]))


def test_stacked_linears_are_each_of_them():
    r, x = recipe("hadanorm-w4a8"), randn(2, TOKENS, WIDTH)
    weights, biases = [weight_of(seed) for seed in (5, 6, 7)], [bias_of(seed) for seed in (5, 6, 7)]
    stacked = make_linear(r, torch.cat(weights), torch.cat(biases))(x)
    for y, weight, bias in zip(stacked.split(OUTPUTS, dim=-1), weights, biases, strict=True):
        assert_equal(y, make_linear(r, weight, bias)(x))


@on_every_method
@pytest.mark.parametrize("bias", [None, bias_of()], ids=["no bias", "bias"])
def test_parts_are_the_output_in_parts(method, bias):
    linear, x = make_linear(recipe(f"{method}-w8a16"), bias=bias), randn(2, TOKENS, WIDTH)
    parts = linear(x, parts=5)
    assert {tuple(part.shape) for part in parts} == {(2, TOKENS, OUTPUTS // 5)}
    assert torch.equal(torch.cat(parts, -1), linear(x))
    assert torch.equal(linear(x, parts=1)[0], linear(x))


@on_every_method
def test_a_shift_is_as_if_it_were_added_before(method):
    linear, x = make_linear(recipe(f"{method}-w8a16"), bias=bias_of()), randn(2, TOKENS, WIDTH)
    shift = randn(1, 1, WIDTH, seed=8)
    assert_equal(linear(x, shift=shift), linear(x + shift))


def test_float32_runs_as_float64_does():
    x = randn(2, TOKENS, WIDTH)
    linear = make_linear(recipe("hadanorm-w4a16-g32"), bias=bias_of())
    expected = linear(x)
    y = linear.float()(x.float())
    assert y.dtype == torch.float32
    assert linear.codes.dtype == torch.int8
    assert relative_error(y.double(), expected) < 1e-5


@on_every_method
@pytest.mark.parametrize("format", ["w4a8", "w4a8-g32", "w8a8-static"])
def test_a_state_dict_brings_back_the_codes_and_the_output(method, format):
    r, x = recipe(f"{method}-{format}"), randn(2, TOKENS, WIDTH)
    linear = make_linear(r, bias=bias_of())
    if r.activations == "tensor":
        linear.set_activation_range(*linear.rows(x).aminmax())
    state = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    assert "weight" not in state
    other = make_linear(r, weight_of(seed=8), bias_of(seed=9)).double()  # an unset range is float32
    other.load_state_dict(state)
    assert torch.equal(other.codes, linear.codes)
    assert torch.equal(other.weight_scale, linear.weight_scale)
    assert torch.equal(other(x), linear(x))


def test_a_printed_linear_shows_shape_bits_and_what_is_online():
    recipe = named("hadanorm-w4a8-g32")
    transform = FeatureTransform(torch.zeros(64), dynamic=True, scale=torch.ones(64), rotation=((32, 1),))
    codes, scale = torch.zeros(96, 64, dtype=torch.int8), torch.ones(96, 2)
    shown = repr(QuantizedLinear(recipe, transform, codes, scale, None))
    assert "64 -> 96, w4a8 g32 per token" in shown
    assert "(transform): FeatureTransform(token mean, scale, H32)" in shown
    assert "(absorbed): FeatureTransform(nothing)" in shown
