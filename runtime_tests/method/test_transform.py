"""transform.py: for any mean, positive scale and rotation the folded linear is the linear."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_hadanorm.method.hadamard import hadamard_matrix, is_hadamard_order
from edge_hadanorm.method.operators import token_mean
from edge_hadanorm.method.transform import FeatureTransform, rotate_strided, rotation_factors
from runtime_tests.support.helpers import randn, relative_error

WIDTHS = [48, 64, 96, 144, 1152]
DIT_WIDTHS = [1536, 2240, 2432, 3072, 4608]
CENTRES, SCALES, ROTATIONS = ("none", "static", "dynamic"), ("none", "spread"), ("none", "block", "full")
TOKENS, OUTPUTS, BLOCK = 7, 10, 32

on_every_combination = pytest.mark.parametrize(
    ("centre", "scale", "rotation"), list(itertools.product(CENTRES, SCALES, ROTATIONS))
)


def spread(width: int) -> torch.Tensor:
    """Positive scales from 1e-3 to 1e3, in no order."""
    order = torch.randperm(width, generator=torch.Generator().manual_seed(1))
    return torch.logspace(-3, 3, width, dtype=torch.float64)[order]


def tokens(width: int, seed: int = 0) -> torch.Tensor:
    """[2, TOKENS, width] whose channels differ in size as the scales do, each with a mean as large as it varies."""
    return (randn(2, TOKENS, width, seed=seed) + randn(width, seed=seed + 1)) * spread(width)


def make_transform(width: int, centre: str, scale: str, rotation: str) -> FeatureTransform:
    return FeatureTransform(
        centre=None if centre == "none" else randn(width, seed=3) * spread(width),
        dynamic=centre == "dynamic",
        scale=spread(width) if scale == "spread" else None,
        rotation=rotation_factors(width, rotation, BLOCK),
    )


def folded_linear(transform, x, weight, bias, weights=None):
    """y = z W'^T + r W'^T + b'."""
    z, rest = transform(x, weights)
    folded, share = transform.fold(weight, bias)
    y = z @ folded.T
    y = y if rest is None else y + rest @ folded.T
    return y if share is None else y + share


# The identity.


@on_every_combination
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("bias", [None, "random"])
def test_the_folded_linear_is_the_linear(width, centre, scale, rotation, bias):
    x, weight = tokens(width), randn(OUTPUTS, width, seed=4)
    bias = None if bias is None else randn(OUTPUTS, seed=5)
    transform = make_transform(width, centre, scale, rotation)
    expected = x @ weight.T if bias is None else x @ weight.T + bias
    assert relative_error(folded_linear(transform, x, weight, bias), expected) <= 1e-12


@settings(max_examples=100, deadline=None)
@given(
    width=st.sampled_from([8, 12, 48, 64, 96, 144]),
    combination=st.sampled_from(list(itertools.product(CENTRES, (False, True), (False, True), ROTATIONS))),
    seed=st.integers(0, 2**31),
)
def test_the_identity_holds_for_any_mean_scale_and_input(width, combination, seed):
    """Backward error: relative to |z| |W'|, the size of what is summed."""
    centre, with_centre, with_scale, rotation = combination
    scale = 10 ** (3 * randn(width, seed=seed + 1).clamp(-1, 1))
    transform = FeatureTransform(
        centre=10 * randn(width, seed=seed + 2) if with_centre else None,
        dynamic=centre == "dynamic",
        scale=scale if with_scale else None,
        rotation=rotation_factors(width, rotation, BLOCK),
    )
    x, weight, bias = randn(3, 5, width, seed=seed), randn(OUTPUTS, width, seed=seed + 3), randn(OUTPUTS, seed=seed + 4)
    z, rest = transform(x)
    folded, share = transform.fold(weight, bias)
    size = (z.norm() + (0 if rest is None else rest.norm())) * folded.norm() + share.norm()
    assert (folded_linear(transform, x, weight, bias) - (x @ weight.T + bias)).norm() <= 1e-14 * size


@on_every_combination
def test_z_and_the_weight_are_what_the_formulas_say(centre, scale, rotation):
    """z = ((x - mu) / D) R, W' = (W diag(D)) R, b' = mu W^T + b, with R as a matrix."""
    width = 96
    x, weight, bias = tokens(width), randn(OUTPUTS, width, seed=4), randn(OUTPUTS, seed=5)
    transform = make_transform(width, centre, scale, rotation)
    matrix = {
        "none": torch.eye(width, dtype=torch.float64),
        "block": torch.block_diag(*[hadamard_matrix(32)] * 3),
        "full": torch.kron(hadamard_matrix(12), hadamard_matrix(8)),
    }[rotation]
    scales = spread(width) if scale == "spread" else torch.ones(width, dtype=torch.float64)
    static = torch.zeros(width, dtype=torch.float64) if centre == "none" else transform.centre
    mean = x.mean(1, keepdim=True) if centre == "dynamic" else static
    z, rest = transform(x)
    folded, share = transform.fold(weight, bias)
    assert relative_error(z, (x - mean) / scales @ matrix) <= 1e-12
    assert relative_error(folded, weight * scales @ matrix) <= 1e-12
    assert relative_error(share, bias + weight @ static) <= 1e-12
    if centre == "dynamic":
        assert rest.shape == (2, 1, width)
        assert relative_error(rest, (mean - static) / scales @ matrix) <= 1e-12
    else:
        assert rest is None


@on_every_combination
def test_linears_on_one_input_share_a_transform(centre, scale, rotation):
    width = 96
    x, transform = tokens(width), make_transform(width, centre, scale, rotation)
    weights, biases = randn(3, OUTPUTS, width, seed=4), randn(3, OUTPUTS, seed=5)  # q, k and v
    stacked = folded_linear(transform, x, weights.flatten(0, 1), biases.flatten())
    for y, weight, bias in zip(stacked.split(OUTPUTS, dim=-1), weights, biases, strict=True):
        assert relative_error(y, folded_linear(transform, x, weight, bias)) <= 1e-12
        assert relative_error(y, x @ weight.T + bias) <= 1e-12


def test_without_bias_and_centre_there_is_no_bias():
    weight = randn(OUTPUTS, 96)
    assert make_transform(96, "none", "spread", "full").fold(weight, None)[1] is None
    assert FeatureTransform(dynamic=True).fold(weight, None)[1] is None
    transform = make_transform(96, "static", "spread", "full")
    torch.testing.assert_close(transform.fold(weight, None)[1], weight @ transform.centre)


def test_folding_leaves_the_weight_and_bias_as_they_were():
    weight, bias = randn(OUTPUTS, 96), randn(OUTPUTS)
    before = weight.clone(), bias.clone()
    make_transform(96, "dynamic", "spread", "full").fold(weight, bias)
    assert torch.equal(weight, before[0])
    assert torch.equal(bias, before[1])


@on_every_combination
def test_float32_keeps_the_identity_within_its_rounding(centre, scale, rotation):
    width = 144
    x, weight, bias = tokens(width), randn(OUTPUTS, width, seed=4), randn(OUTPUTS, seed=5)
    y = folded_linear(make_transform(width, centre, scale, rotation).float(), x.float(), weight.float(), bias.float())
    assert y.dtype == torch.float32
    assert relative_error(y.double(), x @ weight.T + bias) <= 1e-5


# The mean.


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_dynamic_centre_removes_the_mean_of_each_sequence(width, rotation):
    x = tokens(width)
    z, rest = make_transform(width, "dynamic", "spread", rotation)(x)
    assert z.mean(1).abs().max() <= 1e-13 * z.abs().max()
    assert rest.shape == (2, 1, width)
    alone = [make_transform(width, "dynamic", "spread", rotation)(sequence) for sequence in x.split(1)]
    torch.testing.assert_close(z, torch.cat([z for z, _ in alone]), rtol=0, atol=1e-12)


def test_a_dynamic_centre_does_not_see_an_offset_of_all_tokens():
    x, offset = randn(2, TOKENS, 96), randn(96, seed=1)
    transform = make_transform(96, "dynamic", "none", "full")
    torch.testing.assert_close(transform(x + offset)[0], transform(x)[0], rtol=0, atol=1e-12)


def test_one_token_is_all_mean():
    x = tokens(96)[:, :1]
    transform = make_transform(96, "dynamic", "spread", "block")
    z, _ = transform(x)
    assert torch.all(z == 0)
    weight, bias = randn(OUTPUTS, 96), randn(OUTPUTS)
    assert relative_error(folded_linear(transform, x, weight, bias), x @ weight.T + bias) <= 1e-12


def test_the_token_mean_is_the_mean_and_with_weights_the_weighted_mean():
    x, weights = randn(3, TOKENS, 48), randn(3, TOKENS, seed=1).abs()
    torch.testing.assert_close(token_mean(x), x.mean(1, keepdim=True), rtol=0, atol=1e-14)
    weighted = (weights[..., None] * x).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
    torch.testing.assert_close(token_mean(x, weights), weighted, rtol=0, atol=1e-13)
    torch.testing.assert_close(token_mean(x, torch.ones(3, TOKENS).double()), token_mean(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_padding_does_not_reach_the_mean_and_the_identity_stays_exact(rotation):
    width, real = 96, 4
    x, other = tokens(width), tokens(width, seed=7)
    other[:, :real] = x[:, :real]  # the same prompt, other padding
    mask = (torch.arange(TOKENS) < real).double().expand(2, -1)
    transform = make_transform(width, "dynamic", "spread", rotation)
    z, rest = transform(x, mask)
    z_other, rest_other = transform(other, mask)
    torch.testing.assert_close(rest, rest_other, rtol=0, atol=1e-12)
    torch.testing.assert_close(z[:, :real], z_other[:, :real], rtol=0, atol=1e-12)
    assert z[:, :real].mean(1).abs().max() <= 1e-13 * z.abs().max()
    unpadded = transform(x[:, :real])
    torch.testing.assert_close(z[:, :real], unpadded[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(rest, unpadded[1], rtol=0, atol=1e-12)
    weight, bias = randn(OUTPUTS, width, seed=4), randn(OUTPUTS, seed=5)
    assert relative_error(folded_linear(transform, x, weight, bias, mask), x @ weight.T + bias) <= 1e-12


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_any_token_weights_keep_the_identity(seed):
    weights = randn(2, TOKENS, seed=seed).abs()
    x, weight, bias = tokens(96), randn(OUTPUTS, 96, seed=4), randn(OUTPUTS, seed=5)
    transform = make_transform(96, "dynamic", "spread", "full")
    assert relative_error(folded_linear(transform, x, weight, bias, weights), x @ weight.T + bias) <= 1e-12


# The rotation.


def composed(width: int, kind: str, block: int = BLOCK) -> torch.Tensor:
    """The factors of a rotation as one matrix: the rows of the identity, rotated."""
    transform = FeatureTransform(rotation=rotation_factors(width, kind, block))
    return transform(torch.eye(width, dtype=torch.float64)[None])[0][0]


@pytest.mark.parametrize("kind", ROTATIONS)
@pytest.mark.parametrize("width", WIDTHS)
def test_rotation_preserves_norms(width, kind):
    x = tokens(width)
    z, _ = FeatureTransform(rotation=rotation_factors(width, kind, BLOCK))(x)
    torch.testing.assert_close(z.norm(dim=-1), x.norm(dim=-1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("width", [2, 12, 36, *WIDTHS, *DIT_WIDTHS])
def test_a_full_rotation_has_two_hadamard_factors_over_the_whole_width(width):
    factors = rotation_factors(width, "full", BLOCK)
    assert len(factors) <= 2
    stride = 1
    for order, at in factors:
        assert at == stride
        assert is_hadamard_order(order)
        stride *= order
    assert stride == width


@pytest.mark.parametrize("width", [12, 36, *WIDTHS])
def test_a_full_rotation_is_orthogonal_and_mixes_all_features_equally(width):
    r = composed(width, "full")
    torch.testing.assert_close(r @ r.T, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(r.abs(), torch.full_like(r, width**-0.5), rtol=1e-12, atol=0)


def test_the_full_rotation_of_1152_is_36_times_32():
    assert rotation_factors(1152, "full", 64) == ((32, 1), (36, 32))
    expected = torch.kron(hadamard_matrix(36), hadamard_matrix(32))
    torch.testing.assert_close(composed(1152, "full"), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("width", "block", "order"), [(1152, 64, 64), (1152, 1024, 128), (96, 64, 32), (48, 8, 8)])
def test_a_block_rotation_has_the_largest_power_of_two_that_fits(width, block, order):
    assert rotation_factors(width, "block", block) == ((order, 1),)
    expected = torch.block_diag(*[hadamard_matrix(order)] * (width // order))
    torch.testing.assert_close(composed(width, "block", block), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("width", "kind", "block"), [(96, "none", 64), (35, "block", 64), (96, "block", 1)])
def test_no_rotation_has_no_factors(width, kind, block):
    assert rotation_factors(width, kind, block) == ()


# Within heads a rotation is free, so that neither `block` nor a power of two bounds it.
WITHIN_HEADS = [
    (1152, 72, "none", ()),
    (1152, 72, "block", ((72, 1),)),
    (1152, 72, "full", ((72, 1), (16, 72))),
    (1024, 64, "block", ((64, 1),)),
    (1024, 64, "full", ((64, 1), (16, 64))),
    (64, 64, "full", ((64, 1),)),  # one head
    (24, 12, "block", ((12, 1),)),
    (120, 40, "block", ((40, 1),)),
    (8, 1, "block", ()),
    # A head of no Hadamard order: blocks of powers of two within it, and a full rotation as if there were no heads.
    (184, 92, "block", ((4, 1),)),
    (36, 18, "block", ((2, 1),)),
    (36, 18, "full", ((36, 1),)),
    (35, 7, "block", ()),
    # So many heads of no Hadamard order.
    (36, 12, "full", ((36, 1),)),
    (120, 40, "full", ((2, 1), (60, 2))),
]


@pytest.mark.parametrize(("width", "head", "kind", "factors"), WITHIN_HEADS)
def test_a_first_factor_within_heads(width, head, kind, factors):
    for block in (1, BLOCK, 1024):
        assert rotation_factors(width, kind, block, head) == factors
    r = FeatureTransform(rotation=factors).linear(torch.eye(width, dtype=torch.float64))
    torch.testing.assert_close(r @ r.T, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-12)
    if kind == "full":
        torch.testing.assert_close(r.abs(), torch.full_like(r, width**-0.5), rtol=1e-12, atol=0)
    else:
        heads = torch.block_diag(*[torch.ones(head, head)] * (width // head))
        assert (r * (1 - heads)).abs().max() == 0


def test_a_width_without_hadamard_matrix_has_no_full_rotation():
    with pytest.raises(ValueError, match="no Hadamard matrix of order 50"):
        FeatureTransform(rotation=rotation_factors(50, "full", BLOCK))


@pytest.mark.parametrize(("blocks", "order", "stride"), [(1, 12, 8), (3, 4, 8), (2, 2, 1), (1, 8, 1), (2, 4, 3)])
def test_a_strided_rotation_mixes_features_that_lie_a_stride_apart(blocks, order, stride):
    x, h = randn(2, 5, blocks * order * stride), hadamard_matrix(order)
    one = torch.kron(h, torch.eye(stride, dtype=torch.float64))
    torch.testing.assert_close(rotate_strided(x, h, stride), x @ torch.block_diag(*[one] * blocks), rtol=0, atol=1e-13)


def test_a_state_dict_holds_the_mean_and_scale_and_no_hadamard_matrix():
    transform = make_transform(96, "dynamic", "spread", "full")
    assert set(transform.state_dict()) == {"centre", "inverse_scale"}
    other = FeatureTransform(torch.zeros(96).double(), True, torch.ones(96).double(), transform.rotation)
    other.load_state_dict(transform.state_dict())
    x = tokens(96)
    assert all(torch.equal(a, b) for a, b in zip(transform(x), other(x), strict=True))
