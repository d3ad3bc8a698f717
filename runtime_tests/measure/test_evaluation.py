"""evaluation.py and metrics.py: decibels and SSIM by hand, what a report holds, and held-out prompts."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch

from edge_hadanorm import files
from edge_hadanorm.cli import summary
from edge_hadanorm.measure.evaluation import (
    Original,
    denoiser_sqnr_db,
    evaluate,
    layer_sqnr_db,
    mean_psnr_db,
    mean_ssim,
    pictures,
    timestep_sqnr,
)
from edge_hadanorm.measure.metrics import Sqnr, psnr_db, ssim
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method.recipe import METHODS, named
from edge_hadanorm.pipelines.drawing import TorchRunner, Wish, picture
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.trajectories import (
    CALIBRATION_PROMPTS,
    EVALUATION_PROMPTS,
    EVALUATION_SEED,
    Trajectories,
    calibration_prompts,
    evaluation_prompts,
    evaluation_trajectories,
)
from edge_hadanorm.quantization.calibration import calibrate, observe_inputs
from edge_hadanorm.quantization.quantize import quantize
from runtime_tests.support.helpers import randn

OF_PICTURES = ("image_psnr_db", "image_ssim")
KEYS = {"recipe", "denoiser_sqnr_db", "timesteps", *OF_PICTURES, "bits", "online_cost", "layers"}


@pytest.fixture(scope="module")
def calibration(model):
    return Trajectories(model.pipeline, ["red a", "blue c"], 4, 1.5, 0)


@pytest.fixture(scope="module")
def moments(model, calibration):
    return calibrate(model.denoiser, calibration.samples(model.denoiser))


@pytest.fixture(scope="module")
def held_out(model):
    return Trajectories(model.pipeline, ["green b", "pale d"], 4, 1.5, 1000)


@pytest.fixture(scope="module")
def calls(model, held_out):
    return held_out.record(model.denoiser)


@pytest.fixture(scope="module")
def report(model, moments, calibration, held_out, calls):
    """report(recipe) -> what `evaluate` gives, and the quantized denoiser."""
    made, seen = {}, calibration.record(model.denoiser)

    def make(name: str):
        if name not in made:
            quantized = quantize(model.denoiser, named(name), moments, calls=seen)
            made[name] = evaluate(model.denoiser, quantized, calls, held_out, name), quantized
        return made[name]

    return make


# Decibels.


def sqnr(exact, quantized) -> float:
    one = Sqnr()
    one.update(torch.as_tensor(exact), torch.as_tensor(quantized))
    return one.db


def test_sqnr_by_hand():
    assert sqnr([3.0, 4.0], [3.0, 4.5]) == pytest.approx(20)  # 25 / 0.25
    assert sqnr([1.0, 1.0], [0.0, 0.0]) == pytest.approx(0)
    assert sqnr([1.0, 0.0], [3.0, 0.0]) == pytest.approx(-6.0206, abs=1e-4)  # 1 / 4


def test_sqnr_streams_over_calls_as_if_they_were_one():
    exact, quantized = randn(7, 5), randn(7, 5) + 0.01 * randn(7, 5, seed=1)
    streamed = Sqnr()
    for a, b in zip(exact.split(2), quantized.split(2), strict=True):
        streamed.update(a, b)
    expected = 10 * torch.log10(exact.square().sum() / (exact - quantized).square().sum())
    assert streamed.db == pytest.approx(expected.item(), abs=1e-9)


def test_sqnrs_add_up_to_that_of_everything():
    exact, quantized = randn(6, 5), randn(6, 5) + 0.01 * randn(6, 5, seed=1)
    whole, parts = Sqnr(), [Sqnr(), Sqnr(), Sqnr()]
    whole.update(exact, quantized)
    for part, a, b in zip(parts, exact.split(2), quantized.split(2), strict=True):
        part.update(a, b)
    assert Sqnr.of_all(parts).db == pytest.approx(whole.db, abs=1e-9)
    assert Sqnr.of_all(iter(parts)).db == Sqnr.of_all(parts).db


def test_sqnr_does_not_depend_on_the_unit():
    exact, quantized = randn(20), randn(20, seed=1)
    assert sqnr(1e3 * exact, 1e3 * quantized) == pytest.approx(sqnr(exact, quantized))


def test_equal_is_infinite_and_noise_without_signal_is_minus_infinite():
    assert sqnr(randn(5), randn(5)) == math.inf
    assert sqnr([0.0], [0.0]) == math.inf
    assert sqnr([0.0], [1.0]) == -math.inf


def test_psnr_by_hand():
    a = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert psnr_db(a, a + 1) == pytest.approx(48.1308, abs=1e-4)  # 20 log10 255
    assert psnr_db(a, a - 1) == psnr_db(a, a + 1)  # bytes do not wrap around
    assert psnr_db(torch.zeros(3), torch.full((3,), 255)) == pytest.approx(0)
    assert psnr_db(torch.zeros(2), torch.tensor([0.0, 0.2]), peak=1.0) == pytest.approx(16.9897, abs=1e-4)  # 1 / 0.02


def test_psnr_of_equal_pictures_is_infinite():
    assert psnr_db(randn(3, 4, 4), randn(3, 4, 4)) == math.inf


def test_the_mean_psnr_is_over_pictures_in_decibels():
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([a[0] + 1, a[1] + 10])
    assert mean_psnr_db(a, b) == pytest.approx((48.1308 + 28.1308) / 2, abs=1e-4)


# Structural similarity.


def plain_ssim(a: torch.Tensor, b: torch.Tensor, window: int) -> float:
    """Window by window, as in Wang et al., 2004."""
    values = []
    for x, y in zip(a.double(), b.double(), strict=True):
        x, y = (t.unfold(0, window, 1).unfold(1, window, 1).flatten(2).flatten(0, 1) for t in (x, y))
        dx, dy = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        luminance = (2 * x.mean(1) * y.mean(1) + c1) / (x.mean(1) ** 2 + y.mean(1) ** 2 + c1)
        structure = (2 * (dx * dy).mean(1) + c2) / (dx.square().mean(1) + dy.square().mean(1) + c2)
        values.append((luminance * structure).mean())
    return torch.stack(values).mean().item()


def noisy(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple((128 + 40 * (randn(*shape) + 0.3 * randn(*shape, seed=s))).clamp(0, 255).byte() for s in (1, 2))


@pytest.mark.parametrize(("height", "width", "window"), [(8, 8, 7), (12, 9, 7), (32, 32, 7), (6, 9, 5), (3, 3, 3)])
def test_ssim_is_the_mean_over_windows(height, width, window):
    a, b = noisy(3, height, width)
    assert ssim(a, b) == pytest.approx(plain_ssim(a, b, window), abs=1e-6)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)


@pytest.mark.parametrize("side", [1, 2, 5, 8, 32])
def test_equal_pictures_are_similar_to_the_utmost(side):
    a, _ = noisy(3, side, side)
    for shown in (a, torch.zeros_like(a), torch.full_like(a, 255)):
        assert ssim(shown, shown) == 1
    assert mean_ssim(a[None], a[None]) == 1


def test_the_mean_ssim_is_over_pictures():
    a, b = noisy(2, 3, 8, 8)
    assert mean_ssim(a, b) == pytest.approx((ssim(a[0], b[0]) + ssim(a[1], b[1])) / 2)
    assert mean_ssim(a, b) < 1


# Pixels.


def test_pixels_are_rounded_and_clamped():
    latents = torch.tensor([-1.0, 1.0, 0.0, -5.0, 5.0, -1 + 0.6 / 127.5])
    assert to_pixels(latents).tolist() == [0, 255, 128, 0, 255, 1]


# The report.


def test_a_report_has_these_keys_and_is_json(report, model):
    measured, quantized = report("hadanorm-w4a8")
    assert set(measured) == KEYS
    assert measured["recipe"] == "hadanorm-w4a8"
    assert list(measured["layers"]) == model.denoiser.quantizable()
    assert measured["bits"] == bits_summary(quantized)
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured


def test_without_a_pipeline_there_is_no_picture(model, report, calls):
    measured, quantized = report("hadanorm-w4a8")
    alone = evaluate(model.denoiser, quantized, calls, None, "hadanorm-w4a8")
    assert alone == measured | dict.fromkeys(OF_PICTURES)


def test_the_summary_is_a_line_of_what_was_measured(report, model, calls):
    measured, quantized = report("hadanorm-w4a8")
    decibels = r"denoiser \d+\.\d\d dB SQNR"
    size = r"4 bits a weight, \d\.\d MB"
    assert re.fullmatch(
        rf"hadanorm-w4a8, {decibels}, pictures \d+\.\d dB PSNR, 0\.\d{{3}} SSIM, {size}", summary(measured)
    )
    earlier = measured | {"caption_retrieval": {"float": 1.0, "quantized": 0.875}}  # which an older version measured
    assert summary(earlier) == summary(measured)
    alone = evaluate(model.denoiser, quantized, calls, None, "hadanorm-w4a8")
    assert re.fullmatch(rf"hadanorm-w4a8, {decibels}, {size}", summary(alone))
    unmeasured = evaluate(model.denoiser, quantized, [], None, "hadanorm-w4a8")
    assert unmeasured["timesteps"] == unmeasured["layers"] == {}
    assert re.fullmatch(rf"hadanorm-w4a8, {size}", summary(unmeasured))


def test_the_denoiser_against_itself_is_perfect(model, calls, held_out, tmp_path):
    same = quantize(model.denoiser, named("rtn-w16a16"), None)
    assert denoiser_sqnr_db(Original.of(model.denoiser, calls), same) == math.inf
    assert set(layer_sqnr_db(model.denoiser, same, calls).values()) == {math.inf}
    drawn = pictures(model.denoiser, held_out)
    assert mean_psnr_db(drawn, drawn) == math.inf
    assert mean_ssim(drawn, drawn) == 1
    measured = evaluate(model.denoiser, same, calls, held_out, "rtn-w16a16")
    files.write_json(tmp_path / "metrics.json", measured)
    written = files.read_json(tmp_path / "metrics.json", "metrics")
    assert written["denoiser_sqnr_db"] is written["image_psnr_db"] is None
    assert set(written["timesteps"].values()) == set(written["layers"].values()) == {None}
    assert written["image_ssim"] == 1
    assert written["bits"]["average"] == 16


@pytest.mark.parametrize("recipe", ["hadanorm-w4a8", "hadanorm-w16a16"])
def test_evaluation_leaves_both_denoisers_as_they_were(model, moments, calls, recipe):
    quantized = quantize(model.denoiser, named(recipe), moments)
    states = [denoiser.state_dict() for denoiser in (model.denoiser, quantized)]
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in states]
    evaluate(model.denoiser, quantized, calls[:1], None, recipe)
    for denoiser, state in zip((model.denoiser, quantized), before, strict=True):
        for name, tensor in denoiser.state_dict().items():
            assert tensor.dtype == state[name].dtype, name
            assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_8_bits_beat_4(report, method):
    (four, _), (eight, _) = report(f"{method}-w4a4"), report(f"{method}-w8a8")
    assert eight["denoiser_sqnr_db"] > four["denoiser_sqnr_db"] + 10
    assert eight["image_psnr_db"] > four["image_psnr_db"] + 5
    for name, db in four["layers"].items():
        assert eight["layers"][name] > db + 10, name


def test_the_prediction_sqnr_is_that_of_all_predictions(model, report, calls):
    measured, quantized = report("rtn-w4a4")
    exact, actual = (torch.cat([call.run(d) for call in calls]).double() for d in (model.denoiser, quantized))
    expected = 10 * torch.log10(exact.square().sum() / (exact - actual).square().sum())
    assert measured["denoiser_sqnr_db"] == pytest.approx(expected.item(), abs=1e-6)


def test_timesteps_are_in_sampling_order_with_the_sqnr_of_their_calls(model, report, calls, held_out):
    measured, quantized = report("rtn-w4a4")
    timesteps = [row.timestep for row in model.pipeline.plan(held_out.steps).rows]
    assert list(measured["timesteps"]) == [str(timestep) for timestep in timesteps]
    for timestep, db in measured["timesteps"].items():
        own = [call for call in calls if call.timestep.item() == float(timestep)]
        assert len(own) == len(held_out.prompts)
        assert db == pytest.approx(denoiser_sqnr_db(Original.of(model.denoiser, own), quantized), abs=1e-9)
    shuffled = timestep_sqnr(Original.of(model.denoiser, calls[::-1]), quantized)
    assert list(shuffled) == timesteps


def test_pictures_are_compared_with_those_of_the_same_seeds(model, report, held_out):
    measured, quantized = report("rtn-w4a4")
    drawn = [pictures(denoiser, held_out) for denoiser in (model.denoiser, quantized)]
    assert measured["image_psnr_db"] == pytest.approx(mean_psnr_db(*drawn))
    assert measured["image_ssim"] == pytest.approx(sum(plain_ssim(a, b, 7) for a, b in zip(*drawn, strict=True)) / 2)
    assert 0 < measured["image_ssim"] < 1


@pytest.mark.parametrize(("method", "linear"), [("rtn", "ff.down"), ("hadanorm", "ff.down"), ("hadanorm", "attn2.q")])
def test_a_layers_sqnr_is_of_that_layer_alone(model, report, calls, method, linear):
    """Quantized alone, so that errors of the layers before it do not count."""
    measured, quantized = report(f"{method}-w4a8")
    name, inputs = f"blocks.1.{linear}", []
    with observe_inputs(model.denoiser, [name], lambda _, x: inputs.append(x)):
        for call in calls:
            call.run(model.denoiser)
    x, exact = torch.cat(inputs), model.denoiser.get_submodule(name)
    expected = sqnr(exact(x), quantized.get_submodule(name)(x))
    assert measured["layers"][name] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("linear", ["attn1.qkv", "attn1.out", "attn2.out", "ff.up"])
def test_a_layers_sqnr_is_of_what_it_computes_of_its_absorbed_input(model, report, calls, linear):
    """The float linear's output for the original input; values come with the transform that they absorbed."""
    measured, quantized = report("hadanorm-folded-w4a8")
    name, inputs = f"blocks.1.{linear}", []
    with observe_inputs(model.denoiser, [name], lambda _, x: inputs.append(x)):
        for call in calls:
            call.run(model.denoiser)
    x, exact, ours = torch.cat(inputs), model.denoiser.get_submodule(name), quantized.get_submodule(name)
    expected = exact(x), ours(ours.absorbed(x)[0])
    if linear == "attn1.qkv":
        values = quantized.get_submodule("blocks.1.attn1.out").absorbed
        q, k, v = expected[0].chunk(3, dim=-1)
        expected = torch.cat([q, k, values(v)[0]], dim=-1), expected[1]
    assert measured["layers"][name] == pytest.approx(sqnr(*expected), abs=1e-2)


def test_evaluation_leaves_no_hooks(model, report):
    report("rtn-w4a4")
    assert not any(module._forward_pre_hooks for module in model.denoiser.modules())


def test_pictures_are_one_a_prompt_with_seeds_counted_up(model, held_out):
    drawn = pictures(model.denoiser, held_out)
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (2, 3, 8, 8)
    runner, plan = TorchRunner(model.denoiser, model.pipeline), model.pipeline.plan(4)
    for i, prompt in enumerate(held_out.prompts):
        assert torch.equal(drawn[i], to_pixels(picture(runner, Wish(prompt, plan, 1.5, 1000 + i))))


def test_bits_are_counted(report, model):
    bits = report("hadanorm-w4a8")[0]["bits"]
    names = model.denoiser.quantizable()
    linears = [model.denoiser.get_submodule(name) for name in names]
    parameters = sum(linear.weight.numel() for linear in linears)
    # A row: scale and bias; a column, where the layer before has not absorbed them: centre and feature scale; float32.
    online = [model.denoiser.get_submodule(name) for name in names if name not in model.denoiser.producers()]
    columns = sum(linear.weight.shape[1] for linear in online)
    side = 4 * 2 * (sum(linear.weight.shape[0] for linear in linears) + columns)
    assert (bits["weight"], bits["activation"]) == (4, 8)
    assert bits["quantized_parameters"] == parameters
    assert bits["quantized_bytes"] == parameters // 2 + side
    assert bits["bytes_per_quantized_parameter"] == pytest.approx((parameters // 2 + side) / parameters)
    everything = sum(tensor.numel() for tensor in model.denoiser.state_dict().values())
    biases = sum(linear.bias.numel() for linear in linears)
    assert bits["rest_bytes"] == 4 * (everything - parameters - biases)


def test_average_bits_are_weighted_by_the_weights_of_linears_of_other_recipes(model, moments):
    mixed = quantize(model.denoiser, named("rtn-w4a8"), moments)
    eight = quantize(model.denoiser, named("rtn-w8a8"), moments)
    wide = [name for name in model.denoiser.quantizable() if "ff" in name]
    for name in wide:
        mixed.set_submodule(name, eight.get_submodule(name))
    sizes = {name: model.denoiser.get_submodule(name).weight.numel() for name in model.denoiser.quantizable()}
    codes = sum(size * (8 if name in wide else 4) for name, size in sizes.items())
    assert bits_summary(mixed)["average"] == pytest.approx(codes / sum(sizes.values()))
    assert bits_summary(eight)["average"] == 8


# Held out.


def prompts(count: int) -> list[str]:
    return [f"prompt {i}" for i in range(count)]


def calibrated_on(all_prompts: list[str]) -> list[str]:
    return calibration_prompts(SimpleNamespace(pipeline=SimpleNamespace(prompts=all_prompts)))


@pytest.mark.parametrize("count", [33, 36, 40, 50, 63, 64, 100, 256, 620])
def test_evaluation_prompts_are_not_calibrated_on(count):
    calibration, evaluation = calibrated_on(prompts(count)), evaluation_prompts(prompts(count))
    assert len(set(calibration)) == CALIBRATION_PROMPTS
    assert len(set(evaluation)) == len(evaluation) == min(EVALUATION_PROMPTS, count - len(calibration))
    assert not set(calibration) & set(evaluation)


@pytest.mark.parametrize("count", [40, 620])
def test_both_are_spread_over_the_whole_list(count):
    for chosen in (calibrated_on(prompts(count)), evaluation_prompts(prompts(count))):
        places = [int(prompt.split()[1]) for prompt in chosen]
        gaps = [b - a for a, b in zip([-1, *places], [*places, count], strict=True)]
        assert places == sorted(places)
        assert max(gaps) <= 1.6 * count / len(chosen) + 1


@pytest.mark.parametrize("count", [1, 8, 32])
def test_of_few_prompts_calibration_takes_all_and_evaluation_repeats_some(count):
    assert calibrated_on(prompts(count)) == prompts(count)
    evaluation = evaluation_prompts(prompts(count))
    assert len(set(evaluation)) == min(count, EVALUATION_PROMPTS)


def test_evaluation_seeds_are_not_calibrated_on(model):
    """Calibration counts from --seed, by default 0."""
    trajectories = evaluation_trajectories(model)
    assert trajectories.prompts == evaluation_prompts(model.pipeline.prompts)
    assert not set(trajectories.prompts) & set(calibration_prompts(model))
    assert trajectories.seed == EVALUATION_SEED > CALIBRATION_PROMPTS
