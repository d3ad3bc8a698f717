"""export/coreml/: packages hold the checkpoint's codes and compute what is simulated; the audit finds what does not."""

import dataclasses
import io
import shlex
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.optimize import coreml as compression
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel

from edge_hadanorm import bundle, checkpoint, console, files, workflow
from edge_hadanorm.cli import cli
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters import targets, writer
from edge_hadanorm.exporters.component import Component, Method
from edge_hadanorm.exporters.coreml import constants, conversion, graph, lowering, package, pte
from edge_hadanorm.exporters.coreml.audit import CHECKS, AuditError, audit, functions, requirements
from edge_hadanorm.exporters.coreml.simulation.interpreter import load
from edge_hadanorm.exporters.targets import TARGETS, check_target, simulation
from edge_hadanorm.measure.inspection import describe
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.operators import layer_norm, rms_norm, token_mean
from edge_hadanorm.method.recipe import named
from edge_hadanorm.method.rounding import nearest
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.models.layers import sinusoid, time_frequencies
from edge_hadanorm.pipelines.drawing import TorchRunner, Wish, picture
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.text_encoders import T5, TextEncoder
from runtime_tests.support import helpers
from runtime_tests.support.helpers import relative_error

randn = partial(helpers.randn, dtype=torch.float32)
FP32, FP16 = 1e-5, 1e-2
SPECIFICATION = {"iOS17": 8, "iOS18": 9}
CONSTEXPR = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}


# The audit. Each program violates what one check is for.

WIDTH, OUTPUTS = 32, 16


def linear(recipe: str = "rtn-w8a8-static") -> QuantizedLinear:
    made = named(recipe)
    codes, scale = nearest(randn(OUTPUTS, WIDTH, seed=1), made.weight_bits, made.group_size)
    made = QuantizedLinear(made, FeatureTransform(rotation=((8, 1),)), codes, scale, randn(OUTPUTS, seed=2))
    if made.recipe.activations == "tensor":
        made.set_activation_range(torch.tensor(-3.0), torch.tensor(4.0))
    return made


class Part(nn.Module):
    """A quantized linear behind a gelu and a timestep, and a table of floats."""

    def __init__(self, recipe: str = "rtn-w8a8-static"):
        super().__init__()
        self.linear = linear(recipe)
        self.float_linear = nn.Linear(OUTPUTS, WIDTH).requires_grad_(False)
        self.register_buffer("frequencies", time_frequencies(WIDTH).float())

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = F.gelu(x + sinusoid(timestep, self.frequencies), approximate="tanh")
        return self.float_linear(self.linear(x))


INPUTS = (randn(1, 4, WIDTH), torch.tensor([412.5]))


class Unquantized(lowering.CoreMLLowering):
    def rows(self, rows):
        return rows


class Coarse(lowering.CoreMLLowering):
    def __init__(self, linear):
        super().__init__(linear)
        if self.static:
            self.static = self.static[0] * 1.01, self.static[1]


class Unclipped(lowering.CoreMLLowering):
    def rows(self, rows):
        return lowering._on_static_grid(rows, *self.static, 8)


class Floating(lowering.CoreMLLowering):
    def weight(self):
        return lowering.nn.functional.relu(super().weight())


def converted(part: nn.Module, precision: str = "fp16", how=conversion.compute_precision, mended: bool = True):
    """The package's function of a part, converted as asked or otherwise, with what was asked."""
    program = graph.export(part, INPUTS)
    wanted = requirements(part, program, precision == "fp16")
    settings = dict(
        minimum_deployment_target=conversion.needed_target(program),
        compute_precision=how(precision),
        pass_pipeline=conversion.pipeline(),
        skip_model_load=True,
    )
    program = program.run_decompositions({})
    if not mended:
        return ct.convert(program, **settings), wanted
    with conversion.converters():
        return ct.convert(program, **settings), wanted


def written(model, folder: Path):
    model.save(str(folder / "part.mlpackage"))
    return functions(folder / "part.mlpackage")["main"]


def complaining(function, wanted) -> list[str]:
    """Names of the checks that find something."""
    return [check.__name__ for check in CHECKS if list(check(function, wanted))]


@pytest.mark.parametrize("recipe", ["rtn-w8a8-static", "rtn-w4a6-static", "rtn-w4a16-g16", "rtn-w8a8"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_audit_passes_what_is_as_asked(recipe, precision, tmp_path):
    model, wanted = converted(Part(recipe), precision)
    assert len(wanted.weights) == 1
    assert wanted.gelus == {"TANH_APPROXIMATION": 1}
    audit(written(model, tmp_path), wanted)


def plain_half(precision: str):
    return ct.precision.FLOAT16


def all_single(precision: str):
    return ct.precision.FLOAT32


# (the check, the recipe, what goes wrong on the way, settings of the conversion)
VIOLATIONS = [
    ("check_gelus", "rtn-w8a8-static", None, dict(mended=False)),
    ("check_operands", "rtn-w8a8-static", Unquantized, {}),
    ("check_operands", "rtn-w8a8-static", Coarse, {}),
    ("check_operands", "rtn-w8a6-static", Unclipped, {}),
    ("check_operands", "rtn-w8a8", Unquantized, {}),
    ("check_operands", "rtn-w8a8-static", Floating, {}),
    ("check_islands", "rtn-w8a8-static", None, dict(how=plain_half)),
    ("check_precision", "rtn-w8a8-static", None, dict(how=all_single)),
]


@pytest.mark.parametrize(("check", "recipe", "other", "settings"), VIOLATIONS)
def test_the_audit_finds_what_is_not_as_asked(check, recipe, other, settings, tmp_path, monkeypatch):
    if other:
        monkeypatch.setattr(graph, "CoreMLLowering", other)
    model, wanted = converted(Part(recipe), **settings)
    function = written(model, tmp_path)
    assert complaining(function, wanted) == [check]
    with pytest.raises(AuditError, match="not what was asked for"):
        audit(function, wanted)


def test_the_audit_finds_weights_that_are_floats(tmp_path):
    """What is asked of a lowered program, and the program of the simulation, whose weight is computed in float."""
    part = Part()
    _, wanted = converted(part)
    program = torch.export.export(part, INPUTS).run_decompositions({})
    with conversion.converters():
        model = ct.convert(program, compute_precision=conversion.compute_precision("fp16"), skip_model_load=True)
    found = complaining(written(model, tmp_path), wanted)
    assert found == ["check_codes"]


def test_the_audit_finds_what_was_compressed_besides(tmp_path):
    model, wanted = converted(Part(), "fp32")
    settings = compression.OpLinearQuantizerConfig(weight_threshold=0)
    model = compression.linear_quantize_weights(model, compression.OptimizationConfig(settings))
    function = written(model, tmp_path)
    assert complaining(function, wanted) == ["check_nothing_else_is_compressed"]


def test_the_audit_finds_other_scales(tmp_path):
    model, wanted = converted(Part())
    (weight,) = wanted.weights
    other = dataclasses.replace(weight, weight_scale=weight.weight_scale * 1.01)
    function = written(model, tmp_path)
    assert complaining(function, dataclasses.replace(wanted, weights=[other])) == ["check_weight_scales"]


def test_the_audit_finds_other_codes(tmp_path):
    model, wanted = converted(Part())
    (weight,) = wanted.weights
    other = dataclasses.replace(weight, codes=weight.codes[::-1])
    found = complaining(written(model, tmp_path), dataclasses.replace(wanted, weights=[other]))
    assert found == ["check_codes", "check_nothing_else_is_compressed"]


def test_every_check_is_violated_by_a_test():
    here = Path(__file__).read_text()
    assert all(f'"{check.__name__}"' in here for check in CHECKS)


# Conversion.


class Tanh(nn.Module):
    def forward(self, x):
        return F.gelu(x, approximate="tanh")


def test_gelus_keep_their_form(tmp_path):
    x = randn(2, 64) * 3
    program = torch.export.export(Tanh(), (x,))
    conversion.convert(program, ["x"], ["y"], "fp32", ct.target.iOS17).save(str(tmp_path / "x.mlpackage"))
    y = load(tmp_path / "x.mlpackage")["main"]({"x": x})["y"]
    torch.testing.assert_close(y, Tanh()(x), rtol=0, atol=1e-6)
    assert (y - F.gelu(x)).abs().max() > 1e-4


def test_a_keyword_that_would_be_lost_is_refused():
    tanh = torch.export.export(Tanh(), (randn(2, 8),)).run_decompositions({})
    with pytest.raises(ValueError, match=r"would lose approximate='tanh' of the operator aten\.gelu"):
        conversion.check_keywords(tanh)
    with conversion.converters():
        conversion.check_keywords(tanh)


def test_other_users_of_the_process_keep_their_converters():
    known = _TORCH_OPS_REGISTRY.name_to_func_mapping
    before = dict(known)
    with conversion.converters():
        assert known["gelu"] is not before["gelu"]
    assert known == before
    program = torch.export.export(Tanh(), (randn(2, 8),))
    with pytest.raises(KeyError):  # there is no such precision
        conversion.convert(program, ["x"], ["y"], "fp8", ct.target.iOS17)
    assert known == before


class Norms(nn.Module):
    def forward(self, x):
        norms = layer_norm(x, 1e-5), rms_norm(x, torch.ones(16)), rms_norm(x, rms=0.25)
        return *norms, token_mean(x), layer_norm(x) + layer_norm(2 * x)


def test_norms_and_means_are_core_mls_own_operators():
    x = randn(2, 5, 16) + 3
    program = graph.export(Norms(), (x,))
    found = Counter(node.target for node in program.graph.nodes)
    aten = torch.ops.aten
    assert found[aten.layer_norm.default] == 3
    assert found[aten.mean.dim] == 3  # of the RMS norms, and of the tokens
    assert found[aten.linear.default] == found[aten.bmm.default] == 0
    for actual, expected in zip(program.module()(x), Norms()(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


class Known(nn.Module):
    def forward(self, x):
        positions = torch.arange(4)
        mask = x.new_ones(4, 4, dtype=torch.bool) & (positions[:, None] >= positions)
        return torch.where(mask, x, 0.0) + torch.rand(4, 4) * 0 + x.new_ones(2000, 2000).sum()


def test_what_is_known_beforehand_is_a_constant():
    x = randn(4, 4)
    module = torch.export.export(Known(), (x,)).module()
    constants.fold(module)
    left = {node.target for node in module.graph.nodes if node.op == "call_function"}
    aten = torch.ops.aten
    assert aten.rand.default in left  # not the same each time
    assert aten.new_ones.default in left  # 16 MB
    assert aten.arange.default not in left
    torch.testing.assert_close(module(x), x.tril() + 4e6)


def test_the_least_system_of_a_program_is_that_of_its_weights():
    targets = {"rtn-w8a8": "iOS17", "rtn-w8a8-g16": "iOS18", "rtn-w4a8": "iOS18", "rtn-w5a16": "iOS17"}
    for recipe, target in targets.items():
        assert conversion.needed_target(graph.export(Part(recipe), INPUTS)).name == target


# Beside the denoiser.


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    sizes = dict(vocab_size=50, d_model=64, d_kv=16, num_heads=4, d_ff=128, num_layers=1, dropout_rate=0.0)
    return TextEncoder(T5EncoderModel(T5Config(**sizes)).eval().requires_grad_(False), T5)


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
def test_a_text_encoder_has_linears_of_8_bits_and_its_table_as_it_is(encoder, narrow, tmp_path):
    if narrow:
        encoder = TextEncoder(encoder.model.bfloat16(), T5)
    ids = torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(0))
    (expected,) = encoder(ids)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    component = Component(
        "text_encoder", {"encode": Method(encoder, {"ids": ids}, {"text": expected})}, eight_bit=True, wide=True
    )
    entry = package.write(tmp_path, component, None)
    assert entry["methods"]["encode"]["inputs"][0]["dtype"] == "int32"
    assert entry["methods"]["encode"]["delegation"]["coded_linears"] == 6  # q, k, v, o and two of the MLP
    found = [op for op in functions(tmp_path / entry["file"])["main"].operations]
    table = next(op for op in found if op.op_type == "gather").x.val
    assert table.shape == (50, 64)
    assert table.dtype == np.float16
    text = load(tmp_path / entry["file"])["main"]({"ids": ids})["text"]
    assert relative_error(text, expected) < (0.02 if narrow else 0.01)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    encoder.model.float()


class Passing(nn.Module):
    def forward(self, mask, x):
        return x * 2, mask


def test_an_output_may_be_an_input(tmp_path):
    given = {"mask": torch.ones(2, 4), "x": randn(2, 4)}
    outputs = {"x2.0": given["x"], "mask": given["mask"]}
    entry = package.write(tmp_path, Component("part", {"run": Method(Passing(), given, outputs)}), "fp32")
    assert [tensor["feature"] for tensor in entry["methods"]["run"]["outputs"]] == ["x2_0", "mask_out"]
    found = load(tmp_path / entry["file"])["main"](given)
    assert torch.equal(found["mask_out"], given["mask"])
    assert torch.equal(found["x2_0"], 2 * given["x"])


# Bundles.

STATIC, TOKEN = "hadanorm-folded-w8a8-static", "hadanorm-balanced-w4a8"


@pytest.fixture(scope="module", params=["coreml", "coreml-pte"])
def loaded(request, tiny_checkpoint, tmp_path_factory) -> bundle.Bundle:
    folder = tmp_path_factory.mktemp("bundles") / request.param
    saved = tiny_checkpoint(STATIC)
    with files.new_folder(folder) as staging:
        writer.write_bundle(staging, saved, checkpoint.load(saved), request.param)
    return bundle.load(folder)


def test_a_bundle_draws_what_is_simulated(loaded):
    saved = checkpoint.load(loaded.file("simulation"))
    table = loaded.plan(4)
    drawn = picture(simulation(loaded), Wish("red a", table, 2.0, 3))
    simulated = picture(TorchRunner(saved.denoiser, saved.pipeline), Wish("red a", table, 2.0, 3))
    assert psnr_db(to_pixels(drawn), to_pixels(simulated)) > 40


def test_the_golden_picture_is_the_programs_own(loaded):
    golden = loaded.golden
    runner = targets.backend(loaded.target).runner(loaded)
    wish = Wish(golden["prompt"], loaded.plan(golden["plan"]), golden["guidance"], golden["seed"], golden["negative"])
    drawn = picture(runner, wish)
    expected = torch.from_numpy(np.asarray(Image.open(loaded.file("golden")).convert("RGB")).copy())
    assert torch.equal(to_pixels(drawn), expected.permute(2, 0, 1))


def test_every_file_of_a_program_is_verified(loaded):
    listed = set(loaded.manifest["files"])
    for program in loaded.programs.values():
        path = loaded.folder / program["file"]
        own = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        assert own
        assert {file.relative_to(loaded.folder).as_posix() for file in own} <= listed
        assert all(file.stat().st_mode & 0o044 for file in own)


def test_what_runs_where_is_said(loaded):
    shown = describe(loaded.folder)
    assert f"for {loaded.target}" in shown
    assert "iOS17 or later, floats in fp16" in shown
    methods = loaded.programs["denoiser"]["methods"]
    assert {name: method["delegation"]["integer_linears"] for name, method in methods.items()} == {
        "prepare": 2,
        "denoise": 12,
    }
    assert all(method["delegation"]["outside"] == {} for method in methods.values())


def test_apples_programs_are_not_run_by_executorch_here(loaded, tmp_path):
    with pytest.raises(UserError, match=f"is for {loaded.target}, which runs on Apple's systems"):
        workflow.generate(loaded.folder, "red a", tmp_path / "x.png", steps=2, backend="executorch")
    name = workflow.generate(loaded.folder, "red a", tmp_path / "x.png", steps=2).backend
    assert name == "simulation"
    assert Image.open(tmp_path / "x.png").size == loaded.image_size


def test_a_program_carries_what_it_reads_alone(loaded):
    """Each weight once, at the bits that it has."""
    saved = checkpoint.load(loaded.file("simulation"))
    codes = sum(m.codes.numel() for m in saved.denoiser.modules() if isinstance(m, QuantizedLinear))
    floats = sum(p.numel() for p in saved.denoiser.parameters())
    names = [n for n in loaded.manifest["files"] if n.endswith("weight.bin") or n == "denoiser.pte"]
    if loaded.target == "coreml":
        names = [n for n in names if n.startswith("denoiser")]
    size = sum(loaded.manifest["files"][name]["bytes"] for name in names)
    assert codes + floats < size
    if loaded.target == "coreml":
        assert size < 1.5 * (codes + 2 * floats)


@pytest.mark.parametrize("target", ["coreml", "coreml-pte"])
def test_emulation_is_said(target):
    backend = targets.backend(target)
    (note,) = backend.notes(named(TOKEN))
    assert "emulated" in note
    assert backend.notes(named(STATIC)) == backend.notes(named("rtn-w4a16")) == []


# Mistakes.


@pytest.mark.parametrize(
    ("target", "recipe", "precision", "message"),
    [
        ("coreml", "rtn-w16a8-static", None, "weights of at most 8 bits"),
        ("coreml-pte", "rtn-w16a16", None, "weights of at most 8 bits"),
        ("coreml", STATIC, "int8", "unknown precision 'int8'; precisions: fp16, fp32"),
        ("xnnpack", "rtn-w8a8", "fp16", "xnnpack computes floats in fp32; leave out `precision` fp16"),
        ("xnnpack", STATIC, None, "quantize without -static"),
        ("tpu", "rtn-w8a8", None, "unknown target 'tpu'; targets: xnnpack, coreml, coreml-pte"),
    ],
)
def test_a_target_says_what_it_does_not_take(target, recipe, precision, message):
    with pytest.raises(UserError, match=message):
        check_target(target, SimpleNamespace(recipe=named(recipe)), precision)


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[[str], tuple[int, str, str]]:
    """run(command line) -> exit status, what it printed, and what else was on the screen."""

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(console, "screen", io.StringIO())
        status = console.run(lambda: cli.main(shlex.split(line), prog_name="edge-hadanorm", standalone_mode=False))
        return status, capsys.readouterr().out, console.screen.getvalue()

    return run


# (recipe of the checkpoint, options of the export, what it says)
REFUSED = [
    (STATIC, "--target coreml --precision int8", "unknown precision 'int8'; precisions: fp16, fp32"),
    (STATIC, "--target coreml-pte --precision ''", "unknown precision ''; precisions: fp16, fp32"),
    (STATIC, "--target core-ml", "unknown target 'core-ml'; targets: xnnpack, coreml, coreml-pte"),
    ("rtn-w16a8", "--target coreml", "recipe rtn-w16a8: coreml needs weights of at most 8 bits; quantize with fewer"),
]


@pytest.mark.parametrize(("recipe", "options", "message"), REFUSED)
def test_an_export_that_cannot_be_is_answered_in_a_line(recipe, options, message, tiny_checkpoint, run, tmp_path):
    status, printed, shown = run(f"export {tiny_checkpoint(recipe)} {options} --out {tmp_path / 'bundle'}")
    assert (status, printed, shown) == (console.MISTAKE, "", f"edge-hadanorm: {message}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "generate {bundle} 'red a' --backend executorch --out {out}",
            "runs on Apple's systems: take --backend simulation",
        ),
        ("generate {bundle} 'red a' --steps 1000 --out {out}", "has no plan for 1000 steps"),
        ("evaluate {bundle}", "{bundle}"),
        ("export {bundle} --target coreml --out {out}", "{bundle}"),
        ("bench {bundle}", "{bundle}"),
    ],
)
def test_what_a_bundle_is_not_for_is_answered_in_a_line(line, message, loaded, run, tmp_path):
    places = {"bundle": loaded.folder, "out": tmp_path / "out.png"}
    status, printed, shown = run(line.format(**places))
    assert (status, printed) == (console.MISTAKE, "")
    assert message.format(**places) in shown
    assert len(shown.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_inspected_and_reported(loaded, run, tmp_path):
    status, printed, shown = run(f"inspect {loaded.folder}")
    assert (status, shown) == (0, "")
    assert f"bundle {STATIC} for {loaded.target}" in printed
    status, _, shown = run(f"report {loaded.folder} --out {tmp_path / 'report.html'}")
    assert (status, shown) == (0, "")
    assert STATIC in (tmp_path / "report.html").read_text()


def test_a_target_without_its_tools_is_a_mistake(monkeypatch):
    monkeypatch.setitem(TARGETS, "coreml", dataclasses.replace(TARGETS["coreml"], module="nosuch"))
    with pytest.raises(UserError, match="target coreml needs nosuch, which is not here: pip install coremltools"):
        targets.backend("coreml")


class Outside(nn.Module):
    def forward(self, x):
        return torch.acosh(x.abs() + 1) + 1


def test_a_program_that_is_not_one_delegate_is_refused(tmp_path):
    x = randn(2, 4)
    with pytest.raises(AuditError, match=r"part\.run is not one Core ML delegate.*acosh"):
        pte.write(tmp_path, Component("part", {"run": Method(Outside(), {"x": x}, {"y": x})}), None)
