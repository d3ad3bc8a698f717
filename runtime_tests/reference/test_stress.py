"""stress.py: every symmetry leaves the function as it is, plants outliers where it says, and breaks plain rounding."""

import io
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import diffusers
import pytest
import torch

from edge_hadanorm import console
from edge_hadanorm.errors import UserError
from edge_hadanorm.measure.evaluation import Original, denoiser_sqnr_db, pictures
from edge_hadanorm.method import recipe
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.loading import REFERENCE
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.trajectories import Trajectories, calibration_prompts, evaluation_trajectories
from edge_hadanorm.quantization.calibration import Moments, calibrate
from edge_hadanorm.quantization.quantize import quantize
from edge_hadanorm.reference import stress
from edge_hadanorm.reference.pipeline import ReferencePipeline
from edge_hadanorm.tensor_files import read_weights
from runtime_tests.support.helpers import randn

BATCH, WORDS = 2, 5
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).double()
CHOICES = {name: (name,) for name in stress.SYMMETRIES} | {"all": tuple(stress.SYMMETRIES)}
# Tensors of every block, and of what is OUTSIDE of blocks, that each symmetry changes.
OUTSIDE = ("adaln_single", "caption_projection", "pos_embed")
QKV, BIASED = ("to_q", "to_k", "to_v"), ("weight", "bias")
CHANGED = {
    "queries": {f"{a}.{name}.{p}" for a in ("attn1", "attn2") for name in ("to_q", "to_k") for p in BIASED},
    "values": {f"{a}.{name}.{p}" for a in ("attn1", "attn2") for name in ("to_v", "to_out.0") for p in BIASED},
    "modulation": {f"{name}.{p}" for name in (*(f"attn1.{n}" for n in QKV), "ff.net.0.proj") for p in BIASED}
    | {"scale_shift_table", "adaln_single.linear.weight", "adaln_single.linear.bias"},
    "text": {f"{name}.{p}" for name in ("attn2.to_k", "attn2.to_v", "caption_projection.linear_2") for p in BIASED},
    "stream": {"pos_embed.proj.bias", "attn2.to_q.bias"},
}
# Quantized linears whose inputs have channels of outlying deviation, and of outlying means, and which have neither.
WIDE = ("attn1.qkv", "attn1.out", "attn2.kv", "attn2.out", "ff.up")
OFF_ZERO = (*WIDE, "attn2.q")


@pytest.fixture(scope="module")
def tiny(model) -> tuple[dict, dict[str, torch.Tensor]]:
    """The tiny pipeline's transformer config, and a state dict of it in float64 in which no tensor is zero."""
    shapes = {name: t.shape for name, t in diffusers.PixArtTransformer2DModel(**model.config).state_dict().items()}
    return model.config, {
        name: randn(*shape, seed=i) * (shape[1:].numel() ** -0.5 if len(shape) > 1 else 0.3)
        for i, (name, shape) in enumerate(shapes.items())
    }


@torch.no_grad()
def predict(config: dict, weights: dict[str, torch.Tensor], timestep: float) -> torch.Tensor:
    """What diffusers' transformer makes of some noise and a padded prompt, float64."""
    transformer = diffusers.PixArtTransformer2DModel(**config).double().eval()
    transformer.load_state_dict(weights)
    side, channels = config["sample_size"], config["in_channels"]
    return transformer(
        randn(BATCH, channels, side, side, seed=100),
        encoder_hidden_states=randn(BATCH, WORDS, config["caption_channels"], seed=101),
        timestep=torch.full((BATCH,), timestep, dtype=torch.float64),
        encoder_attention_mask=MASK,
        return_dict=False,
    )[0]


def relative_error(x: torch.Tensor, y: torch.Tensor) -> float:
    return ((x - y).norm() / x.norm()).item()


@pytest.mark.parametrize("symmetries", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_function_stays(tiny, symmetries, strength):
    config, weights = tiny
    stressed = stress.plant_outliers(config, weights, seed=3, strength=strength, symmetries=symmetries)
    for timestep in (17.0, 950.0):
        exact = predict(config, weights, timestep)
        assert exact.std() > 0.1
        assert relative_error(exact, predict(config, stressed, timestep)) < 1e-9


@pytest.mark.parametrize("name", stress.SYMMETRIES)
def test_a_symmetry_changes_what_it_says(tiny, name):
    config, weights = tiny
    stressed = stress.plant_outliers(config, weights, symmetries=[name])
    changed = {key for key, tensor in stressed.items() if not torch.equal(tensor, weights[key])}
    blocks = [f"transformer_blocks.{i}." for i in range(config["num_layers"])]
    outside = {key for key in CHANGED[name] if key.startswith(OUTSIDE)}
    assert changed == outside | {block + key for block in blocks for key in CHANGED[name] - outside}


def test_a_constant_on_one_channel_of_the_stream_is_noticed(tiny):
    config, weights = tiny
    moved = stress.plant_outliers(config, weights, symmetries=["stream"])
    moved["pos_embed.proj.bias"] = moved["pos_embed.proj.bias"].clone()
    moved["pos_embed.proj.bias"][0] += 1
    assert relative_error(predict(config, weights, 500.0), predict(config, moved, 500.0)) > 1e-3


def test_strength_zero_changes_nothing(tiny):
    config, weights = tiny
    stressed = stress.plant_outliers(config, weights, strength=0.0)
    for name, tensor in weights.items():
        torch.testing.assert_close(stressed[name], tensor, rtol=1e-14, atol=1e-14)


def test_a_seed_gives_one_model_and_leaves_the_weights(tiny):
    config, weights = tiny
    before = {name: tensor.clone() for name, tensor in weights.items()}
    state = torch.get_rng_state()
    first, again, other = (stress.plant_outliers(config, weights, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(state, torch.get_rng_state())
    assert set(first) == set(weights)
    for name, tensor in weights.items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(first[name], again[name])
        assert first[name].dtype == torch.float64
    assert any(not torch.equal(first[name], other[name]) for name in weights)


def without(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if name != "proj_out.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "seed below zero": (dict(seed=-1), "seed: -1"),
        "seed too large": (dict(seed=1 << 63), "seed: 9223372036854775808"),
        "strength below zero": (dict(strength=-0.5), "strength: -0.5"),
        "strength not a number": (dict(strength=float("nan")), "strength: nan"),
        "strength too large": (dict(strength=1e6), "NaN or infinite"),
        "missing tensor": (dict(weights=without), "'proj_out.bias' is missing"),
        "tensor of another config": (dict(weights=lambda w: w | {"stray": w["proj_out.bias"]}), "'stray'"),
        "not finite": (dict(weights=lambda w: w | {"proj_out.bias": w["proj_out.bias"] / 0}), "NaN"),
        "unsupported config": (dict(config=dict(norm_elementwise_affine=True)), "norm_elementwise_affine"),
    }.values(),
)
def test_mistakes_are_named(tiny, change, message):
    config, weights = tiny
    change = dict(change)
    config, weights = config | change.pop("config", {}), change.pop("weights", dict)(weights)
    with pytest.raises(UserError, match=message):
        stress.plant_outliers(config, weights, **change)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The stress model as a pipeline folder."""
    out = tmp_path_factory.mktemp("stress") / "model"
    stress.write(out)
    return out


@pytest.fixture(scope="module")
def plain() -> loading.FloatModel:
    return loading.load("reference")


@pytest.fixture(scope="module")
def hard(folder) -> loading.FloatModel:
    return loading.load(str(folder))


@pytest.fixture(scope="module")
def inputs(plain) -> list[Inputs]:
    """Every second call on the reference model's way to two pictures that calibration does not see."""
    return evaluation_trajectories(plain, 2).record(plain.denoiser)[::2]


def rounded(model: loading.FloatModel, form: str, inputs: list[Inputs]) -> float:
    """Denoiser SQNR of round-to-nearest; static ranges are of the calls that it is then measured on."""
    calls = [partial(call.run, model.denoiser) for call in inputs]
    quantized = quantize(model.denoiser, recipe.named(f"rtn-{form}"), None, calls)
    return denoiser_sqnr_db(Original.of(model.denoiser, inputs), quantized)


def test_the_folder_is_a_stock_diffusers_pipeline(folder):
    stock, exact = (ReferencePipeline.from_pretrained(root, torch_dtype=torch.float32) for root in (folder, REFERENCE))
    assert type(stock.transformer) is diffusers.PixArtTransformer2DModel
    noise = randn(1, 3, 32, 32, dtype=torch.float32)
    drawn, expected = (to_pixels(pipeline(["red apple"], noise)).int() for pipeline in (stock, exact))
    assert expected.float().std() > 30
    assert (drawn - expected).abs().max() <= 1


def test_the_folder_is_the_reference_but_for_the_transformer(folder):
    listed = {
        root: {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
        for root in (folder, REFERENCE)
    }
    assert listed[folder] == listed[REFERENCE] - {"README.md"}
    for name in listed[folder] - {str(stress.WEIGHTS)}:
        assert (folder / name).read_bytes() == (REFERENCE / name).read_bytes()
    assert {t.dtype for t in read_weights(folder / stress.TRANSFORMER).values()} == {torch.float32}


def test_the_float_model_draws_the_same_pictures(plain, hard, inputs):
    assert hard.pipeline.prompts == plain.pipeline.prompts
    assert denoiser_sqnr_db(Original.of(plain.denoiser, inputs), hard.denoiser) > 100
    trajectories = evaluation_trajectories(plain, 2)
    exact, same = (pictures(model.denoiser, trajectories).int() for model in (plain, hard))
    assert (exact - same).abs().max() <= 1


def spread(moments: dict[str, Moments], linear: str) -> tuple[float, float]:
    """Largest over median deviation of an input's channels, and their largest mean in deviations; median of blocks."""
    deviations = {name: seen.deviation("static") for name, seen in moments.items() if name.endswith(linear)}
    wide = [(deviation.max() / deviation.median()).item() for deviation in deviations.values()]
    off_zero = [(moments[name].mean.abs() / deviation).max().item() for name, deviation in deviations.items()]
    return statistics.median(wide), statistics.median(off_zero)


def test_inputs_have_outliers_that_the_reference_has_not(plain, hard, inputs):
    before, after = (
        calibrate(model.denoiser, [partial(call.run, model.denoiser) for call in inputs]) for model in (plain, hard)
    )
    for linear in OFF_ZERO:
        (_, was), (_, has) = spread(before, linear), spread(after, linear)
        assert was < 4 < 9 < has, linear
    for linear in WIDE:
        (was, _), (has, _) = spread(before, linear), spread(after, linear)
        assert was < 10 < 20 < has, linear
    assert spread(after, "ff.down") == pytest.approx(spread(before, "ff.down"), rel=1e-3)


@pytest.mark.parametrize("form", ["w4a4", "w8a8"])
def test_rounding_to_nearest_breaks(plain, hard, inputs, form):
    assert rounded(hard, form, inputs) < rounded(plain, form, inputs) - 7


@pytest.mark.slow
@pytest.mark.parametrize("form", ["w4a6", "w4a8", "w4a8-g32", "w8a8-static"])
def test_rounding_to_nearest_breaks_in_every_form(plain, hard, inputs, form):
    assert rounded(hard, form, inputs[::2]) < rounded(plain, form, inputs[::2]) - 7


@pytest.mark.slow
def test_rounding_to_nearest_breaks_with_another_seed(plain, inputs, tmp_path):
    stress.write(tmp_path / "model", seed=1)
    hard = loading.load(str(tmp_path / "model"))
    assert rounded(hard, "w8a8", inputs[::2]) < rounded(plain, "w8a8", inputs[::2]) - 7


@pytest.mark.slow
@pytest.mark.parametrize("form", ["w4a4", "w8a8"])
def test_a_balanced_scale_and_a_centre_undo_the_stress(plain, hard, inputs, form):
    def sqnr(model: loading.FloatModel) -> float:
        prompts = calibration_prompts(model)[::8]
        trajectories = Trajectories(model.pipeline, prompts, model.pipeline.steps, model.pipeline.guidance, seed=0)
        moments = calibrate(model.denoiser, trajectories.samples(model.denoiser))
        quantized = quantize(model.denoiser, recipe.named(f"hadanorm-balanced-{form}"), moments)
        return denoiser_sqnr_db(Original.of(model.denoiser, inputs), quantized)

    assert sqnr(hard) == pytest.approx(sqnr(plain), abs=0.5)


@pytest.fixture
def run(monkeypatch) -> Callable[..., tuple[int, str]]:
    """run(argument, ...) -> exit status of the module's command, and what it showed on the screen."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stress", *map(str, arguments)])
        monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
        monkeypatch.setattr(console, "screen", screen)
        monkeypatch.setattr(console, "silence_libraries", lambda: None)  # it would close this process's stderr
        with pytest.raises(SystemExit) as end:
            stress.main()
        return end.value.code, screen.getvalue()

    return run


def test_the_command_writes_what_write_does(run, folder, tmp_path):
    assert run("--out", tmp_path / "model", "--seed", 0) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / stress.WEIGHTS).read_bytes() == (folder / stress.WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "no folder": ([], "--out"),
        "a folder that exists": (["--out", "taken"], "taken exists; remove it or give another --out"),
        "a file in the way": (["--out", "taken/file/model"], "cannot write taken/file/model"),
        "a seed that is no number": (["--out", "model", "--seed", "many"], "invalid int value: 'many'"),
        "a seed below zero": (["--out", "model", "--seed", "-1"], "seed: -1 is not a whole number from 0"),
    }.values(),
)
def test_a_mistake_is_exit_2_and_leaves_nothing(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    status, screen = run(*arguments)
    assert status == 2
    assert message in screen
    assert "Traceback" not in screen
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "taken/file").read_text() == "mine"


def test_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "edge_hadanorm.reference.stress", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == f"edge-hadanorm: {tmp_path} exists; remove it or give another --out\n"
