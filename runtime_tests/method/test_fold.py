"""fold.py: whatever transform the layers before take over, the denoiser computes what it did before."""

import copy
import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edge_hadanorm.measure.evaluation import layer_sqnr_db
from edge_hadanorm.method.fold import Gate, fold, refold, split
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import CHOICES, METHODS, named
from edge_hadanorm.method.transform import FeatureTransform, rotation_factors
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.pixart import PixArtDenoiser
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization.calibration import calibrate, observe_inputs
from edge_hadanorm.quantization.quantize import build_transform, quantize
from runtime_tests.support.helpers import prompt_of, randn, relative_error

HEADS, HEAD, WORDS = 2, 8, 6
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).double()
IDENTITY = FeatureTransform()


def make_denoiser(heads: int = HEADS, head: int = HEAD) -> PixArtDenoiser:
    """Two blocks in float64, every tensor random, but for scales and gains that are around 1."""
    config = dict(in_channels=3, patch_size=2, sample_size=8, num_layers=2, caption_channels=12)
    denoiser = PixArtDenoiser(config | dict(num_attention_heads=heads, attention_head_dim=head)).requires_grad_(False)
    for seed, (name, tensor) in enumerate(denoiser.state_dict().items()):
        fan_in = tensor[0].numel() if name.endswith("weight") else 10
        tensor.copy_(randn(*tensor.shape, seed=seed) * fan_in**-0.5)
        if name.endswith("gain"):
            tensor.exp_()
        if name.endswith("modulation"):
            tensor[..., heads * head :].add_(1)
    return denoiser.double()


@pytest.fixture(scope="module")
def denoiser():
    return make_denoiser()


def make_call(denoiser: PixArtDenoiser, mask: torch.Tensor | None = MASK, seed: int = 0, time: float = 412.5) -> Inputs:
    latents = randn(2, *denoiser.latent_shape(), seed=seed)
    text = randn(2, WORDS, denoiser.text_width, seed=seed + 1)
    return Inputs(latents, torch.tensor([time], dtype=torch.float64), prompt_of(text, mask))


def linear_inputs(denoiser: PixArtDenoiser, call: Inputs) -> dict[str, torch.Tensor]:
    seen = {}
    with observe_inputs(denoiser, denoiser.quantizable(), lambda name, x, *_: seen.update({name: x})):
        call.run(denoiser)
    return seen


def spread(width: int, decades: int, seed: int) -> torch.Tensor:
    """Positive scales over so many powers of ten, in no order."""
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    return torch.logspace(-decades / 2, decades / 2, width, dtype=torch.float64)[order]


PARTS = ("centre", "dynamic", "scale", "rotation")


def make_transform(
    width: int, parts: tuple = PARTS, rotation=((HEAD, 1), (HEADS, HEAD)), seed: int = 3, decades: int = 4
):
    """A mean, a scale and a rotation whose first factor is within heads."""
    return FeatureTransform(
        centre=randn(width, seed=seed) if "centre" in parts else None,
        dynamic="dynamic" in parts,
        scale=spread(width, decades, seed) if "scale" in parts else None,
        rotation=rotation if "rotation" in parts else (),
    )


def only(name: str, transform: FeatureTransform):
    """The transform for one linear, and for the others none."""
    return lambda found, weight: transform if found == name else IDENTITY


def with_online(folded: PixArtDenoiser, foldings) -> PixArtDenoiser:
    """What a device computes of it, but without rounding."""
    folded, recipe = copy.deepcopy(folded), named("rtn-w16a16")
    for name, folding in foldings.items():
        linear = folded.get_submodule(name)
        weight, bias = folding.online.fold(linear.weight, linear.bias)
        folded.set_submodule(name, QuantizedLinear(recipe, folding.online, None, None, bias, weight))
    return folded


def changed(folded: PixArtDenoiser, denoiser: PixArtDenoiser) -> set[str]:
    """The tensors that it does not share."""
    found = folded.state_dict()
    assert list(found) == list(denoiser.state_dict())
    return {name for name, tensor in denoiser.state_dict().items() if found[name].data_ptr() != tensor.data_ptr()}


# One rule.

# linear: what of the layers before it a transform of its input changes.
RULES = {
    "attn1.qkv": ("modulation", "gain"),
    "attn1.out": ("attn1.qkv.weight", "attn1.qkv.bias"),
    "attn2.out": ("attn2.kv.weight", "attn2.kv.bias"),
    "ff.up": ("modulation", "gain"),
}

on_every_rule = pytest.mark.parametrize("linear", RULES)


@on_every_rule
@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
@pytest.mark.parametrize("parts", [(part,) for part in PARTS] + [PARTS], ids="-".join)
def test_a_rule_is_exact(denoiser, linear, parts, mask):
    name, transform, call = f"blocks.1.{linear}", make_transform(denoiser.width, parts), make_call(denoiser, mask)
    folded, foldings = fold(denoiser, only(name, transform))
    expected = call.run(denoiser)
    assert relative_error(call.run(folded), expected) <= 1e-10
    assert relative_error(call.run(with_online(folded, foldings)), expected) <= 1e-10
    before, after = linear_inputs(denoiser, call), linear_inputs(folded, call)
    for found, x in before.items():
        assert relative_error(after[found], foldings[found].absorbed(x)[0]) <= 1e-10, found
    assert foldings[name].absorbed.is_identity or relative_error(after[name], before[name]) > 0.1


def test_a_mask_hides_words_from_the_transformed_attention(denoiser):
    """So that the rule on text was put to the test: the rows of its probabilities sum to one over other words."""
    folded, _ = fold(denoiser, only("blocks.1.attn2.out", make_transform(denoiser.width)))
    call = make_call(denoiser)
    text = call.prompt["text"].clone()
    text[1, 3:] += 1
    assert torch.equal(dataclasses.replace(call, prompt=prompt_of(text, MASK)).run(folded), call.run(folded))
    assert relative_error(make_call(denoiser, mask=None).run(folded), call.run(folded)) > 1e-6


@pytest.mark.parametrize("time", [0.0, 999.0])
def test_modulation_folds_for_every_timestep(denoiser, time):
    call = make_call(denoiser, time=time)
    for linear in ("attn1.qkv", "ff.up"):
        folded, _ = fold(denoiser, only(f"blocks.0.{linear}", make_transform(denoiser.width)))
        assert relative_error(call.run(folded), call.run(denoiser)) <= 1e-10


def test_every_linear_with_a_producer_has_a_rule(denoiser):
    assert set(denoiser.producers()) == {f"blocks.{i}.{linear}" for i in range(2) for linear in RULES}
    assert set(denoiser.producers()) < set(denoiser.quantizable())


@pytest.mark.parametrize("linear", ["attn2.q", "attn2.kv", "ff.down"])
def test_where_nothing_can_fold_all_is_online(denoiser, linear):
    name, transform = f"blocks.0.{linear}", make_transform(denoiser.get_submodule(f"blocks.0.{linear}").in_features)
    folded, foldings = fold(denoiser, only(name, transform))
    assert foldings[name].online is transform
    assert foldings[name].absorbed.is_identity
    assert changed(folded, denoiser) == set()


# A gated linear unit, which no PixArt has.

INNER = 16


class Gated(nn.Module):
    def __init__(self, bias: bool):
        super().__init__()
        self.up, self.down = nn.Linear(12, 2 * INNER, bias=bias), nn.Linear(INNER, 12, bias=bias)
        for seed, tensor in enumerate(self.requires_grad_(False).double().state_dict().values()):
            tensor.copy_(randn(*tensor.shape, seed=seed))

    def quantizable(self):
        return ["up", "down"]

    def producers(self):
        return {"down": Gate("up", INNER)}

    def forward(self, x):
        gate, value = self.up(x).split(INNER, dim=-1)
        return self.down(F.silu(gate) * value)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("parts", [(part,) for part in PARTS] + [PARTS], ids="-".join)
def test_a_gated_unit_takes_the_scale_alone(parts, bias):
    gated, x, transform = Gated(bias), randn(2, 5, 12), make_transform(INNER, parts, ((4, 1), (4, 4)))
    folded, foldings = fold(gated, only("down", transform))
    assert foldings["down"].absorbed.steps() == [part for part in parts if part == "scale"]
    assert foldings["down"].online.steps() == [step for step in transform.steps() if step != "scale"]
    assert torch.equal(folded.up.weight[:INNER], gated.up.weight[:INNER])
    assert folded.up.weight.equal(gated.up.weight) == ("scale" not in parts)
    assert (folded.up.bias is None) == (not bias)
    for own in (folded, with_online(folded, foldings)):
        assert relative_error(own(x), gated(x)) <= 1e-10


# All of them.

# (heads, head): Hadamard orders 8 and 12, with and without one for the number of heads; a head of 18, whose largest
# block is 2; a head of 40 in which only the first factor of the full rotation of 120 lies; one head alone.
SHAPES = [(2, 8), (4, 12), (3, 12), (2, 18), (3, 40), (1, 16)]
COMBINATIONS = list(itertools.product(*(CHOICES[field] for field in ("centre", "scale", "rotation"))))


@pytest.fixture(scope="module", params=[None, *SHAPES], ids=lambda shape: "x".join(map(str, shape or ("pipeline",))))
def measured(request, model):
    """A float64 denoiser, calls of it and the moments of its linears on them."""
    if request.param is None:
        denoiser = copy.deepcopy(model.denoiser).double()
        recorded = Trajectories(model.pipeline, ["red a", "blue c"], 3, 1.5, seed=0).record(model.denoiser)
        calls = [
            Inputs(call.latents.double(), call.timestep.double(), prompt_of(call.prompt["text"].double()))
            for call in recorded
        ]
    else:
        denoiser = make_denoiser(*request.param)
        calls = [make_call(denoiser, mask, seed) for seed, mask in enumerate((None, MASK, MASK))]
    return denoiser, calls, calibrate(denoiser, [lambda call=call: call.run(denoiser) for call in calls])


def fold_by(recipe, denoiser, moments):
    producers = denoiser.producers()
    return fold(denoiser, lambda name, weight: build_transform(recipe, moments[name], weight, producers.get(name)))


def assert_exact(recipe, denoiser, calls, moments) -> None:
    folded, foldings = fold_by(recipe, denoiser, moments)
    online = with_online(folded, foldings)
    assert set(foldings) == set(denoiser.quantizable())
    for call in (calls[0], calls[-1]):
        expected = call.run(denoiser)
        assert relative_error(call.run(folded), expected) <= 1e-10
        assert relative_error(call.run(online), expected) <= 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_every_method_folds_exactly(measured, method):
    assert_exact(named(f"{method}-w4a8"), *measured)


@pytest.mark.parametrize(("centre", "scale", "rotation"), COMBINATIONS)
def test_every_combination_folds_exactly(measured, centre, scale, rotation):
    recipe = dataclasses.replace(named("rtn-w4a8"), centre=centre, scale=scale, rotation=rotation)
    assert_exact(recipe, *measured)


# A copy.


@on_every_rule
def test_what_no_transform_touches_is_shared(denoiser, linear):
    folded, _ = fold(denoiser, only(f"blocks.0.{linear}", make_transform(denoiser.width)))
    assert changed(folded, denoiser) == {
        f"blocks.0.{n}" for n in (*RULES[linear], f"{linear}.weight", f"{linear}.bias")
    }


def test_a_rotation_alone_leaves_modulation_as_it_is(denoiser):
    for linear in ("attn1.qkv", "ff.up"):
        folded, _ = fold(denoiser, only(f"blocks.0.{linear}", make_transform(denoiser.width, ("rotation",))))
        assert changed(folded, denoiser) == set()


def test_folding_leaves_the_given_denoiser_as_it_was(denoiser):
    state = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    modules = list(denoiser.modules())
    fold(denoiser, lambda name, weight: make_transform(weight.shape[1]))
    assert all(a is b for a, b in zip(denoiser.modules(), modules, strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in denoiser.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_every_tensor_keeps_its_dtype(denoiser, dtype):
    given = copy.deepcopy(denoiser).to(dtype)
    folded, _ = fold(given, lambda name, weight: make_transform(weight.shape[1]))
    assert {tensor.dtype for tensor in folded.state_dict().values()} == {dtype}
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_transforms_are_chosen_for_weights_as_they_are_by_then(denoiser):
    """Consumers first: of values the weight that makes them is scaled already when their own input is looked at."""
    transform, seen = make_transform(denoiser.width), {}

    def choose(name: str, weight: torch.Tensor) -> FeatureTransform:
        seen[name] = weight
        return transform if name == "blocks.0.attn1.out" else IDENTITY

    fold(denoiser, choose)
    values = denoiser.blocks[0].attn1.qkv.weight[2 * denoiser.width :]
    expected = split(transform, HEAD).absorbed.linear(values.T).T
    assert relative_error(seen["blocks.0.attn1.qkv"][2 * denoiser.width :], expected) <= 1e-14
    assert torch.equal(seen["blocks.0.attn1.out"], denoiser.blocks[0].attn1.out.weight)


def test_folding_twice_composes(denoiser):
    call = make_call(denoiser)
    # A rotation in between, the scales multiply, and with them rounding.
    first, foldings = fold(denoiser, lambda name, weight: make_transform(weight.shape[1], decades=2))
    second, more = fold(first, lambda name, weight: make_transform(weight.shape[1], decades=2, seed=30))
    assert relative_error(call.run(second), call.run(denoiser)) <= 1e-10
    assert relative_error(call.run(with_online(second, more)), call.run(denoiser)) <= 1e-10
    after = linear_inputs(second, call)
    for name, x in linear_inputs(denoiser, call).items():
        assert relative_error(after[name], more[name].absorbed(foldings[name].absorbed(x)[0])[0]) <= 1e-10, name


# A quantized denoiser's layers beside the float ones.


@pytest.fixture(scope="module")
def quantized(model):
    """quantized(recipe), and the calls that its moments are of."""
    trajectories = Trajectories(model.pipeline, ["red a", "blue c"], 3, 1.5, seed=0)
    moments = calibrate(model.denoiser, trajectories.samples(model.denoiser))
    calls = trajectories.record(model.denoiser)
    return lambda name: (quantize(model.denoiser, named(name), moments, calls=calls), calls)


@pytest.mark.parametrize("method", METHODS)
def test_refolded_layers_are_the_quantized_ones_but_for_rounding(model, quantized, method):
    ours, calls = quantized(f"{method}-w16a16")
    layers = layer_sqnr_db(model.denoiser, ours, calls)
    assert list(layers) == model.denoiser.quantizable()
    assert min(layers.values()) > 120


def test_refolding_leaves_the_quantized_denoiser_as_it_was(model, quantized):
    ours, _ = quantized("hadanorm-w4a8")
    state = {name: (tensor.dtype, tensor.clone()) for name, tensor in ours.state_dict().items()}
    refold(model.denoiser, ours, ours.quantizable())
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == state[name][0], name
        assert torch.equal(tensor, state[name][1]), name


def test_refolding_where_nothing_was_absorbed_shares_everything(model, quantized):
    ours, calls = quantized("rtn-w4a8")
    refolded = refold(model.denoiser, ours, ours.quantizable())
    assert changed(refolded, model.denoiser) == set()
    assert torch.equal(calls[0].run(refolded), calls[0].run(model.denoiser))


# What goes where.

PRODUCERS = {
    "attn1.qkv": "modulation",
    "attn1.out": "values",
    "attn2.q": None,
    "attn2.kv": None,
    "attn2.out": "values",
    "ff.up": "modulation",
    "ff.down": None,
}
# By what makes the input: absorbed, and online. In blocks of 16 and heads of 32.
FOLDED = {
    "modulation": ("mean, scale", "H16"),
    "values": ("mean, scale, H32", ""),
    None: ("", "mean, scale, H16"),
}
HADANORM = FOLDED | {"modulation": ("mean, scale", "token mean, H16"), "text": ("", "token mean, scale, H16")}
SMOOTHQUANT = {"modulation": ("scale", ""), "values": ("scale", ""), None: ("", "scale")}
WHERE = {
    "rtn": {"modulation": ("", ""), "values": ("", ""), None: ("", "")},
    "smoothquant": SMOOTHQUANT,
    "quarot": {"modulation": ("", "H16"), "values": ("H32", ""), None: ("", "H16")},
    "vidit-q": {"modulation": ("scale", "H16"), "values": ("scale, H32", ""), None: ("", "scale, H16")},
    "svdquant-r16": SMOOTHQUANT,
    "svdquant-r32": SMOOTHQUANT,
    "hadanorm": HADANORM,
    "hadanorm-balanced": HADANORM,
    "hadanorm-folded": FOLDED,
}


@pytest.mark.parametrize("method", [method for method, fields in METHODS.items() if not fields.get("search")])
def test_what_a_method_absorbs_and_what_it_leaves_online(model, method):
    recipe = dataclasses.replace(named(f"{method}-w4a8"), block=16)
    samples = Trajectories(model.pipeline, ["red a"], 1, 1.5, seed=0).samples(model.denoiser)
    ours = quantize(model.denoiser, recipe, calibrate(model.denoiser, samples))
    where = WHERE[method]
    for name in model.denoiser.quantizable():
        linear, kind = ours.get_submodule(name), name.split(".", 2)[2]
        found = tuple(", ".join(transform.steps()) for transform in (linear.absorbed, linear.transform))
        expected = where.get("text", where[None]) if kind == "attn2.kv" else where[PRODUCERS[kind]]
        assert found == expected, name
    assert {name: producer.name for name, producer in model.denoiser.producers().items()} == {
        f"blocks.{i}.{linear}": producer for i in range(2) for linear, producer in PRODUCERS.items() if producer
    }


# Splitting.


@pytest.mark.parametrize(
    ("rotation", "head", "within"),
    [
        ((), 8, 0),
        (((64, 1),), None, 0),
        (((64, 1),), 64, 1),
        (((64, 1),), 32, 0),
        (((16, 1),), 72, 0),
        (((8, 1),), 72, 1),
        (((72, 1), (16, 72)), 72, 1),
        (((32, 1), (36, 32)), 72, 0),
        (((2, 1), (60, 2)), 40, 1),
        (((4, 1), (2, 4)), 8, 2),
        (((4, 1), (2, 4)), None, 0),
        (((16, 1), (4, 1)), 8, 0),  # only a prefix: factors do not change places
    ],
)
def test_the_factors_within_a_head_are_absorbed(rotation, head, within):
    folding = split(FeatureTransform(rotation=rotation), head)
    assert folding.absorbed.rotation == rotation[:within]
    assert folding.online.rotation == rotation[within:]


@settings(max_examples=100, deadline=None)
@given(
    heads=st.integers(1, 4),
    head=st.sampled_from([2, 7, 8, 10, 12, 18, 20, 40]),
    takes=st.booleans(),
    mean=st.booleans(),
    kind=st.sampled_from(CHOICES["rotation"]),
    block=st.sampled_from([1, 4, 32]),
    parts=st.sets(st.sampled_from(PARTS[:3])),
    seed=st.integers(0, 2**31),
)
def test_absorbed_then_online_is_the_transform(heads, head, takes, mean, kind, block, parts, seed):
    width, head = heads * head, head if takes else None
    try:
        rotation = rotation_factors(width, kind, block, head)
        transform = make_transform(width, (*parts, "rotation"), rotation, seed)
    except ValueError:  # no full rotation of this width
        return
    x = randn(2, 5, width, seed=seed) + randn(width, seed=seed + 1)
    folding = split(transform, head, mean)
    (expected, rest), (z, online_rest) = transform(x), folding.online(folding.absorbed(x)[0])
    assert (z - expected).norm() <= 1e-12 * transform.linear(x).norm()
    assert (rest is None) == (online_rest is None) == ("dynamic" not in parts)
    if rest is not None:
        assert (online_rest - rest).norm() <= 1e-12 * transform.linear(x).norm()
    assert not folding.absorbed.dynamic
    assert mean or folding.absorbed.centre is None
    means = {"token mean"} if mean else {"token mean", "mean"}
    assert set(folding.online.steps()) <= means | {f"H{order}" for order, _ in rotation}
    if head is None:
        assert folding.absorbed.rotation == ()
        return
    # What is absorbed mixes no two heads.
    mixing = FeatureTransform(rotation=folding.absorbed.rotation).linear(torch.eye(width, dtype=torch.float64))
    within = torch.block_diag(*[torch.ones(head, head)] * heads)
    assert (mixing * (1 - within)).abs().max() == 0
