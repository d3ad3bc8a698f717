"""export/: the codes of the program are the checkpoint's, the device computes what is simulated, the bundle says so."""

import contextlib
import hashlib
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from executorch.runtime import Runtime
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import T5Config, T5EncoderModel

from edge_hadanorm import bundle, checkpoint, files, workflow
from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters import writer
from edge_hadanorm.exporters.component import Denoise, Prepare, denoiser_component
from edge_hadanorm.exporters.targets import simulation
from edge_hadanorm.exporters.xnnpack import target
from edge_hadanorm.exporters.xnnpack.annotation import EightBitQuantizer
from edge_hadanorm.exporters.xnnpack.program import export
from edge_hadanorm.exporters.xnnpack.target import lower
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method.grids import Grid, fake_quantize_per_token
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.low_rank import LowRank, low_rank
from edge_hadanorm.method.recipe import named
from edge_hadanorm.method.rounding import nearest
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.models import pixart
from edge_hadanorm.pipelines.drawing import Wish, picture
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.text_encoders import T5, TextEncoder
from runtime_tests.support import helpers
from runtime_tests.support.helpers import relative_error

WIDTH, OUTPUTS, BLOCK = 64, 24, 32
PER_CHANNEL, GROUPS = 2e-6, 1e-3  # of the largest output: the device sums in another order
randn = partial(helpers.randn, dtype=torch.float32)
DTYPES = {"float32": torch.float32, "int64": torch.int64}


def every_code(bits: int, rows: int = OUTPUTS, columns: int = 256) -> torch.Tensor:
    """Codes int8 [rows, columns], each row with every code of the grid, in an order of its own."""
    grid = Grid(bits, symmetric=True)
    codes = torch.arange(columns) % (grid.qmax - grid.qmin + 1) + grid.qmin
    orders = [torch.randperm(columns, generator=torch.Generator().manual_seed(row)) for row in range(rows)]
    return torch.stack([codes[order] for order in orders]).to(torch.int8)


def scales(recipe, rows: int, columns: int) -> torch.Tensor:
    """Weight scales [rows, groups] from 1e-12 to 1e3; those of groups as bfloat16 holds them."""
    groups = columns // (recipe.group_size or columns)
    order = torch.randperm(rows * groups, generator=torch.Generator().manual_seed(0))
    scale = (10 ** torch.linspace(-12, 3, rows * groups))[order].reshape(rows, groups)
    return scale if recipe.group_size is None else scale.bfloat16().float()


def on_runtime(module: nn.Module, x: torch.Tensor, *others) -> SimpleNamespace:
    """The output of a module on the ExecuTorch runtime, with its program and account."""
    exported = export(nn.Sequential(module), (x,), *others)  # torch cannot export a root that has a buffer of None
    program, account = lower({"forward": exported})
    loaded = Runtime.get().load_program(program.buffer)
    y = loaded.load_method("forward").execute([x])[0].clone()
    return SimpleNamespace(y=y, exported=exported, account=account["forward"], buffer=program.buffer)


def frozen_codes(exported: torch.export.ExportedProgram) -> list[torch.Tensor]:
    """The integer weights of a program, in order of execution."""
    return [tensor for name, tensor in exported.state_dict.items() if name.endswith(".codes")]


def stored(codes: torch.Tensor, bits: int) -> bytes:
    """A weight's codes as XNNPACK keeps them: a byte each, or two in one, 8 added, the first in the low half."""
    if bits > 4:
        return codes.numpy().tobytes()
    nibbles = (codes + 8).to(torch.uint8).flatten()
    return (nibbles[0::2] | nibbles[1::2] << 4).numpy().tobytes()


def assert_device_equals(actual: torch.Tensor, simulated: torch.Tensor, error: float) -> None:
    torch.testing.assert_close(actual, simulated, rtol=0, atol=error * simulated.abs().max().item())


# One linear.

on_every_grid = pytest.mark.parametrize(
    "name",
    ["rtn-w8a8", "rtn-w6a8", "rtn-w4a8", "rtn-w3a8", "rtn-w2a8", "rtn-w4a8-g32", "rtn-w3a8-g64", "rtn-w2a8-g128"],
)


@on_every_grid
def test_the_device_reads_every_code_back(name):
    """A row 255 e_i has the codes (127, -128, -128, ...) and scale 1: the output is column i, and nothing else."""
    recipe = named(name)
    codes = every_code(recipe.weight_bits)
    scale = scales(recipe, *codes.shape)
    linear = QuantizedLinear(recipe, FeatureTransform(), codes, scale, None)
    weight = on_runtime(linear, 255 * torch.eye(codes.shape[1])[None]).y[0].T / 255
    steps = weight.unflatten(1, (scale.shape[1], -1)) / scale[..., None]
    assert torch.equal(steps.round().flatten(1), codes.float())
    torch.testing.assert_close(weight, linear.weight, rtol=3e-7, atol=0)  # two roundings of float32


def test_a_bias_is_added_in_float():
    recipe, codes, bias = named("rtn-w8a8"), every_code(8), 1e3 * randn(OUTPUTS)
    linear = QuantizedLinear(recipe, FeatureTransform(), codes, torch.full((OUTPUTS, 1), 2.0**-7), bias)
    y = on_runtime(linear, torch.zeros(1, 2, codes.shape[1])).y
    assert torch.equal(y, bias.expand_as(y))


CENTRE, SCALE = randn(WIDTH, seed=3).double(), (0.3 * randn(WIDTH, seed=4).double()).exp()


def transformed_linear(name: str, centre: str, rotation: tuple = ((BLOCK, 1),), rank: int = 0) -> QuantizedLinear:
    recipe = named(name)
    transform = FeatureTransform(None if centre == "none" else CENTRE, centre == "dynamic", SCALE, rotation)
    weight, bias = transform.fold(randn(OUTPUTS, WIDTH, seed=1).double(), randn(OUTPUTS, seed=2).double())
    branch = LowRank(*low_rank(weight, rank)).float() if rank else None
    rest = weight if branch is None else weight - branch.weight()
    codes, scale = nearest(rest, recipe.weight_bits, recipe.group_size)
    return QuantizedLinear(recipe, transform.float(), codes, scale.float(), bias.float(), low_rank=branch)


def on_grid(linear: QuantizedLinear, tokens: int = 6) -> torch.Tensor:
    """Tokens [2, S, d] whose rows z, and the row of their mean, are whole numbers with a range of 255, so of scale 1.

    What is rounded is then far from a tie, and device and simulation round it to the same codes.
    """
    z = torch.randint(-60, 61, (2, tokens // 2, WIDTH), generator=torch.Generator().manual_seed(5)).double()
    z[..., :2] = torch.tensor([-100.0, 155.0])
    z, mean = torch.cat([z, -z], dim=1), z[:, :1] if linear.transform.dynamic else 0.0  # the tokens' mean is zero
    rotation = FeatureTransform(rotation=linear.transform.rotation).double()(torch.eye(WIDTH).double())[0]
    x = (z + mean) @ rotation.T * SCALE
    return (x if linear.transform.centre is None else x + CENTRE).float()


@pytest.mark.parametrize(
    ("name", "centre", "error"),
    [
        ("rtn-w8a8", "none", PER_CHANNEL),
        ("rtn-w8a8", "static", PER_CHANNEL),
        ("rtn-w8a8", "dynamic", PER_CHANNEL),
        ("rtn-w4a8", "dynamic", PER_CHANNEL),
        ("rtn-w3a8", "static", PER_CHANNEL),
        ("rtn-w2a8", "none", PER_CHANNEL),
        ("rtn-w4a8-g32", "static", GROUPS),
        ("rtn-w4a8-g32", "dynamic", GROUPS),
    ],
)
def test_the_device_computes_what_is_simulated(name, centre, error):
    linear = transformed_linear(name, centre)
    x = on_grid(linear)
    ran = on_runtime(linear, x)
    assert_device_equals(ran.y, linear(x), error)
    assert ran.account == {"delegates": 1, "integer_linears": 1, "float_linears": 0, "outside": {}}


@pytest.mark.parametrize("others", [(), (EightBitQuantizer(),)], ids=["alone", "beside 8 bits"])
@pytest.mark.parametrize(
    ("name", "centre"), [("rtn-w8a8", "none"), ("rtn-w4a8", "dynamic"), ("rtn-w4a8-g32", "dynamic")]
)
def test_a_branch_of_low_rank_stays_in_float_in_the_same_delegate(name, centre, others):
    linear = transformed_linear(name, centre, rank=8)
    x = on_grid(linear)
    ran = on_runtime(linear, x, *others)
    assert_device_equals(ran.y, linear(x), PER_CHANNEL if linear.recipe.group_size is None else GROUPS)
    assert ran.account == {"delegates": 1, "integer_linears": 1, "float_linears": 2, "outside": {}}
    for kept in (linear.low_rank.down, linear.low_rank.up):
        assert kept.numpy().tobytes() in ran.buffer


def test_a_kronecker_rotation_is_delegated_too():
    linear = transformed_linear("rtn-w4a8", "dynamic", ((8, 1), (8, 8)))
    x = on_grid(linear)
    ran = on_runtime(linear, x)
    assert_device_equals(ran.y, linear(x), PER_CHANNEL)
    assert ran.account["outside"] == {}


@pytest.mark.parametrize("bits", [4, 3])
def test_narrow_activations_are_emulated_on_their_own_grid(bits):
    """With the identity for a weight the output is what the device quantized: at most 2^bits values a token.

    The 15 steps of 4 bits are multiples of the device's 255, the 7 of 3 bits are half of one away at most.
    """
    codes = 7 * torch.eye(WIDTH).to(torch.int8)
    linear = QuantizedLinear(named(f"rtn-w4a{bits}"), FeatureTransform(), codes, torch.full((WIDTH, 1), 1 / 7), None)
    x = randn(2, 5, WIDTH) * torch.logspace(-3, 3, 5)[:, None]
    ran = on_runtime(linear, x)
    rows = ran.y.flatten(0, 1), linear(x).flatten(0, 1), fake_quantize_per_token(x, bits).flatten(0, 1)
    for row, simulated, narrow in zip(*rows, strict=True):
        assert_device_equals(row, simulated, PER_CHANNEL)
        assert_device_equals(row, narrow, PER_CHANNEL if bits == 4 else 0.5 / 127)
        assert len(row.unique()) <= 2**bits
    assert ran.account["integer_linears"] == 1
    assert {"aten.amin", "aten.amax", "aten.round"} <= set(ran.account["outside"])  # emulated: no speed of 4 bits


@pytest.mark.parametrize("name", ["rtn-w8a8", "rtn-w4a8-g32"])
def test_export_leaves_the_model_as_it_was(name):
    linear = transformed_linear(name, "dynamic")
    x = on_grid(linear)
    before = linear(x)
    export(nn.Sequential(linear), (x,))
    assert linear.lowering is None
    assert torch.equal(linear(x), before)


def test_partitions_are_the_same_without_sets_of_all_dependencies(tiny_checkpoint, monkeypatch):
    component = denoiser_component(checkpoint.load(tiny_checkpoint("hadanorm-balanced-w4a8")))
    method, made = component.methods["denoise"], []
    for patch in (contextlib.nullcontext, target.searched_dependencies):
        monkeypatch.setattr(target, "searched_dependencies", patch)
        made.append(lower({"denoise": export(method.module, method.given)})[0].buffer)
    assert made[0] == made[1]


# Beside other quantizers.


class Pair(nn.Module):
    """A plain linear, and one of a checkpoint on its output."""

    def __init__(self, name: str):
        super().__init__()
        self.plain, self.ours = nn.Linear(WIDTH, WIDTH).requires_grad_(False), transformed_linear(name, "dynamic")
        self.plain.weight.copy_(randn(WIDTH, WIDTH, seed=6) / WIDTH**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ours(self.plain(x))


@pytest.mark.parametrize(("name", "bits"), [("rtn-w8a8", 8), ("rtn-w4a8", 4), ("rtn-w4a8-g32", 4)])
def test_a_plain_linear_beside_ours_gets_8_bits_and_ours_keeps_its_codes(name, bits):
    pair, x = Pair(name), randn(2, 6, WIDTH)
    ran = on_runtime(pair, x, EightBitQuantizer())
    assert ran.account == {"delegates": 1, "integer_linears": 2, "float_linears": 0, "outside": {}}
    assert stored(pair.ours.codes, bits) in ran.buffer
    scale = pair.plain.weight.abs().amax(1, keepdim=True) / 127
    plain = (pair.plain.weight / scale).round().clamp(-127, 127).to(torch.int8)
    assert stored(plain, 8) in ran.buffer
    assert relative_error(ran.y, pair(x)) < 0.02


def test_a_text_encoder_with_layers_runs_in_8_bits():
    torch.manual_seed(0)
    sizes = dict(vocab_size=50, d_model=64, d_kv=16, num_heads=4, d_ff=128, num_layers=1, dropout_rate=0.0)
    encoder = TextEncoder(T5EncoderModel(T5Config(**sizes)).eval().requires_grad_(False), T5)
    ids = torch.randint(0, 50, (2, 8))
    ran = on_runtime(encoder, ids, EightBitQuantizer())
    assert ran.account["integer_linears"] == 6  # q, k, v, o and two of the MLP
    assert ran.account["float_linears"] == 0
    (expected,) = encoder(ids)
    assert relative_error(ran.y, expected) < 0.03


# The whole denoiser.

BUNDLES = ("hadanorm-balanced-w8a8", "hadanorm-balanced-w4a8", "rtn-w4a4", "svdquant-r16-w4a8")
LAYERS = 2


@pytest.fixture(params=[pytest.param(recipe, marks=pytest.mark.slow) for recipe in BUNDLES])
def exported(request, tiny_bundle) -> SimpleNamespace:
    """A bundle, and the denoiser and quantized linears of its checkpoint."""
    loaded = tiny_bundle(request.param)
    saved = checkpoint.load(loaded.file("simulation"))
    return SimpleNamespace(bundle=loaded, saved=saved, denoiser=saved.denoiser, linears=quantized(saved.denoiser))


def quantized(denoiser: nn.Module) -> dict[str, QuantizedLinear]:
    return {name: denoiser.get_submodule(name) for name in denoiser.quantizable()}


@pytest.mark.parametrize("recipe", ["hadanorm-balanced-w8a8", "hadanorm-balanced-w4a8"])
def test_the_converted_graphs_hold_the_checkpoints_codes_and_no_weight_in_float(tiny_checkpoint, recipe):
    saved = checkpoint.load(tiny_checkpoint(recipe))
    denoiser, linears = saved.denoiser, quantized(saved.denoiser)
    text, latents = torch.zeros(2, saved.text.tokens, denoiser.text_width), torch.zeros(2, *denoiser.latent_shape())
    prepare = export(Prepare(denoiser, ["text"]), (text,))
    denoise = export(Denoise(denoiser), (latents, torch.zeros(1), denoiser.prepare(text)))
    for program, once_a_prompt in ((prepare, True), (denoise, False)):
        own = [linear for name, linear in linears.items() if name.endswith("attn2.kv") == once_a_prompt]
        for codes, linear in zip(frozen_codes(program), own, strict=True):
            assert codes.dtype == torch.int8
            assert torch.equal(codes, linear.codes)
        floats = [t for t in {**program.state_dict, **program.constants}.values() if t.is_floating_point()]
        for linear in linears.values():
            assert not any(t.shape == linear.weight.shape and relative_error(t, linear.weight) < 0.1 for t in floats)


def test_the_program_holds_the_checkpoints_codes_and_no_weight_in_float(exported):
    program = exported.bundle.file("denoiser").read_bytes()
    for name, linear in exported.linears.items():
        assert stored(linear.codes, linear.recipe.weight_bits) in program, name
        assert linear.weight.numpy().tobytes() not in program, name
    assert exported.denoiser.text_up.weight.numpy().tobytes() in program  # as one that stays in float would be


def test_the_program_is_as_large_as_the_checkpoint_and_its_graphs(exported):
    bits = bits_summary(exported.denoiser)
    hadamard = {m.transform.rotation: 4 * 64**2 for m in exported.linears.values() if m.transform.rotation}
    graphs = 12_000 * len(exported.linears)
    size = exported.bundle.file("denoiser").stat().st_size
    assert size < bits["quantized_bytes"] + bits["rest_bytes"] + sum(hadamard.values()) + graphs


def test_every_quantized_linear_is_an_integer_product_in_a_delegate(exported):
    methods = exported.bundle.programs["denoiser"]["methods"]
    prepare, denoise = (methods[name]["delegation"] for name in ("prepare", "denoise"))
    assert prepare["integer_linears"] == sum(name.endswith("attn2.kv") for name in exported.linears) == LAYERS
    assert denoise["integer_linears"] == len(exported.linears) - LAYERS
    branches = 2 * (exported.saved.recipe.rank > 0)  # two products each
    assert prepare["float_linears"] == 2 + branches * LAYERS  # of the caption projection
    norms = 2 * LAYERS + 1
    # Three of the time embedding, the last; two means a layer norm.
    assert denoise["float_linears"] == 4 + 2 * norms + branches * (len(exported.linears) - LAYERS)
    if exported.saved.recipe.activation_bits == 8:
        # One delegate, also for memory: beside another operator XNNPACK keeps all heads' scores at once.
        for account in (prepare, denoise):
            assert (account["delegates"], account["outside"]) == (1, {})


# The bundle.


def test_the_programs_take_and_give_what_the_manifest_says(exported):
    for program in exported.bundle.programs.values():
        loaded = Runtime.get().load_program(exported.bundle.folder / program["file"])
        assert loaded.method_names == set(program["methods"])
        for name, signature in program["methods"].items():
            method = loaded.load_method(name)
            inputs, outputs = (
                [torch.ones(tensor["shape"], dtype=DTYPES[tensor["dtype"]]) for tensor in signature[way]]
                for way in ("inputs", "outputs")
            )
            given = method.execute(inputs)
            assert [(t.shape, t.dtype) for t in given] == [(t.shape, t.dtype) for t in outputs], name
            with pytest.raises(RuntimeError):
                method.execute([torch.ones(3, *inputs[0].shape[1:], dtype=inputs[0].dtype), *inputs[1:]])


def test_the_golden_picture_comes_out_again_and_the_simulation_is_near(exported):
    golden = exported.bundle.golden
    plan, expected = exported.bundle.plan(golden["plan"]), pixels(exported.bundle.file("golden"))
    wish = Wish(golden["prompt"], plan, golden["guidance"], golden["seed"], golden["negative"])
    runners = ExecuTorchRunner(exported.bundle), simulation(exported.bundle)
    again, simulated = (to_pixels(picture(runner, wish)) for runner in runners)
    assert golden["prompt"] in exported.saved.pipeline.prompts
    assert psnr_db(again, expected) == math.inf
    assert psnr_db(simulated, expected) >= golden["psnr_db"]


def pixels(file: Path) -> torch.Tensor:
    """A PNG as uint8 [3, H, W]."""
    with Image.open(file) as image:
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size, 3).permute(2, 0, 1)


def test_the_plans_are_those_of_the_pipelines_scheduler(exported):
    pipeline, sampling = exported.saved.pipeline, exported.bundle.sampling
    expected = str(pipeline.steps), pipeline.guidance, pipeline.negative
    assert (sampling["plan"], sampling["guidance"], sampling["negative"]) == expected
    assert list(exported.bundle.plans) == list(map(str, writer.STEP_COUNTS))
    for steps in (1, 4, 8, 20, 50):
        assert exported.bundle.plan(steps) == pipeline.plan(steps, starts=steps <= writer.MOST_BEGUN)


def test_every_file_is_listed_with_its_hash_and_size(exported):
    folder = exported.bundle.folder
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    there.pop("manifest.json")
    assert {"denoiser.pte", "text_encoder.pte", "tokenizer.json", "golden/picture.png"} <= set(there)
    assert exported.bundle.manifest["files"] == {
        name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for name, path in there.items()
    }


def test_the_simulation_in_the_bundle_is_the_checkpoint(exported, tiny_checkpoint):
    own, given = tiny_checkpoint(exported.bundle.recipe), exported.bundle.file("simulation")
    names = {p.relative_to(own) for p in own.rglob("*") if p.is_file()}
    assert {p.relative_to(given) for p in given.rglob("*") if p.is_file()} == names
    assert all((own / name).read_bytes() == (given / name).read_bytes() for name in names)


# A transformer alone, whose text is padded.

MASK = torch.tensor([[1.0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> bundle.Bundle:
    """The bundle, with groups, of a one-block transformer that is calibrated on captured inputs with a mask."""
    folder = tmp_path_factory.mktemp("masked")
    torch.manual_seed(0)
    sizes = dict(num_attention_heads=2, attention_head_dim=32, num_layers=1, patch_size=2, sample_size=8)
    widths = dict(in_channels=3, out_channels=6, cross_attention_dim=64, caption_channels=32)
    fixed = dict(norm_elementwise_affine=False, use_additional_conditions=False)
    PixArtTransformer2DModel(**sizes, **widths, **fixed).save_pretrained(folder / "transformer")
    inputs = {
        "hidden_states": randn(3, 3, 8, 8),
        "encoder_hidden_states": randn(3, 6, 32),
        "timestep": torch.tensor([900.0, 500.0, 10.0]),
        "encoder_attention_mask": MASK,
    }
    save_file(inputs, folder / "inputs.safetensors")
    model, recipe, out = str(folder / "transformer"), "hadanorm-balanced-w4a8-g32", folder / "checkpoint"
    workflow.quantize(model, recipe, out, inputs=folder / "inputs.safetensors")
    with files.new_folder(folder / "bundle") as staging:
        writer.write_bundle(staging, out, checkpoint.load(out), "xnnpack")
    return bundle.load(folder / "bundle")


@pytest.mark.slow
def test_a_masked_text_is_prepared_with_its_mask(masked):
    saved = checkpoint.load(masked.file("simulation"))
    assert saved.text == checkpoint.Text(tokens=6, masked=True)
    methods = masked.programs["denoiser"]["methods"]
    assert [(t["name"], t["shape"]) for t in methods["prepare"]["inputs"]] == [("text", [1, 6, 32]), ("mask", [1, 6])]
    program = Runtime.get().load_program(masked.file("denoiser"))
    prepare, denoise = program.load_method("prepare"), program.load_method("denoise")
    text, latents, timestep = randn(1, 6, 32, seed=1), randn(1, 3, 8, 8, seed=2), torch.tensor([300.0])

    def eager(mask: torch.Tensor) -> torch.Tensor:
        return saved.denoiser.denoise(latents, timestep, saved.denoiser.prepare(text, mask))

    mask = MASK[:1]
    conditioning = [t.clone() for t in prepare.execute([text, mask])]
    for actual, expected in zip(conditioning, saved.denoiser.prepare(text, mask), strict=True):
        assert relative_error(actual, expected) < 1e-2
    prediction = denoise.execute([latents, timestep, *conditioning])[0]
    assert relative_error(prediction, eager(mask)) < 2e-3
    assert relative_error(prediction, eager(torch.ones(1, 6))) > 2e-2
    padding = text + 100 * (1 - mask)[..., None]
    other = [t.clone() for t in prepare.execute([padding, mask])]
    assert relative_error(denoise.execute([latents, timestep, *other])[0], prediction) < 2e-3


@pytest.mark.slow
def test_keys_and_values_made_anew_stay_in_the_steps_delegate(masked, monkeypatch):
    """The prediction is that of the bundle, which keeps them, with less conditioning and as few delegates."""
    monkeypatch.setattr(pixart, "KEPT_BYTES", 0)
    monkeypatch.setattr(pixart, "SHORT_TEXT", 1.0)
    component = denoiser_component(checkpoint.load(masked.file("simulation")))
    assert len(component.methods["denoise"].inputs) == len(("latents", "timestep", "text", "bias"))
    program, account = lower({name: export(m.module, m.given) for name, m in component.methods.items()})
    assert (account["denoise"]["delegates"], account["denoise"]["outside"]) == (1, {})
    given = [randn(1, 3, 8, 8, seed=2), torch.tensor([300.0])]
    for mask in MASK[:, None]:
        predictions = []
        for file in (masked.file("denoiser").read_bytes(), program.buffer):
            loaded = Runtime.get().load_program(file)
            prepare, denoise = (loaded.load_method(name) for name in ("prepare", "denoise"))
            conditioning = [t.clone() for t in prepare.execute([randn(1, 6, 32, seed=1), mask])]
            predictions.append(denoise.execute([*given, *conditioning])[0].clone())
        assert torch.equal(*predictions)


@pytest.mark.slow
def test_denoise_reads_its_inputs_where_they_are(masked):
    """Planned for it is its output alone; `prepare`, which may give back an input, has a copy of that."""
    program = Runtime.get().load_program(masked.file("denoiser"))
    for name, planned in (("prepare", True), ("denoise", False)):
        meta = program.load_method(name).metadata
        assert {meta.input_tensor_meta(i).is_memory_planned() for i in range(meta.num_inputs())} == {planned}


@pytest.mark.slow
def test_groups_are_integer_products_with_the_checkpoints_codes(masked):
    program = masked.file("denoiser").read_bytes()
    for name, linear in quantized(checkpoint.load(masked.file("simulation")).denoiser).items():
        assert stored(linear.codes, 4) in program, name
        assert linear.weight.numpy().tobytes() not in program, name
    accounts = {name: m["delegation"] for name, m in masked.programs["denoiser"]["methods"].items()}
    assert [accounts[name]["integer_linears"] for name in ("prepare", "denoise")] == [1, 6]
    assert (accounts["denoise"]["delegates"], accounts["denoise"]["outside"]) == (1, {})


@pytest.mark.slow
def test_a_transformer_alone_is_a_bundle_without_words_and_draws_none(masked, tmp_path):
    assert [masked.manifest[part] for part in ("prompt", "sampling", "golden")] == [None, None, None]
    assert list(masked.programs) == ["denoiser"]
    for backend in ("auto", "executorch", "simulation"):
        with pytest.raises(UserError, match="transformer alone"):
            workflow.generate(masked.folder, "red a", tmp_path / "picture.png", backend=backend)
    assert list(tmp_path.iterdir()) == []
