"""allocation.py: what a linear's rounding does to the prediction is estimated, and bits go where they do most."""

import dataclasses
import itertools
import json
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from edge_hadanorm import bundle, checkpoint, files, models, workflow
from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.exporters import writer
from edge_hadanorm.exporters.targets import simulation
from edge_hadanorm.measure.inspection import describe
from edge_hadanorm.measure.metrics import Sqnr, psnr_db
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method.fold import Folding, shared_copy
from edge_hadanorm.method.recipe import named, set_budget
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.models import generic
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.pipelines.drawing import Wish, picture
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization import allocation
from edge_hadanorm.quantization.allocation import Run, own_bits, sensitivities, spend
from edge_hadanorm.quantization.quantize import build_transform, quantize, quantize_linear
from runtime_tests.support.families import FAMILIES, Family
from runtime_tests.support.helpers import prompt_of, randn

PROMPTS = ["red a", "green b", "blue c"]
NAMES = "abcdef"

# Spending.


def spent(levels: dict[str, int], sizes: dict[str, int], bits: list[int]) -> int:
    return sum(bits[level] * sizes[name] for name, level in levels.items())


def left(levels: dict[str, int], errors: dict[str, list[float]]) -> float:
    return sum(errors[name][level] for name, level in levels.items())


def falling(draws: list[list[float]], bits: list[int]) -> dict[str, list[float]]:
    """Errors that fall with the bits, and ever more slowly."""
    return {
        name: [total * 4.0 ** -(b - bits[0]) for b in bits] for name, (total, *_) in zip(NAMES, draws, strict=False)
    }


problems = st.lists(st.tuples(st.floats(0.01, 100), st.integers(1, 50)), min_size=1, max_size=6)


def test_the_bits_go_where_most_error_goes_for_them():
    errors, sizes = {"a": [10, 1], "b": [8, 0], "c": [100, 95]}, {"a": 10, "b": 5, "c": 1}
    # Of a bit: 9 / 40 by a, 8 / 20 by b, 5 / 4 by c.
    for budget, expected in {64: "", 67: "", 68: "c", 87: "c", 88: "bc", 127: "bc", 128: "abc"}.items():
        levels = spend(errors, sizes, [4, 8], budget)
        assert {name for name, level in levels.items() if level} == set(expected), budget


def test_where_the_best_does_not_fit_the_next_is_taken():
    assert spend({"a": [100, 0], "b": [1, 0]}, {"a": 10, "b": 1}, [4, 8], 44 + 4) == {"a": 0, "b": 1}


@settings(max_examples=60, deadline=None)
@given(problem=problems, bits=st.sampled_from([[4, 8], [3, 4, 8], [2, 4, 8], [5, 8], [8]]), share=st.floats(0, 1))
def test_a_budget_is_kept_and_nothing_that_fits_is_left(problem, bits, share):
    errors = falling(problem, bits)
    sizes = {name: size for name, (_, size) in zip(NAMES, problem, strict=False)}
    budget = (bits[0] + share * (bits[-1] - bits[0])) * sum(sizes.values())
    levels = spend(errors, sizes, bits, budget)
    rest = budget - spent(levels, sizes, bits)
    assert rest >= -1e-6
    for name, level in levels.items():
        assert level == len(bits) - 1 or (bits[level + 1] - bits[level]) * sizes[name] > rest


@pytest.mark.parametrize("bits", [[4, 8], [3, 4, 8], [8]])
def test_at_the_ends_all_have_the_least_and_all_have_the_most(bits):
    sizes = {name: 7 * i + 1 for i, name in enumerate(NAMES)}
    errors = falling([[i + 1.0] for i in range(6)], bits)
    for average, level in ((bits[0], 0), (bits[-1], len(bits) - 1)):
        assert set(spend(errors, sizes, bits, average * sum(sizes.values())).values()) == {level}


@settings(max_examples=60, deadline=None)
@given(problem=problems, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_budget_leaves_no_more_error(problem, shares):
    errors = falling(problem, [4, 8])
    sizes = {name: size for name, (_, size) in zip(NAMES, problem, strict=False)}
    less, more = (left(spend(errors, sizes, [4, 8], (4 + 4 * s) * sum(sizes.values())), errors) for s in sorted(shares))
    assert more <= less * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(problem=problems, share=st.floats(0, 1))
def test_for_linears_of_one_size_it_is_the_best_of_all(problem, share):
    errors = falling(problem, [4, 8])
    sizes, budget = dict.fromkeys(errors, 10), (4 + 4 * share) * 10 * len(errors)
    every = [dict(zip(errors, levels, strict=True)) for levels in itertools.product((0, 1), repeat=len(errors))]
    best = min(left(levels, errors) for levels in every if spent(levels, sizes, [4, 8]) <= budget + 1e-9)
    assert left(spend(errors, sizes, [4, 8], budget + 1e-9), errors) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "bits", "group"), [("rtn-w4a8-g32", 8, None), ("rtn-w3a8-g32", 4, 32), ("rtn-w4a8", 8, None)]
)
def test_a_linears_own_recipe_is_the_recipe_at_its_bits(name, bits, group):
    """8 bits need no groups, and phones have no kernels for them."""
    own = own_bits(set_budget(named(name), 5), bits)
    fields = named(name).to_json() | dict(weight_bits=bits, group_size=group, name=f"{name}-avg5")
    assert own.to_json() == fields


# Sensitivities.


@pytest.fixture(scope="module")
def trajectories(model):
    return Trajectories(model.pipeline, PROMPTS, 4, model.pipeline.guidance, seed=0)


@pytest.fixture(scope="module")
def quantize_one(model, moments):
    """quantize_one(name, recipe) -> a linear quantized with the whole transform online."""

    def make(name, own):
        linear = model.denoiser.get_submodule(name)
        transform = build_transform(own, moments[name], linear.weight.double(), model.denoiser.producers().get(name))
        return quantize_linear(own, Folding(FeatureTransform(), transform), linear)

    return make


def masked(model) -> list[Inputs]:
    """Calls whose text is padded."""
    shape, width = model.denoiser.latent_shape(), model.denoiser.text_width
    kept = torch.tensor([[1.0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    return [
        Inputs(
            randn(2, *shape, seed=i, dtype=torch.float32),
            torch.tensor([900.0 - 200 * i]),
            prompt_of(randn(2, 6, width, seed=i + 9, dtype=torch.float32), kept),
        )
        for i in range(4)
    ]


@torch.no_grad()
def alone(denoiser, name: str, linear, calls: list[Inputs]) -> float:
    """Squared error of the prediction with one linear quantized."""
    one = shared_copy(denoiser)
    one.set_submodule(name, linear)
    return sum((call.run(one) - call.run(denoiser)).double().square().sum().item() for call in calls)


def double(family: Family, form=None, **fields):
    """A denoiser of a family with these fields of its config, in float64."""
    transformer = dataclasses.replace(family, config=family.config | fields).make()
    form = form or models.FAMILIES[family.source_class]
    loaded = form.from_diffusers(dict(transformer.config) | family.own, transformer.state_dict())
    return loaded.eval().requires_grad_(False).double()


def rounded(denoiser):
    """quantize_one(name, recipe) -> a linear of a denoiser in float64, quantized without a transform."""

    def make(name, own):
        plain = Folding(FeatureTransform(), FeatureTransform())
        return quantize_linear(own, plain, denoiser.get_submodule(name)).double()

    return make


@pytest.mark.parametrize("text", ["pipeline", "masked"])
@pytest.mark.parametrize("name", ["rtn-w4a8", "quarot-w4a8-g32", "rtn-w3a16"])
def test_the_estimate_is_the_error_of_a_linear_alone(model, calls, quantize_one, name, text, monkeypatch):
    calls = calls[::3] if text == "pipeline" else masked(model)
    monkeypatch.setattr(allocation, "PROBES", 64)
    recipe = named(name)
    found = sensitivities(model.denoiser, [recipe], quantize_one, calls)
    assert list(found) == model.denoiser.quantizable()
    estimates = [errors[0] for errors in found.values()]
    exact = [alone(model.denoiser, name, quantize_one(name, recipe), calls) for name in found]
    assert spearmanr(estimates, exact).statistic > 0.95
    ratios = [estimate / error for estimate, error in zip(estimates, exact, strict=True)]
    assert 0.5 < min(ratios) < max(ratios) < 2, ratios


@pytest.mark.parametrize("name", [*FAMILIES, "generic"])
def test_the_estimate_is_right_for_every_family(name, monkeypatch):
    """Whose blocks hand on different things."""
    monkeypatch.setattr(allocation, "PROBES", 64)
    family = FAMILIES["sd3" if name == "generic" else name]
    denoiser = double(family, generic.form(family.source_class) if name == "generic" else None)
    calls, quantize_one, recipe = [family.call(denoiser)], rounded(denoiser), named("rtn-w8a16")
    found = sensitivities(denoiser, [recipe], quantize_one, calls)
    assert list(found) == denoiser.quantizable()
    exact = [alone(denoiser, name, quantize_one(name, recipe), calls) for name in found]
    pairs = [(errors[0], error) for errors, error in zip(found.values(), exact, strict=True)]
    assert all(error / 2 <= estimate <= 2 * error for estimate, error in pairs), pairs
    assert sum(error > 0 for error in exact) > 0.9 * len(exact)


def test_few_probes_find_the_order(model, calls, quantize_one):
    found = sensitivities(model.denoiser, [named("rtn-w4a8")], quantize_one, calls[::2])
    exact = [alone(model.denoiser, name, quantize_one(name, named("rtn-w4a8")), calls[::2]) for name in found]
    assert spearmanr([errors[0] for errors in found.values()], exact).statistic > 0.8


def test_four_more_bits_take_away_most_of_the_error(model, calls, quantize_one):
    found = sensitivities(model.denoiser, [named("rtn-w4a16"), named("rtn-w8a16")], quantize_one, calls)
    ratios = torch.tensor([four / eight for four, eight in found.values()])
    assert 200 < ratios.median() < 500  # (127 / 7)^2 = 329 on average
    assert ratios.min() > 40


def test_what_is_not_rounded_has_no_error(model, calls, quantize_one):
    found = sensitivities(model.denoiser, [named("rtn-w16a16")], quantize_one, calls[:1])
    assert all(errors[0] <= 1e-12 for errors in found.values())


def test_measuring_is_deterministic_and_leaves_the_denoiser_as_it_was(model, calls, quantize_one):
    before, denoiser = calls[0].run(model.denoiser), model.denoiser
    first, second = (sensitivities(denoiser, [named("rtn-w4a8")], quantize_one, calls) for _ in "ab")
    assert first == second
    assert torch.equal(calls[0].run(denoiser), before)
    assert not any(module._forward_hooks for module in denoiser.modules())
    assert not any(p.requires_grad or p.grad is not None for p in denoiser.parameters())
    assert not any(call.latents.requires_grad or call.prompt["text"].requires_grad for call in calls)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 12])
def test_a_part_of_the_calls_is_measured_on(model, calls, quantize_one, count, monkeypatch):
    """Evenly spread, so that all timesteps are in it."""
    seen = []
    monkeypatch.setattr(allocation, "_runs", lambda denoiser, call, generator: seen.append(call) or [])
    sensitivities(model.denoiser, [], quantize_one, calls[:count])
    assert 1 <= len(seen) <= allocation.CALLS
    positions = [next(i for i, call in enumerate(calls) if call is one) for one in seen]
    assert len({b - a for a, b in itertools.pairwise(positions)}) <= 1


class Live:
    """What is alive of the things that are added, and the most that ever was."""

    def __init__(self):
        self.now = self.most = 0

    def add(self, thing, size: int = 1):
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(thing, self.drop, size)
        return thing

    def drop(self, size: int) -> None:
        self.now -= size


class Saved:
    """What autograd keeps of a tensor for the way back."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor


def most_alive(family: Family, monkeypatch, **blocks: int) -> tuple[int, int, int]:
    """Bytes that graphs hold, linears' outputs with their gradients, and quantized linears, at most at once."""
    denoiser = double(family, **blocks)
    quantize_one, graph, runs, quantized = rounded(denoiser), Live(), Live(), Live()

    class Counted(Run):
        def __new__(cls, *_, **__):
            return runs.add(super().__new__(cls))

    monkeypatch.setattr(allocation, "Run", Counted)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: graph.add(Saved(t.detach()), t.nbytes), lambda s: s.tensor):
        sensitivities(
            denoiser,
            [named("rtn-w4a8"), named("rtn-w8a8")],
            lambda *one: quantized.add(quantize_one(*one)),
            [family.call(denoiser)],
        )
    assert graph.now == runs.now == quantized.now == 0
    return graph.most, runs.most, quantized.most


@pytest.mark.parametrize(
    ("name", "fields"), [("pixart", ["num_layers"]), ("flux", ["num_layers", "num_single_layers"])]
)
def test_memory_does_not_grow_with_the_blocks(name, fields, monkeypatch):
    few, many = (most_alive(FAMILIES[name], monkeypatch, **dict.fromkeys(fields, count)) for count in (2, 6))
    assert few == many
    assert min(few) > 0
    assert few[-1] == 1


# A budget for a denoiser.


def sqnr_db(model, quantized, calls) -> float:
    sqnr = Sqnr()
    for call in calls:
        sqnr.update(call.run(model.denoiser), call.run(quantized))
    return sqnr.db


def of(quantized) -> dict[str, int]:
    return {name: quantized.get_submodule(name).recipe.weight_bits for name in quantized.quantizable()}


@pytest.mark.parametrize(
    ("name", "average"),
    [("rtn-w4a8", 5), ("hadanorm-balanced-w4a8-g32", 5), ("hadanorm-auto-w4a8", 5), ("quarot-w3a8", 4.5)],
)
def test_a_budget_is_spent_and_worth_it(model, moments, calls, name, average):
    recipe = set_budget(named(name), average)
    plain = quantize(model.denoiser, named(name), moments, calls=calls)
    quantized = quantize(model.denoiser, recipe, moments, calls=calls)
    assert average - 0.5 < bits_summary(quantized)["average"] <= average
    assert set(of(quantized).values()) <= {named(name).weight_bits, 4, 8}
    assert len(set(of(quantized).values())) > 1
    assert sqnr_db(model, quantized, calls) > sqnr_db(model, plain, calls) + 1
    for key, bits in of(quantized).items():
        linear = quantized.get_submodule(key)
        assert linear.recipe.group_size == (named(name).group_size if bits <= 4 else None)
        assert linear.recipe.average_bits is None
        assert linear.codes.abs().max() >= 2 ** (bits - 1) - 2


def test_measured_bits_beat_the_same_bits_anywhere(model, moments, calls):
    """Half of them: the sensitive linears, and the others."""
    quantized = quantize(model.denoiser, set_budget(named("quarot-w4a8"), 6), moments, calls=calls)
    four, eight = (quantize(model.denoiser, named(f"quarot-w{bits}a8"), moments) for bits in (4, 8))
    other = shared_copy(four)
    for name, bits in of(quantized).items():
        other.set_submodule(name, (four if bits == 8 else eight).get_submodule(name))
    assert sqnr_db(model, quantized, calls) > sqnr_db(model, other, calls) + 2


@pytest.mark.parametrize(("average", "like"), [(4, "w4a8"), (8, "w8a8")])
@pytest.mark.parametrize("method", ["hadanorm-balanced", "rtn"])
def test_at_the_ends_it_is_the_recipe_of_those_bits(model, moments, calls, method, average, like):
    recipe = set_budget(named(f"{method}-w4a8"), average)
    found = quantize(model.denoiser, recipe, moments, calls=calls).state_dict()
    expected = quantize(model.denoiser, named(f"{method}-{like}"), moments).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


# In a checkpoint, and on the device.

MIXED = "hadanorm-balanced-w4a8-g32"


@pytest.fixture(scope="module")
def mixed(tiny_pipeline, tmp_path_factory):
    """The folder of a checkpoint with 4-bit groups and 8-bit channels."""
    folder = tmp_path_factory.mktemp("mixed") / "checkpoint"
    workflow.quantize(str(tiny_pipeline), MIXED, folder, PROMPTS, steps=4, average_bits=6)
    return folder


def test_a_mixed_checkpoint_is_loaded_to_the_bit(mixed, tmp_path):
    saved = checkpoint.load(mixed)
    assert saved.recipe == set_budget(named(MIXED), 6)
    assert json.loads((mixed / "recipe.json").read_text())["average_bits"] == 6
    assert set(of(saved.denoiser).values()) == {4, 8}
    checkpoint.save(tmp_path, saved)
    for file in ("config.json", "recipe.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (mixed / file).read_bytes(), file


def test_what_was_measured_is_of_the_mixed_checkpoint(mixed, tiny_pipeline):
    metrics = json.loads((mixed / "metrics.json").read_text())
    assert metrics["recipe"] == f"{MIXED}-avg6"
    assert 5.5 < metrics["bits"]["average"] <= 6
    assert workflow.evaluate(mixed, reference=str(tiny_pipeline)) == metrics


def test_inspect_shows_the_bits_of_every_linear(mixed):
    rows = {line.split()[0]: line for line in describe(mixed).splitlines() if line.startswith("blocks.")}
    for name, bits in of(checkpoint.load(mixed).denoiser).items():
        assert ("w4a8 g32 per token" if bits == 4 else "w8a8 per token") in rows[name]


@pytest.mark.slow
def test_the_device_runs_mixed_bits(mixed, tmp_path):
    with files.new_folder(tmp_path / "bundle") as staging:
        writer.write_bundle(staging, mixed, checkpoint.load(mixed), "xnnpack")
    loaded = bundle.load(tmp_path / "bundle")
    denoiser, program = checkpoint.load(mixed).denoiser, loaded.file("denoiser").read_bytes()
    for name in denoiser.quantizable():
        codes = denoiser.get_submodule(name).codes
        nibbles = (codes + 8).to(torch.uint8).flatten()
        four = (nibbles[0::2] | nibbles[1::2] << 4).numpy().tobytes()
        assert (four if of(denoiser)[name] == 4 else codes.numpy().tobytes()) in program, name
    golden = loaded.golden
    drawn, simulated = (
        to_pixels(
            picture(runner, Wish(golden["prompt"], loaded.plan(golden["plan"]), golden["guidance"], golden["seed"]))
        )
        for runner in (ExecuTorchRunner(loaded), simulation(loaded))
    )
    assert math.inf > golden["psnr_db"] >= 30
    assert psnr_db(drawn, simulated) >= golden["psnr_db"]
