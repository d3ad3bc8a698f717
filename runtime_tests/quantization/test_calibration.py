"""calibration.py: streamed moments are those of all tokens at once; what is resumed is what was interrupted."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from edge_hadanorm import checkpoint, workflow
from edge_hadanorm.errors import UserError
from edge_hadanorm.method.recipe import named
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.pipelines.drawing import TorchRunner
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization.calibration import FIELDS, Moments, activation_ranges, calibrate, observe_inputs
from edge_hadanorm.quantization.quantize import quantize
from runtime_tests.support.helpers import prompt_of, randn

WIDTH = 24
PROMPTS, STEPS = ["red a", "green b", "blue c", "pale d"], 3
TOKENS, WORDS = 16, 8  # of the tiny pipeline: (8 / 2)^2 patches, a prompt's length


def tokens(batch: int, length: int, seed: int) -> torch.Tensor:
    """[batch, length, WIDTH]: channels of sizes 1e-3 to 1e3, each with a mean, each sequence with one of its own."""
    sizes = torch.logspace(-3, 3, WIDTH, dtype=torch.float64)
    means = 3 * randn(WIDTH, seed=1000) + randn(batch, 1, WIDTH, seed=seed + 500)
    return (randn(batch, length, WIDTH, seed=seed) + means) * sizes


CALLS = [tokens(2, 16, 1), tokens(1, 16, 2), tokens(3, 5, 3), tokens(2, 1, 4), tokens(2, 40, 5)]


def streamed(calls) -> Moments:
    moments = Moments(WIDTH)
    for x in calls:
        moments.update(x)
    return moments


def assert_close(actual: torch.Tensor, expected: torch.Tensor, error: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=error, atol=0)


def assert_bit_equal(actual: dict[str, Moments], expected: dict[str, Moments]) -> None:
    assert actual.keys() == expected.keys()
    for name, moments in expected.items():
        assert actual[name].count == moments.count
        for field in FIELDS:
            assert torch.equal(getattr(actual[name], field), getattr(moments, field)), (name, field)


# Moments.


def test_streamed_moments_are_those_of_all_tokens_at_once():
    moments = streamed(CALLS)
    flat = torch.cat([x.flatten(0, 1) for x in CALLS])
    left = torch.cat([(x - x.mean(1, keepdim=True)).flatten(0, 1) for x in CALLS])
    assert moments.count == len(flat)
    assert_close(moments.mean, flat.mean(0))
    assert_close(moments.total, (flat - flat.mean(0)).square().sum(0))
    assert_close(moments.within, left.square().sum(0))
    assert torch.equal(moments.largest, flat.abs().amax(0))
    assert_close(moments.largest_within, left.abs().amax(0))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 199), max_size=12, unique=True), seed=st.integers(0, 2**31))
def test_mean_and_total_do_not_depend_on_chunks_or_their_order(cuts, seed):
    x = tokens(1, 200, 6)
    chunks = x.tensor_split(sorted(cuts), dim=1)
    order = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(seed))
    chunked, whole = streamed([chunks[i] for i in order]), streamed([x])
    assert chunked.count == whole.count
    assert_close(chunked.mean, whole.mean)
    assert_close(chunked.total, whole.total)
    assert torch.equal(chunked.largest, whole.largest)


def test_sequences_of_a_batch_count_as_calls_of_their_own():
    x = tokens(6, 10, 7)
    together, alone = streamed([x]), streamed(x.split(1))
    for field in FIELDS:
        assert_close(getattr(together, field), getattr(alone, field))


def test_what_is_left_after_each_centre():
    moments = streamed(CALLS)
    flat = torch.cat([x.flatten(0, 1) for x in CALLS])
    left = torch.cat([(x - x.mean(1, keepdim=True)).flatten(0, 1) for x in CALLS])
    assert_close(moments.deviation("none"), flat.square().mean(0).sqrt())
    assert_close(moments.deviation("static"), flat.std(0, unbiased=False))
    assert_close(moments.deviation("dynamic"), left.square().mean(0).sqrt())
    assert (moments.deviation("dynamic") <= moments.deviation("static") * (1 + 1e-12)).all()
    assert (moments.deviation("static") <= moments.deviation("none") * (1 + 1e-12)).all()


def test_largest_magnitudes_after_each_centre():
    moments = streamed(CALLS)
    flat = torch.cat([x.flatten(0, 1) for x in CALLS])
    left = torch.cat([(x - x.mean(1, keepdim=True)).flatten(0, 1) for x in CALLS])
    assert torch.equal(moments.magnitude("none"), flat.abs().amax(0))
    assert_close(moments.magnitude("dynamic"), left.abs().amax(0))
    exact, bound = (flat - flat.mean(0)).abs().amax(0), moments.magnitude("static")
    assert (exact <= bound * (1 + 1e-12)).all()
    assert_close(bound, flat.abs().amax(0) + flat.mean(0).abs())


def test_a_mean_a_million_times_the_deviation_does_not_hide_it():
    calls = [1e6 + randn(2, 50, WIDTH, seed=i) for i in range(20)]
    flat = torch.cat([x.flatten(0, 1) for x in calls])
    assert_close(streamed(calls).deviation("static"), flat.std(0, unbiased=False), 1e-9)


def test_float32_tokens_are_summed_in_float64():
    x = tokens(2, 50, 8).float()
    moments = streamed([x])
    assert {getattr(moments, field).dtype for field in FIELDS} == {torch.float64}
    assert_close(moments.mean, x.double().flatten(0, 1).mean(0))


def test_a_silent_channel_has_no_moments():
    calls = [x * (torch.arange(WIDTH) != 5) for x in CALLS]
    moments = streamed(calls)
    assert all(getattr(moments, field)[5] == 0 for field in FIELDS)
    assert all(moments.deviation(centre)[5] == 0 == moments.magnitude(centre)[5] for centre in ("none", "dynamic"))


# Calibration.


@pytest.fixture(scope="module")
def samples(model):
    return Trajectories(model.pipeline, PROMPTS, STEPS, model.pipeline.guidance, seed=0).samples(model.denoiser)


@pytest.fixture(scope="module")
def moments(model, samples):
    return calibrate(model.denoiser, samples)


def test_every_quantizable_linear_sees_the_guidance_batch_at_every_step(model, moments):
    assert list(moments) == model.denoiser.quantizable()
    pictures = 2 * len(PROMPTS)
    for name, m in moments.items():
        once_a_prompt = name.endswith("attn2.kv")
        assert m.count == pictures * (WORDS if once_a_prompt else STEPS * TOKENS), name
        assert all(getattr(m, field).shape == model.denoiser.get_submodule(name).weight.shape[1:] for field in FIELDS)


def test_calibration_takes_the_moments_of_the_inputs_of_the_float_denoiser(model, samples, moments):
    seen = {name: [] for name in moments}
    with observe_inputs(model.denoiser, moments, lambda name, x, _=None: seen[name].append(x.clone())):
        for sample in samples:
            sample()
    for name, calls in seen.items():
        flat = torch.cat([x.flatten(0, 1) for x in calls]).double()
        torch.testing.assert_close(moments[name].mean, flat.mean(0), rtol=0, atol=1e-12 * flat.abs().max().item())
        assert_close(moments[name].deviation("static"), flat.std(0, unbiased=False), 1e-9)
        assert torch.equal(moments[name].largest, flat.abs().amax(0))


def test_calibration_leaves_no_hooks(model, moments):
    assert not any(module._forward_pre_hooks for module in model.denoiser.modules())


def test_progress_is_told_of_every_sample(model, samples):
    told = []
    calibrate(model.denoiser, samples, progress=lambda items: (told.append(item) or item for item in items))
    assert told == samples


def test_the_state_is_as_large_after_1_sample_as_after_20(model, tmp_path):
    one_step = Trajectories(model.pipeline, PROMPTS * 5, 1, 1.5, seed=0).samples(model.denoiser)
    shapes = []
    for count in (1, 20):
        calibrate(model.denoiser, one_step[:count], state=tmp_path / str(count))
        shapes.append({name: tensor.shape for name, tensor in load_file(tmp_path / str(count)).items()})
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == len(FIELDS) * len(model.denoiser.quantizable())


class Sum(torch.nn.Module):
    """A denoiser that adds up what it is given; tensors that are not where its weight is do not add."""

    def __init__(self, device: str):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(1, device=device))

    def latent_shape(self):
        return 3, 8, 8

    def prepare(self, text, mask=None):
        return [self.weight + text if mask is None else self.weight + text + mask.unsqueeze(-1)]

    def denoise(self, latents, timestep, conditioning):
        return self.weight + latents + timestep + conditioning[0].mean((1, 2)).view(-1, 1, 1, 1)


def test_a_denoiser_on_an_accelerator_is_given_its_inputs_there(model):
    """With fake tensors, which have devices and no values, so that no accelerator is needed."""
    latents, timestep = torch.randn(2, 3, 8, 8), torch.tensor([500.0])
    with FakeTensorMode(allow_non_fake_inputs=True):
        denoiser, moments = Sum("cuda"), Moments(WIDTH)
        for mask in (None, torch.ones(2, WORDS)):
            assert (
                Inputs(latents, timestep, prompt_of(torch.randn(2, WORDS, 32), mask)).run(denoiser).device.type == "cpu"
            )
        runner = TorchRunner(denoiser, model.pipeline)
        assert runner.denoise(latents, timestep, runner.prepare(PROMPTS[0])).device.type == "cpu"
        moments.update(torch.empty(2, TOKENS, WIDTH, device="cuda"))
        assert moments.mean.device.type == "cpu"


# Resuming.


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupted(model, samples, tmp_path):
    """A state file of a calibration that was interrupted in the middle of its third sample."""

    def break_off():
        samples[2]()
        raise Interrupted

    state = tmp_path / "state.safetensors"
    with pytest.raises(Interrupted):
        calibrate(model.denoiser, [*samples[:2], break_off], state=state, fingerprint="f")
    return state


def resumed(model, samples, state, fingerprint="f") -> tuple[dict[str, Moments], list[int]]:
    """The moments, and the samples that were run for them."""
    run = []
    counted = [lambda i=i, sample=sample: run.append(i) or sample() for i, sample in enumerate(samples)]
    return calibrate(model.denoiser, counted, state=state, fingerprint=fingerprint), run


def test_a_resumed_calibration_is_bit_equal_to_an_uninterrupted_one(model, samples, moments, interrupted):
    assert not any(module._forward_pre_hooks for module in model.denoiser.modules())
    again, run = resumed(model, samples, interrupted)
    assert run == [2, 3]
    assert_bit_equal(again, moments)


def test_a_finished_calibration_is_read_and_not_run(model, samples, moments, interrupted):
    resumed(model, samples, interrupted)
    again, run = resumed(model, samples, interrupted)
    assert run == []
    assert_bit_equal(again, moments)


def test_another_fingerprint_starts_anew(model, samples, moments, interrupted):
    again, run = resumed(model, samples, interrupted, fingerprint="g")
    assert run == [0, 1, 2, 3]
    assert_bit_equal(again, moments)


def truncated(state):
    state.write_bytes(state.read_bytes()[:-100])


def no_safetensors(state):
    state.write_text("not a state")


def empty(state):
    state.write_bytes(b"")


def rewritten(change):
    """A well-formed safetensors file, of changed tensors and header."""

    def corrupt(state):
        with safe_open(state, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(state)
        metadata = change(tensors, metadata)
        save_file(tensors, state, metadata=metadata)

    return corrupt


def without_layer(tensors, metadata):
    header = json.loads(metadata["calibration"])
    header["counts"].popitem()
    return {"calibration": json.dumps(header)}


CORRUPTIONS = {
    "truncated": truncated,
    "not safetensors": no_safetensors,
    "empty": empty,
    "no header": rewritten(lambda tensors, metadata: None),
    "header is not JSON": rewritten(lambda tensors, metadata: {"calibration": "{"}),
    "header is a list": rewritten(lambda tensors, metadata: {"calibration": "[]"}),
    "a tensor is missing": rewritten(lambda tensors, metadata: tensors.popitem() and metadata),
    "a layer is missing": rewritten(without_layer),
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corrupt_state_starts_anew(model, samples, moments, interrupted, corrupt):
    corrupt(interrupted)
    again, run = resumed(model, samples, interrupted)
    assert run == [0, 1, 2, 3]
    assert_bit_equal(again, moments)


def test_a_state_file_is_whole_or_not_there(model, samples, interrupted):
    assert list(interrupted.parent.iterdir()) == [interrupted]


CAPTURED = {
    "hidden_states": torch.linspace(-1, 1, 2 * 192).reshape(2, 3, 8, 8),
    "encoder_hidden_states": torch.linspace(-1, 1, 2 * WORDS * 32).cos().reshape(2, WORDS, 32),
    "timestep": torch.tensor([100.0, 900.0]),
    "encoder_attention_mask": torch.ones(2, WORDS),
}


@pytest.mark.parametrize("changed", CAPTURED)
def test_other_inputs_in_the_same_file_start_anew(tiny_pipeline, tmp_path, monkeypatch, changed):
    inputs, out, fresh = (tmp_path / name for name in ("inputs.safetensors", "out", "fresh"))
    transformer = str(tiny_pipeline / "transformer")

    def quantize_captured(folder):
        workflow.quantize(transformer, "hadanorm-w8a8", folder, inputs=inputs, device="cpu")
        return load_file(folder / "model.safetensors")

    def break_off(*_):
        raise Interrupted

    save_file(CAPTURED, inputs)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", break_off)
        with pytest.raises(Interrupted):
            quantize_captured(out)
    assert (tmp_path / ".out.calibration.safetensors").exists()
    other = CAPTURED[changed].clone()
    other[..., -1] = 0
    save_file(CAPTURED | {changed: other}, inputs)
    resumed, anew = quantize_captured(out), quantize_captured(fresh)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in anew.items())
    assert not (tmp_path / ".out.calibration.safetensors").exists()


# What goes wrong.


@pytest.mark.parametrize(
    ("poisoned", "value", "found"),
    [
        ("blocks.1.attn1.qkv", float("nan"), "blocks.1.attn1.out"),
        ("blocks.1.attn2.kv", float("nan"), "blocks.1.attn2.out"),
        ("blocks.1.ff.up", float("inf"), "blocks.1.ff.down"),
    ],
)
def test_nan_and_infinity_name_the_layer_and_sample_where_they_appear(model, poisoned, value, found):
    denoiser = copy.deepcopy(model.denoiser)
    samples = Trajectories(model.pipeline, PROMPTS, STEPS, 1.5, seed=0).samples(denoiser)

    def poison():
        denoiser.get_submodule(poisoned).weight[3] = value
        samples[1]()

    with pytest.raises(UserError, match=rf"NaN or Inf in the input of {found} at sample 1;"):
        calibrate(denoiser, [samples[0], poison])


# Static ranges.


@pytest.mark.parametrize("method", ["rtn", "hadanorm", "hadanorm-folded"])
def test_static_ranges_are_the_extremes_of_the_rows_of_all_samples(model, samples, moments, method):
    quantized = quantize(model.denoiser, named(f"{method}-w8a8-static"), moments, samples[:1])
    ranges = activation_ranges(model.denoiser, quantized, samples)
    alone = [activation_ranges(model.denoiser, quantized, [sample]) for sample in samples]
    assert list(ranges) != []
    assert set(ranges) == set(model.denoiser.quantizable())
    for name, (low, high) in ranges.items():
        assert low == min(one[name][0] for one in alone)
        assert high == max(one[name][1] for one in alone)
