"""search.py and cost.py: an input gets the transform that its own error asks for, where it pays for its time."""

import dataclasses
import json
import math

import pytest
import torch
from torch.nn import functional as F

from edge_hadanorm import checkpoint, workflow
from edge_hadanorm.cli import cli
from edge_hadanorm.measure.inspection import describe
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method.cost import denoiser_cost, linear_cost, online_cost
from edge_hadanorm.method.fold import Folding, Values, split
from edge_hadanorm.method.recipe import METHODS, Recipe, named, set_budget
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization import search as searching
from edge_hadanorm.quantization.blockwise import BlockwiseCalls
from edge_hadanorm.quantization.calibration import Moments, Seen, calibrate, tokens
from edge_hadanorm.quantization.fitting import fit, fold_linear, output_noise
from edge_hadanorm.quantization.quantize import build_transform, quantize
from edge_hadanorm.quantization.search import CLIPS, START, STARTS, search
from runtime_tests.support.helpers import prompt_of, randn

WIDTH, OUTPUTS = 64, 48
METHOD_VALUES = {name: own for name, own in METHODS.items() if not own.get("search") and not own.get("rank")}


def searched(recipe: Recipe, x: torch.Tensor, others: torch.Tensor, weight: torch.Tensor, producer=None, steady=True):
    """What is found for tokens x [B, S, d] to round on and others to compare on."""

    def build(own: Recipe, moments: Moments) -> FeatureTransform:
        return build_transform(own, moments, weight, producer)

    sample = ((x.float(), None), (others.float(), None))
    with torch.no_grad():
        return search(recipe, build, producer, weight, randn(len(weight), seed=7).float(), sample, steady)


def white(seed: int = 0) -> torch.Tensor:
    return randn(2, 300, WIDTH, seed=seed)


def offset_and_outliers(seed: int = 0) -> torch.Tensor:
    """A mean of many deviations, and channels of a hundred times the others."""
    sizes = torch.ones(WIDTH, dtype=torch.float64)
    sizes[::9] = 100
    return (randn(2, 300, WIDTH, seed=seed) + 20 * randn(WIDTH, seed=3)) * sizes


WEIGHT = randn(OUTPUTS, WIDTH, seed=1)


# What is found.


def test_an_offset_and_outliers_ask_for_a_centre_and_a_scale():
    for form in ("w4a4", "w4a8", "w8a8-static"):
        found = searched(named(f"hadanorm-auto-{form}"), offset_and_outliers(), offset_and_outliers(4), WEIGHT)
        assert found.centre == "static"
        assert found.scale != "none"


@pytest.mark.parametrize("steady", [True, False])
def test_a_mean_that_moves_asks_for_a_dynamic_centre_unless_it_is_steady(steady):
    x, others = (white(seed) + 10 * randn(2, 1, WIDTH, seed=seed + 1) for seed in (0, 4))
    found = searched(named("hadanorm-auto-w8a4"), x, others, WEIGHT, steady=steady)
    assert (found.centre == "dynamic") == (not steady)


@pytest.mark.parametrize("form", ["w4a4", "w4a8"])
def test_a_channel_alone_asks_for_a_rotation(form):
    """Of the weight's columns or of the input's, which a scale could only push from the one into the other."""
    x, others, weight = white(), white(4), WEIGHT.clone()
    for t in (x, others):
        t[..., 0] *= 30
    weight[:, 0] *= 30
    assert searched(named(f"hadanorm-auto-{form}"), x, others, weight).rotation == "block"


def test_a_rotation_of_white_inputs_has_to_pay_for_itself(monkeypatch):
    recipe = named("hadanorm-auto-w4a8")
    monkeypatch.setattr(searching, "EXCHANGE_DB", 100)
    found = searched(recipe, white(), white(4), WEIGHT)
    assert found.rotation == "none"
    monkeypatch.setattr(searching, "EXCHANGE_DB", -100)
    assert searched(recipe, white(), white(4), WEIGHT).block == 64  # the dearest


@pytest.mark.parametrize("producer", [None, Values("values", 0, 32)])
def test_what_a_layer_before_absorbs_costs_nothing(producer, monkeypatch):
    monkeypatch.setattr(searching, "EXCHANGE_DB", 1e4)
    found = searched(named("hadanorm-auto-w4a4"), offset_and_outliers(), offset_and_outliers(4), WEIGHT, producer)
    assert (found.rotation == "none") == (producer is None)
    if producer is not None:
        monkeypatch.setattr(searching, "EXCHANGE_DB", 0)
        free = searched(named("hadanorm-auto-w4a4"), offset_and_outliers(), offset_and_outliers(4), WEIGHT, producer)
        assert found == free


def test_a_clip_is_of_narrow_or_static_activations():
    """At 8 bits the device takes the whole range of a token; with a few large values a part of the range is best."""
    x, others = (randn(2, 300, WIDTH, seed=seed) ** 3 for seed in (0, 4))
    for form, clipped in {"w4a8": False, "w4a16": False, "w4a4": True, "w4a4-static": True}.items():
        found = searched(named(f"hadanorm-auto-{form}"), x, others, WEIGHT)
        assert found.activation_clip in ((*CLIPS,) if clipped else (1.0,)), form


@pytest.mark.parametrize("name", ["hadanorm-auto-w4a4", "hadanorm-auto-r32-w3a8-g32", "hadanorm-auto-w8a8-static"])
def test_all_else_is_the_recipes_own(name):
    recipe = named(name)
    found = searched(recipe, offset_and_outliers(), offset_and_outliers(4), WEIGHT)
    assert not found.search
    chosen = ("search", "centre", "scale", "exponent", "rotation", "block", "activation_clip", "damping")
    kept = {field: value for field, value in recipe.to_json().items() if field not in chosen}
    assert kept.items() <= found.to_json().items()
    assert searched(recipe, offset_and_outliers(), offset_and_outliers(4), WEIGHT) == found


def test_an_input_without_signal_gets_some_transform():
    x = torch.zeros(1, 5, WIDTH, dtype=torch.float64)
    for given in (x, x + randn(WIDTH), x[:, :1] + randn(WIDTH)):
        assert not searched(named("hadanorm-auto-w4a4"), given, given, WEIGHT).search
    assert not searched(named("hadanorm-auto-w4a4"), white(), white(4), 0 * WEIGHT).search


# Against what it is chosen from, on the inputs of the tiny model.


@pytest.fixture(scope="module")
def trajectories(model):
    return Trajectories(model.pipeline, ["red a", "green b", "blue c", "pale d"], 4, 1.5, seed=0)


def quality(own: Recipe, build, producer, linear, sample: tuple[Seen, Seen]) -> float:
    """SQNR in dB of all outputs around their mean, less the price of what stays online; both ways where static."""
    weight, noise, signal = linear.weight.double(), 0, 0
    for some, others in [sample, sample[::-1]] if own.activations == "tensor" else [sample]:
        moments = Moments(weight.shape[1])
        moments.update(*some)
        transform = build(own, moments)
        fitted = fit(
            fold_linear(own, Folding(FeatureTransform(), transform), weight, linear.bias), lambda some=some: [some]
        )
        outputs = tokens(F.linear(others[0], linear.weight), others[1]).double()
        noise += output_noise(fitted, linear.weight, linear.bias, others).sum()
        signal += (outputs - outputs.mean(0)).square().sum()
    online = transform if producer is None else split(transform, producer.head).online
    return 10 * math.log10(signal / noise) - searching.EXCHANGE_DB * online_cost(online, len(weight), own.rank)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["w4a4", "w4a8", "w3a8-g32", "w8a8-static"])
@torch.no_grad()
def test_the_best_is_no_worse_than_the_start_and_the_methods(model, calls, form, monkeypatch):
    denoiser, recipe = model.denoiser, named(f"hadanorm-auto-{form}")
    monkeypatch.setattr(searching, "ROWS", 256)
    names = denoiser.stages()[0]
    sample = BlockwiseCalls(denoiser, calls).sample(denoiser, names)
    for name in names:
        linear, producer, steady = denoiser.get_submodule(name), denoiser.producers().get(name), denoiser.steady()

        def build(own, moments, linear=linear, producer=producer):
            return build_transform(own, moments, linear.weight.double(), producer)

        given = (build, producer, linear.weight.double(), linear.bias, sample[name], name in steady)
        best = quality(search(recipe, *given), build, producer, linear, sample[name])
        for method, values in {"start": START, **METHOD_VALUES}.items():
            if name in steady and values.get("centre") == "dynamic":
                values = values | {"centre": "static"}
            own = dataclasses.replace(recipe, search=False, **values)
            assert best >= quality(own, build, producer, linear, sample[name]) - 1e-3, (name, method)


@pytest.mark.slow
def test_only_inputs_whose_means_move_have_a_dynamic_centre(model, calls, moments):
    quantized = quantize(model.denoiser, named("hadanorm-auto-w4a4"), moments, calls=calls)
    again = quantize(model.denoiser, named("hadanorm-auto-w4a4"), moments, calls=calls)
    for name in model.denoiser.quantizable():
        own = quantized.get_submodule(name).recipe
        assert not own.search
        assert quantized.get_submodule(name).transform.dynamic == (own.centre == "dynamic")
        assert name not in model.denoiser.steady() or own.centre != "dynamic"
        assert again.get_submodule(name).recipe == own
    for name, tensor in quantized.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.slow
def test_the_model_gains_on_the_start(model, calls, moments):
    """By as much as the outputs of its linears do."""

    def sqnr(recipe: Recipe) -> float:
        quantized = quantize(model.denoiser, recipe, moments, calls=calls)
        errors = [(call.run(model.denoiser), call.run(quantized)) for call in calls]
        exact, actual = (torch.cat(part).double() for part in zip(*errors, strict=True))
        return 10 * math.log10(exact.square().sum() / (exact - actual).square().sum())

    for form in ("w4a4", "w4a8"):
        recipe = named(f"hadanorm-auto-{form}")
        start = dataclasses.replace(recipe, search=False, **START)
        assert sqnr(recipe) > sqnr(start) + 1
        assert sqnr(start) > sqnr(dataclasses.replace(start, rounding="nearest")) + 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["w4a4", "w4a8", "w8a8-static"])
def test_a_text_of_one_word_is_enough(model, form):
    """One call whose mask keeps one token, whose keys and values have no variance to be judged by."""
    shape, width = model.denoiser.latent_shape(), model.denoiser.text_width
    latents, text = (randn(1, *size, dtype=torch.float32) for size in (shape, (6, width)))
    call = Inputs(latents, torch.tensor([500.0]), prompt_of(text, torch.tensor([[1.0, 0, 0, 0, 0, 0]])))
    moments = calibrate(model.denoiser, [lambda: call.run(model.denoiser)])
    quantized = quantize(model.denoiser, named(f"hadanorm-auto-{form}"), moments, calls=[call])
    exact, actual = call.run(model.denoiser), call.run(quantized)
    assert (exact - actual).norm() < 0.1 * exact.norm()


# In a checkpoint.


@pytest.mark.slow
def test_quantize_takes_it_where_no_recipe_is_given(tiny_pipeline, tmp_path, capsys):
    folder, prompts = tmp_path / "checkpoint", tmp_path / "prompts.txt"
    prompts.write_text("red a\ngreen b\n")
    options = ["--out", str(folder), "--prompts", str(prompts), "--steps", "2", "--average-bits", "4.5"]
    cli.main(["quantize", str(tiny_pipeline), *options], standalone_mode=False)
    assert "hadanorm-auto-w4a8-avg4.5, denoiser" in capsys.readouterr().out
    saved = checkpoint.load(folder)
    assert saved.recipe == set_budget(named("hadanorm-auto-w4a8"), 4.5)
    assert 4 < bits_summary(saved.denoiser)["average"] <= 4.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hadanorm-auto-w4a4", "hadanorm-auto-r32-w4a8"])
def test_a_checkpoint_records_each_linears_choice(tiny_checkpoint, tmp_path, name):
    folder = tiny_checkpoint(name)
    saved = checkpoint.load(folder)
    assert saved.recipe == named(name)
    linears = json.loads((folder / "config.json").read_text())["linears"]
    chosen = {key: linear["recipe"] for key, linear in linears.items()}
    assert list(chosen) == saved.denoiser.quantizable()
    assert {own["search"] for own in chosen.values()} == {False}
    assert len({(own["centre"], own["scale"], own["exponent"], own["rotation"]) for own in chosen.values()}) > 1
    for key, own in chosen.items():
        linear = saved.denoiser.get_submodule(key)
        assert linear.recipe.to_json() == own
        parts = [linear.absorbed, linear.transform]
        assert any(part.centre is not None for part in parts) == (own["centre"] != "none")
        assert any(part.inverse_scale is not None for part in parts) == (own["scale"] != "none")
        assert any(part.rotation for part in parts) == (own["rotation"] != "none")
    checkpoint.save(tmp_path, saved)
    for file in ("config.json", "recipe.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes(), file


@pytest.mark.slow
def test_what_was_saved_is_what_was_measured(tiny_checkpoint, tiny_pipeline):
    """Loaded to the bit, the predictions are those of the metrics."""
    folder = tiny_checkpoint("hadanorm-auto-w4a4")
    measured = json.loads((folder / "metrics.json").read_text())
    again = workflow.evaluate(folder, reference=str(tiny_pipeline))
    assert again["denoiser_sqnr_db"] == measured["denoiser_sqnr_db"]
    assert again["layers"] == measured["layers"]


def test_inspect_shows_what_was_chosen(tiny_checkpoint):
    folder = tiny_checkpoint("hadanorm-auto-w4a4")
    rows = {line.split()[0]: line for line in describe(folder).splitlines() if line.startswith("blocks.")}
    denoiser = checkpoint.load(folder).denoiser
    assert set(rows) == set(denoiser.quantizable())
    for name, row in rows.items():
        linear = denoiser.get_submodule(name)
        own = linear.recipe
        assert "w4a4" in row
        for part in (linear.absorbed, linear.transform):
            assert ", ".join(part.steps()) in row
        assert own.scale == "none" or own.scale in row
        assert own.scale != "balanced" or f"balanced {own.exponent:g}" in row
        assert ("clip" in row) == (own.activation_clip != 1)


# What it costs.


def rotation(*orders: int) -> FeatureTransform:
    return FeatureTransform(rotation=tuple((order, 1) for order in orders))


def test_nothing_costs_nothing():
    assert online_cost(FeatureTransform(), 1152) == 0
    assert online_cost(split(FeatureTransform(randn(64), scale=randn(64).exp()), 64).online, 64) == 0


def test_a_cost_grows_with_the_block_and_falls_with_the_outputs():
    costs = [online_cost(rotation(block), 1152) for block in (2, 4, 8, 16, 32, 64, 128)]
    assert costs == sorted(set(costs))
    assert all(online_cost(rotation(32), m) == pytest.approx(costs[4] * 1152 / m) for m in (64, 576, 4608))


def test_costs_are_those_that_were_measured():
    """README: over the same linear, 1152 to 1152 at 256 tokens; within a fifth."""
    for block, measured in {16: 0.11, 32: 0.15, 64: 0.23, 128: 0.41}.items():
        assert online_cost(rotation(block), 1152) == pytest.approx(measured, rel=0.2)
    assert online_cost(rotation(36, 32), 1152) == pytest.approx(0.38, rel=0.3)


@pytest.mark.parametrize("part", ["centre", "scale", "dynamic", "rank"])
def test_every_part_costs_something(part):
    parts = dict(centre=randn(64), scale=randn(64).exp(), dynamic=True)
    own = {part: parts[part]} if part in parts else {}
    cost = online_cost(FeatureTransform(**own), 64, rank=8 if part == "rank" else 0)
    assert 0 < cost < math.inf
    both = online_cost(FeatureTransform(**own, rotation=((32, 1),)), 64, rank=8 if part == "rank" else 0)
    assert both == pytest.approx(cost + online_cost(rotation(32), 64))


def test_a_centre_and_a_scale_are_one_pass():
    one, other, both = (
        online_cost(FeatureTransform(centre, scale=scale), 64)
        for centre, scale in ((randn(64), None), (None, randn(64).exp()), (randn(64), randn(64).exp()))
    )
    assert one == other == both


def test_a_denoisers_cost_is_the_mean_over_its_products(model, moments):
    quantized = quantize(model.denoiser, named("hadanorm-w4a8"), moments)
    linears = [quantized.get_submodule(name) for name in quantized.quantizable()]
    expected = sum(linear_cost(linear) * linear.weight.numel() for linear in linears)
    assert denoiser_cost(quantized) == pytest.approx(expected / sum(linear.weight.numel() for linear in linears))
    assert denoiser_cost(quantize(model.denoiser, named("rtn-w4a8"), None)) == 0
    assert denoiser_cost(quantize(model.denoiser, named("svdquant-r16-w4a8"), moments)) > 0


def test_the_starts_are_those_of_the_methods_they_are_named_after():
    named_after = {name: values for name, values in STARTS.items() if name != "good"}
    assert len(named_after) == 7
    assert all(METHODS[name] == values for name, values in named_after.items())
