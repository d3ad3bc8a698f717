"""quantize.py: exact but for rounding, D by its formulas, and the float denoiser stays what it was."""

import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.measure.metrics import Sqnr
from edge_hadanorm.method.fold import fold
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import METHODS, named
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization.calibration import Moments, calibrate, observe_inputs
from edge_hadanorm.quantization.quantize import SCALE_RANGE, build_transform, feature_scale, quantize, quantize_linear
from runtime_tests.support.helpers import randn

FORMATS = ("w4a4", "w4a8-g32", "w3a16", "w8a8-static")
CENTRES, SCALES = ("none", "static", "dynamic"), ("smoothquant", "std", "balanced")
WIDTH, OUTPUTS = 48, 20

# A branch beside it changes nothing of what is looked at here, and a search takes a second.
on_every_method = pytest.mark.parametrize("method", [method for method in METHODS if method != "hadanorm-auto-r32"])
on_every_stated_method = pytest.mark.parametrize("method", [m for m, own in METHODS.items() if not own.get("search")])
on_every_scale = pytest.mark.parametrize(("scale", "centre"), list(itertools.product(SCALES, CENTRES)))


@pytest.fixture(scope="module")
def trajectories(model):
    return Trajectories(model.pipeline, ["red a", "green b", "blue c"], 4, model.pipeline.guidance, seed=0)


@pytest.fixture(scope="module")
def samples(model, trajectories):
    return trajectories.samples(model.denoiser)


@pytest.fixture(scope="module")
def moments(model, samples):
    return calibrate(model.denoiser, samples)


@pytest.fixture(scope="module")
def layer_inputs(model, calls):
    """The inputs of every quantizable linear, in float64, one list a linear."""
    seen = {name: [] for name in model.denoiser.quantizable()}
    with observe_inputs(model.denoiser, seen, lambda name, x, _=None: seen[name].append(x.double())):
        for call in calls:
            call.run(model.denoiser)
    return seen


def sqnr_db(exact, quantized, calls) -> float:
    sqnr = Sqnr()
    for call in calls:
        sqnr.update(call.run(exact), call.run(quantized))
    return sqnr.db


# The whole denoiser.


@on_every_method
@pytest.mark.parametrize("form", FORMATS)
def test_the_float_denoiser_stays_and_what_nothing_folds_into_is_shared(model, samples, calls, moments, method, form):
    denoiser, names = model.denoiser, model.denoiser.quantizable()
    before = [call.run(denoiser) for call in calls[:2]]
    state = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    quantized = quantize(denoiser, named(f"{method}-{form}"), moments, samples[:1], calls)
    assert all(torch.equal(call.run(denoiser), y) for call, y in zip(calls, before, strict=False))
    assert denoiser.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in denoiser.state_dict().items())
    assert not any(isinstance(module, QuantizedLinear) for module in denoiser.modules())
    assert quantized.quantizable() == names
    assert all(isinstance(quantized.get_submodule(name), QuantizedLinear) for name in names)
    rest = {name: t for name, t in denoiser.state_dict().items() if name.rpartition(".")[0] not in names}
    found = quantized.state_dict()
    assert {name for name in found if not name.startswith(tuple(f"{n}." for n in names))} == set(rest)
    own = {name for name, tensor in rest.items() if found[name].data_ptr() != tensor.data_ptr()}
    folded = {f"blocks.{i}.{part}" for i in range(2) for part in ("modulation", "gain")}
    if METHODS[method].get("search"):
        assert own <= folded
    else:  # a rotation does not fold into modulation
        assert own == (set() if METHODS[method].keys().isdisjoint({"centre", "scale"}) else folded)


@on_every_method
def test_8_bits_come_close_to_float(model, samples, calls, moments, method):
    quantized = quantize(model.denoiser, named(f"{method}-w8a8"), moments, calls=calls)
    assert sqnr_db(model.denoiser, quantized, calls) > 30


@pytest.mark.slow
@on_every_method
def test_a_static_range_costs_little_at_8_bits(model, samples, calls, moments, method):
    quantized = quantize(model.denoiser, named(f"{method}-w8a8-static"), moments, samples, calls)
    assert sqnr_db(model.denoiser, quantized, calls) > 25


@on_every_method
def test_every_bit_of_weight_gains_about_6_db(model, calls, moments, method):
    four, six, eight = (
        sqnr_db(model.denoiser, quantize(model.denoiser, named(f"{method}-w{bits}a16"), moments, calls=calls), calls)
        for bits in (4, 6, 8)
    )
    assert 9 < six - four < 18
    assert 9 < eight - six < 18


@pytest.mark.parametrize("method", ["rtn", "quarot"])
def test_a_recipe_that_measures_nothing_needs_no_moments(model, moments, method):
    with_moments, without = (quantize(model.denoiser, named(f"{method}-w4a4"), m) for m in (moments, None))
    for name, tensor in with_moments.state_dict().items():
        assert torch.equal(tensor, without.state_dict()[name])


def test_quantizing_twice_gives_the_same_bits(model, samples, moments):
    first, second = (
        quantize(model.denoiser, named("hadanorm-balanced-w4a8-g32-static"), moments, samples) for _ in "ab"
    )
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


@on_every_method
def test_without_rounding_it_is_the_float_denoiser(model, calls, moments, method):
    quantized = quantize(model.denoiser, named(f"{method}-w16a16"), moments, calls=calls)
    assert all(quantized.get_submodule(name).codes is None for name in model.denoiser.quantizable())
    assert sqnr_db(model.denoiser, quantized, calls) > 100


def test_groups_that_do_not_divide_name_the_layer(model, moments):
    with pytest.raises(UserError, match=r"groups of 48 do not divide the 64 inputs of blocks\.0\.attn1\.qkv"):
        quantize(model.denoiser, named("rtn-w4a8-g48"), moments)


def test_a_rank_beyond_the_smaller_side_names_the_layer(model):
    full, beyond = (dataclasses.replace(named("rtn-w4a8"), rank=rank) for rank in (64, 65))
    assert quantize(model.denoiser, full, None).blocks[0].attn1.qkv.low_rank.up.shape == (192, 64)
    with pytest.raises(UserError, match=r"rank 65 is more than the 64 of blocks\.0\.attn1\.qkv, of shape 192x64"):
        quantize(model.denoiser, beyond, None)


@pytest.mark.parametrize("method", ["svdquant-r16", "svdquant-r32"])
@pytest.mark.parametrize("form", ["w4a8", "w16a8"])
def test_what_is_rounded_has_a_branch_of_the_recipes_rank(model, moments, method, form):
    recipe = named(f"{method}-{form}")
    quantized = quantize(model.denoiser, recipe, moments)
    for name in model.denoiser.quantizable():
        linear = quantized.get_submodule(name)
        found = linear.low_rank and (*linear.low_rank.up.shape, linear.low_rank.down.shape[1])
        outputs, width = linear.weight.shape
        assert found == ((outputs, recipe.rank, width) if form == "w4a8" else None), name


# Exact before rounding.


@pytest.mark.parametrize("rotation", ["none", "block", "full"])
@pytest.mark.parametrize("scale", ["none", *SCALES])
@pytest.mark.parametrize("centre", CENTRES)
def test_transform_and_fold_are_exact_on_real_moments(model, moments, layer_inputs, centre, scale, rotation):
    recipe = dataclasses.replace(named("rtn-w4a4"), centre=centre, scale=scale, rotation=rotation)
    for name, inputs in layer_inputs.items():
        linear, x = model.denoiser.get_submodule(name), inputs[-1]
        weight, bias = linear.weight.double(), linear.bias.double()
        transform = build_transform(recipe, moments[name], weight)
        z, rest = transform(x)
        folded, share = transform.fold(weight, bias)
        y = z @ folded.T + share
        y = y if rest is None else y + rest @ folded.T
        expected = F.linear(x, weight, bias)
        assert (y - expected).norm() <= 1e-10 * expected.norm(), name


@on_every_stated_method
def test_a_method_has_the_transform_of_its_name(model, moments, method):
    name, recipe = "blocks.1.ff.down", named(f"{method}-w4a4")
    weight = model.denoiser.get_submodule(name).weight.double()
    transform = build_transform(recipe, moments[name], weight)
    fields = METHODS[method]
    assert transform.dynamic == (fields.get("centre") == "dynamic")
    assert (transform.centre is None) == ("centre" not in fields)
    assert (transform.inverse_scale is None) == ("scale" not in fields)
    assert transform.rotation == (((recipe.block, 1),) if "rotation" in fields else ())


@on_every_stated_method
@pytest.mark.parametrize("linear", ["attn1.out", "attn2.out"])
def test_attention_takes_a_rotation_of_its_heads(model, moments, method, linear):
    name, recipe = f"blocks.0.{linear}", dataclasses.replace(named(f"{method}-w4a4"), block=16)
    weight, producer = model.denoiser.get_submodule(name).weight.double(), model.denoiser.producers()[name]
    transform = build_transform(recipe, moments[name], weight, producer)
    assert transform.rotation == (((32, 1),) if recipe.rotation == "block" else ())


@on_every_stated_method
def test_a_dynamic_centre_is_static_where_the_mean_is_steady(model, moments, method):
    """As with a static recipe's centre, the scale is of what is left after that one."""
    denoiser, recipe = model.denoiser, named(f"{method}-w4a16")
    quantized = quantize(denoiser, recipe, moments)
    assert len(denoiser.steady()) == 2 * 4
    for name in denoiser.quantizable():
        online = quantized.get_submodule(name).transform
        assert online.dynamic == (recipe.centre == "dynamic" and name not in denoiser.steady()), name
    name = "blocks.1.ff.down"  # into whose weight nothing else folds
    centre = "none" if recipe.centre == "none" else "static"
    weight = denoiser.get_submodule(name).weight.double()
    scale = feature_scale(dataclasses.replace(recipe, centre=centre), moments[name], weight)
    found = quantized.get_submodule(name).transform.inverse_scale
    assert (scale is None) == (found is None)
    assert scale is None or torch.equal(found, (1 / scale).float())


@on_every_stated_method
@pytest.mark.parametrize("form", ["w4a8", "w4a8-g32", "w8a8"])
def test_codes_are_the_folded_weight_to_half_a_step(model, moments, method, form):
    recipe, producers = named(f"{method}-{form}"), model.denoiser.producers()
    denoiser, foldings = fold(
        model.denoiser, lambda name, weight: build_transform(recipe, moments[name], weight, producers.get(name))
    )
    for name, folding in foldings.items():
        linear = denoiser.get_submodule(name)
        folded, share = folding.online.fold(linear.weight.double(), linear.bias.double())
        quantized = quantize_linear(recipe, folding, linear)
        step = quantized.weight_scale.repeat_interleave(recipe.group_size or folded.shape[1], dim=1)
        # Group scales are rounded to bfloat16, so that the largest code may be off by 2^-9 of its value.
        excess = folded.abs() * 2**-8 if recipe.group_size else 0
        weight = quantized.weight if recipe.rank == 0 else quantized.weight + quantized.low_rank.weight()
        assert ((weight - folded).abs() <= step * 0.5001 + excess).all(), name
        assert torch.equal(quantized.bias, share.float()), name
        assert {t.dtype for t in quantized.state_dict().values()} == {torch.float32, torch.int8}


# D.


def make_moments(seed: int = 0, silent: tuple = ()) -> tuple[Moments, torch.Tensor]:
    """Moments of channels of many sizes, and the tokens [2, 30, WIDTH] themselves."""
    sizes = (2 * randn(WIDTH, seed=seed + 1)).exp()
    x = (randn(2, 30, WIDTH, seed=seed) + randn(WIDTH, seed=seed + 2) + randn(2, 1, WIDTH, seed=seed + 3)) * sizes
    x[..., list(silent)] = 0
    moments = Moments(WIDTH)
    moments.update(x)
    return moments, x


def make_weight(seed: int = 9, silent: tuple = ()) -> torch.Tensor:
    weight = randn(OUTPUTS, WIDTH, seed=seed) * randn(WIDTH, seed=seed + 1).exp()
    weight[:, list(silent)] = 0
    return weight


def recipe_of(scale: str, centre: str, **fields):
    return dataclasses.replace(named("rtn-w4a4"), scale=scale, centre=centre, **fields)


def centred(x: torch.Tensor, centre: str) -> torch.Tensor:
    """Tokens [N, WIDTH] less a recipe's centre."""
    means = {"none": 0, "static": x.mean((0, 1)), "dynamic": x.mean(1, keepdim=True)}
    return (x - means[centre]).flatten(0, 1)


def assert_proportional(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for a common factor, which no linear sees."""
    ratio = actual / expected
    torch.testing.assert_close(ratio, ratio.median().expand_as(ratio), rtol=1e-12, atol=0)


@pytest.mark.parametrize("centre", CENTRES)
def test_the_std_scale_is_the_deviation_after_centring(centre):
    moments, x = make_moments()
    scale = feature_scale(recipe_of("std", centre), moments, make_weight())
    assert_proportional(scale, centred(x, centre).square().mean(0).sqrt())


@pytest.mark.parametrize("centre", CENTRES)
def test_the_balanced_scale_is_the_root_of_deviation_over_weight(centre):
    moments, x = make_moments()
    scale = feature_scale(recipe_of("balanced", centre), moments, make_weight())
    norms = torch.stack([column.square().sum().sqrt() for column in make_weight().unbind(1)])
    assert_proportional(scale, (centred(x, centre).square().mean(0).sqrt() / norms).sqrt())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("centre", ["none", "dynamic"])
def test_the_smoothquant_scale_is_its_paper_formula(centre, alpha):
    """s_j = max |X_j|^alpha / max |W_j|^(1 - alpha), equation 4."""
    moments, x = make_moments()
    scale = feature_scale(recipe_of("smoothquant", centre, alpha=alpha), moments, make_weight())
    largest, weight = centred(x, centre).abs().amax(0), make_weight().abs().amax(0)
    assert_proportional(scale, largest**alpha / weight ** (1 - alpha))


@on_every_scale
def test_the_median_scale_is_1(scale, centre):
    found = feature_scale(recipe_of(scale, centre), make_moments()[0], make_weight())
    assert found.median() == 1


def test_without_a_scale_there_is_none():
    assert feature_scale(recipe_of("none", "dynamic"), make_moments()[0], make_weight()) is None


@on_every_scale
def test_the_size_of_input_and_weight_leaves_d_as_it_is(scale, centre):
    recipe, (moments, x) = recipe_of(scale, centre), make_moments()
    larger = Moments(WIDTH)
    larger.update(1e6 * x)
    expected = feature_scale(recipe, moments, make_weight())
    torch.testing.assert_close(feature_scale(recipe, larger, 1e-6 * make_weight()), expected, rtol=1e-9, atol=0)


@on_every_scale
def test_a_channel_without_signal_gets_1(scale, centre):
    silent = (0, 7, 31)
    found = feature_scale(recipe_of(scale, centre), make_moments(silent=silent)[0], make_weight())
    assert found.isfinite().all()
    assert (found > 0).all()
    assert (found[list(silent)] == 1).all()


@on_every_scale
def test_a_channel_without_weight_gets_1_where_the_weight_is_in_d(scale, centre):
    silent = (0, 7, 31)
    found = feature_scale(recipe_of(scale, centre), make_moments()[0], make_weight(silent=silent))
    assert found.isfinite().all()
    assert (found > 0).all()
    if scale == "std":
        assert torch.equal(found, feature_scale(recipe_of(scale, centre), make_moments()[0], make_weight()))
    else:
        assert (found[list(silent)] == 1).all()


@on_every_scale
def test_dead_channels_leave_the_others_as_they_are(scale, centre):
    """But for the median, which is over the channels that have a scale."""
    silent, recipe = [0, 7, 31], recipe_of(scale, centre)
    alive = torch.ones(WIDTH, dtype=torch.bool)
    alive[silent] = False
    found = feature_scale(recipe, make_moments(silent=silent)[0], make_weight())
    assert_proportional(found[alive], feature_scale(recipe, make_moments()[0], make_weight())[alive])


@on_every_scale
def test_an_input_or_weight_of_zeros_gets_1_everywhere(scale, centre):
    everything = tuple(range(WIDTH))
    moments, nothing = make_moments()[0], make_moments(silent=everything)[0]
    recipe, zeros = recipe_of(scale, centre), torch.zeros(OUTPUTS, WIDTH, dtype=torch.float64)
    assert (feature_scale(recipe, nothing, make_weight()) == 1).all()
    assert (feature_scale(recipe, nothing, zeros) == 1).all()
    if scale != "std":
        assert (feature_scale(recipe, moments, zeros) == 1).all()


@on_every_scale
def test_d_spreads_over_a_bounded_range(scale, centre):
    moments, x = Moments(WIDTH), make_moments()[1]
    moments.update(x * torch.logspace(-12, 12, WIDTH, dtype=torch.float64))
    found = feature_scale(recipe_of(scale, centre), moments, make_weight())
    assert found.min() >= 1 / SCALE_RANGE
    assert found.max() <= SCALE_RANGE


@pytest.mark.parametrize("centre", CENTRES)
def test_the_balanced_scale_minimises_the_product_of_norms(centre):
    """No D, near or far, has a smaller |(X - mu) D^-1| |W D|, which by Cauchy-Schwarz is sum_c |X_c| |W_c| at best."""
    moments, x = make_moments()
    x, weight = centred(x, centre), make_weight()
    best = feature_scale(recipe_of("balanced", centre), moments, weight)

    def product(scale):
        return ((x / scale).norm() * (weight * scale).norm()).item()

    least = product(best)
    assert least == pytest.approx((x.norm(dim=0) * weight.norm(dim=0)).sum().item(), rel=1e-12)
    for seed in range(50):
        for size in (1e-3, 0.1, 1.0):
            assert product(best * (size * randn(WIDTH, seed=seed)).exp()) > least
    others = [feature_scale(recipe_of(scale, centre), moments, weight) for scale in ("std", "smoothquant")]
    assert all(product(other) > least for other in [*others, torch.ones(WIDTH)])


# Static activations.


@on_every_stated_method
def test_static_ranges_are_set_finite_and_cover_the_rows(model, samples, moments, layer_inputs, method):
    quantized = quantize(model.denoiser, named(f"{method}-w8a8-static"), moments, samples)
    for name, inputs in layer_inputs.items():
        linear = quantized.get_submodule(name)
        scale, zero = linear.activation_scale, linear.activation_zero_point
        assert scale.isfinite()
        assert 0 < scale != 1
        assert zero == zero.round()
        assert -128 <= zero <= 127
        low, high = (-128 - zero) * scale, (127 - zero) * scale
        rows = torch.cat([linear.rows(linear.absorbed(x.float())[0]).flatten(0, 1) for x in inputs])
        assert rows.min() >= low - scale, name  # the zero point is whole, so an end may be half a step off
        assert rows.max() <= high + scale, name
        assert rows.max() - rows.min() >= 0.99 * (high - low) or rows.min() > 0 or rows.max() < 0, name


def test_a_static_recipe_without_samples_is_no_recipe_with_ranges_of_1(model, moments):
    with pytest.raises(KeyError):
        quantize(model.denoiser, named("rtn-w8a8-static"), moments)


def test_static_ranges_come_from_the_float_models_inputs(model, samples, moments, layer_inputs):
    recipe = named("rtn-w2a8-static")  # a simulation at 2 bits has other inputs than the float model
    quantized = quantize(model.denoiser, recipe, moments, samples)
    for name, inputs in layer_inputs.items():
        linear = quantized.get_submodule(name)
        x = torch.cat([x.flatten(0, 1) for x in inputs]).float()
        expected = (x.max().clamp(min=0) - x.min().clamp(max=0)) / 255
        torch.testing.assert_close(linear.activation_scale, expected, rtol=1e-5, atol=0)
