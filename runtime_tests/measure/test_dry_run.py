"""`quantize --dry-run`: what it says is what quantizing and exporting make, and it reads and writes nothing."""

import dataclasses
import io
import json
import re
import shlex
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from edge_hadanorm import bundle, checkpoint, console, tensor_files, workflow
from edge_hadanorm.bundle.schema import signature
from edge_hadanorm.cli import cli
from edge_hadanorm.measure import dry_run, inspection
from edge_hadanorm.method import recipe
from edge_hadanorm.models import generic
from edge_hadanorm.models.denoiser import kind
from edge_hadanorm.pipelines import loading
from edge_hadanorm.quantization import quantize
from edge_hadanorm.quantization.calibration import calibrate
from edge_hadanorm.tensor_files import LazyWeights
from runtime_tests.support import tiny_pipelines
from runtime_tests.support.families import FAMILIES

EXACT = ("rtn-w8a8", "quarot-w4a8", "svdquant-r16-w4a8", "hadanorm-balanced-w4a8", "hadanorm-balanced-w4a8-g32")
EXACT += ("hadanorm-folded-w8a8-static", "rtn-w16a8")


def cells(text: str) -> list[list[str]]:
    """The cells of every line, which two spaces and more divide."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def shapes_of(denoiser: torch.nn.Module, own: recipe.Recipe) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Of all tensors that `quantize.outline` makes of a denoiser."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        made = quantize.outline(denoiser.to_empty(device="cpu"), own)
        return {name: (tensor.shape, tensor.dtype) for name, tensor in made.state_dict().items()}


@pytest.fixture
def unread(monkeypatch):
    """No weight may be read."""

    def refuse(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(tensor_files, "load_file", refuse)
    monkeypatch.setattr(LazyWeights, "__getitem__", refuse)


# What it says.


@pytest.mark.parametrize("name", EXACT)
def test_sizes_are_those_of_the_checkpoint(tiny_pipeline, tiny_checkpoint, model, name):
    text = workflow.dry_run(str(tiny_pipeline), name, steps=4)
    bits = json.loads((tiny_checkpoint(name) / "metrics.json").read_text())["bits"]
    whole = (bits["quantized_bytes"] + bits["rest_bytes"]) / 1e6
    lines = text.splitlines()
    assert lines[0].startswith(f"dry run of {name} on {tiny_pipeline} (PixArtTransformer2DModel): nothing is read")
    total = sum(p.numel() for p in model.denoiser.parameters())
    assert lines[1] == f"float model: {total:,} parameters, {4 * total / 1e6:.2f} MB in float32"
    assert lines[2].startswith(
        f"quantized: 131,072 parameters in {bits['average']:.3g} bits, {bits['quantized_bytes'] / 1e6:.2f} MB; "
        f"rest: {bits['rest_bytes'] / 1e6:.2f} MB; together {whole:.2f} MB, "
    )
    assert lines[3] == "calibrated on: 32 prompts of 4 steps each"
    assert re.fullmatch(r"memory to quantize: about \d+\.\d GB", lines[4])


@pytest.mark.parametrize("name", EXACT)
def test_linears_are_those_of_the_checkpoint(tiny_pipeline, tiny_checkpoint, name):
    saved = checkpoint.load(tiny_checkpoint(name)).denoiser
    expected: dict[tuple[str, ...], int] = {}
    for own, *columns, _ in inspection.linear_rows(saved, {}):
        row = (kind(own)[0], *map(str, columns))
        expected[row] = expected.get(row, 0) + 1
    rows = cells(workflow.dry_run(str(tiny_pipeline), name))
    header = ["linears", *inspection.LINEAR_HEADER[:-1], "MB"]
    first = rows.index(header) + 1
    shown = rows[first : first + len(expected)]
    assert {tuple(row[1:-1]): int(row[0]) for row in shown} == expected
    assert rows[first + len(expected)] == [""]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", ["rtn-w8a8", "hadanorm-balanced-w4a8", "svdquant-r16-w4a8-static"])
def test_every_tensor_of_every_family_is_as_quantize_makes_it(name, method, tmp_path):
    family, own = FAMILIES[name], recipe.named(method)
    folder = str(family.save(tmp_path / "transformer"))
    denoiser = loading.load(folder).denoiser
    calls = [family.call(denoiser, seed=i) for i in range(2)]
    calls = [dataclasses.replace(c, prompt={n: t.float() for n, t in c.prompt.items()}) for c in calls]
    calls = [dataclasses.replace(c, latents=c.latents.float(), timestep=c.timestep.float()) for c in calls]
    run = [lambda call=call: call.run(denoiser) for call in calls]
    made = quantize.quantize(denoiser, own, calibrate(denoiser, run) if own.needs_moments else None, run)
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in made.state_dict().items()}
    assert shapes_of(loading.outline(folder).denoiser, own) == expected


@pytest.mark.parametrize("average_bits", [None, 5])
def test_what_is_chosen_by_values_is_near(tiny_pipeline, tmp_path, average_bits):
    """Of a search it has the sizes but for a vector here and there, and it says so."""
    out = tmp_path / "checkpoint"
    metrics = workflow.quantize(
        str(tiny_pipeline), "hadanorm-auto-w4a8", out, ["red a", "green b"], steps=2, average_bits=average_bits
    ).metrics
    text = workflow.dry_run(str(tiny_pipeline), "hadanorm-auto-w4a8", ["red a"], steps=2, average_bits=average_bits)
    found = re.search(r"in (\S+) bits, (\S+) MB; rest: (\S+) MB", text)
    assert float(found[1]) == pytest.approx(metrics["bits"]["average"], rel=0.1)
    assert float(found[2]) == pytest.approx(metrics["bits"]["quantized_bytes"] / 1e6, rel=0.1)
    assert float(found[3]) == pytest.approx(metrics["bits"]["rest_bytes"] / 1e6, abs=0.006)
    chosen = "transforms and bits" if average_bits else "transforms"
    assert f"\n{chosen} are chosen by measured error: those shown are where the choice starts\n" in text
    assert "calibrated on: 1 prompt of 2 steps each" in text


def test_a_generic_transformer_is_planned_like_others(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "screen", io.StringIO())
    family = FAMILIES["pixart"]
    form = generic.form(family.source_class)
    shapes = {name: torch.empty(t.shape, device="meta") for name, t in family.make().state_dict().items()}
    own = recipe.named("hadanorm-balanced-w4a8")
    denoiser = form.from_diffusers(family.config, family.make().state_dict()).eval().requires_grad_(False)
    call = family.call(denoiser)
    call = dataclasses.replace(call, latents=call.latents.float(), timestep=call.timestep.float())
    call = dataclasses.replace(call, prompt={n: t.float() for n, t in call.prompt.items()})
    made = quantize.quantize(denoiser, own, calibrate(denoiser, [lambda: call.run(denoiser)]))
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in made.state_dict().items()}
    assert shapes_of(form.from_diffusers(family.config, shapes), own) == expected


@pytest.mark.slow
def test_programs_are_those_of_the_bundle(tiny_pipeline, tiny_bundle):
    loaded = tiny_bundle("hadanorm-balanced-w4a8")
    text = workflow.dry_run(str(tiny_pipeline), "hadanorm-balanced-w4a8")
    assert text.endswith(inspection.tensor_table(loaded.programs))


# What a text encoder takes where it is more than ids.
INPUTS = {"pixart": ["ids", "mask"], "sana": ["ids", "mask", "kept"]}


@pytest.mark.parametrize("name", tiny_pipelines.PIPELINES)
@torch.no_grad()
def test_programs_of_a_pipeline_are_what_its_components_take_and_give(name, tmp_path):
    """Encoders, their masks, classes and the decoder, which are not loaded."""
    folder = str(tiny_pipelines.save(name, tmp_path / "model"))
    outlined, model = loading.outline(folder), loading.load(folder)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        programs = dry_run.programs_of(outlined.denoiser.to_empty(device="cpu"), outlined.pipeline, None)
    assert not outlined.pipeline._encoders
    assert outlined.pipeline._decoder is None
    pipeline, denoiser = model.pipeline, model.denoiser
    given = pipeline.encode("", negative=True)
    prompt = pipeline.prompt("", negative=True)
    conditioning = {f"conditioning.{i}": t for i, t in enumerate(denoiser.prepare(**prompt))}
    latents = torch.zeros(1, *denoiser.latent_shape())
    expected = {
        "denoiser": {
            "prepare": signature(given, conditioning),
            "denoise": signature(
                {"latents": latents, "timestep": torch.zeros(1), **conditioning}, {"prediction": latents}
            ),
        }
    }
    for role, tokenizer in pipeline.tokenizers.items():
        encoder = pipeline.encoder(role)
        inputs = tokenizer.inputs_of(encoder.form, "", negative=True)
        assert list(inputs) == INPUTS.get(name, ["ids"])
        names = [output + role.removeprefix("text_encoder") for output in encoder.widths]
        made = dict(zip(names, encoder(*inputs.values()), strict=True))
        expected[role] = {"encode": signature(inputs, made)}
    expected[bundle.DECODER] = {"decode": signature({"latents": latents}, {"picture": pipeline.decoder(latents)})}
    assert {role: program["methods"] for role, program in programs.items()} == expected


def test_a_transformer_alone_is_given_what_was_captured(tiny_pipeline, tmp_path):
    tensors = {
        "hidden_states": torch.zeros(3, 3, 8, 8),
        "encoder_hidden_states": torch.ones(3, 5, 32),
        "encoder_attention_mask": torch.ones(3, 5),
        "timestep": torch.tensor([500.0, 100.0, 50.0]),
    }
    save_file(tensors, tmp_path / "inputs.safetensors")
    text = workflow.dry_run(str(tiny_pipeline / "transformer"), "hadanorm-w8a8", inputs=tmp_path / "inputs.safetensors")
    assert "calibrated on: 3 captured inputs\n" in text
    rows = cells(text)
    assert ["prepare", "inputs", "text", "float32", "1x5x32"] in rows
    assert ["prepare", "inputs", "mask", "float32", "1x5"] in rows
    assert "encode" not in text


@pytest.mark.parametrize(
    ("name", "given"),
    [("rtn-w8a8", "nothing"), ("hadanorm-w8a8", "nothing yet, which this recipe refuses: give `inputs`")],
)
def test_without_anything_to_calibrate_on_it_says_whether_that_is_refused(tiny_pipeline, name, given):
    text = workflow.dry_run(str(tiny_pipeline / "transformer"), name)
    assert f"\ncalibrated on: {given}\n" in text
    assert ["prepare", "inputs", "text", "float32", "1x120x32"] in cells(text)


def test_a_pipeline_without_prompts_may_be_given_some(tiny_pipeline, tmp_path):
    shutil.copytree(tiny_pipeline, tmp_path / "model")
    (tmp_path / "model/about.json").unlink()
    text = workflow.dry_run(str(tmp_path / "model"), "hadanorm-w8a8")
    assert "\ncalibrated on: nothing yet, which this recipe refuses: give `prompts` or `inputs`\n" in text


# What it needs.


MEASURE = """
import re, sys
from pathlib import Path
from edge_hadanorm import workflow

def memory(line):
    return 1024 * int(re.search(line + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

model, recipe, inputs, out = sys.argv[1:]
print(re.search(r"about (\\S+) GB", workflow.dry_run(model, recipe, inputs=Path(inputs)))[1])
workflow.quantize(model, recipe, Path(out), inputs=Path(inputs))
print(memory("VmHWM") / 1e9)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["rtn-w8a8", "hadanorm-balanced-w4a8"])
def test_the_memory_is_about_what_it_takes(name, tmp_path):
    config = FAMILIES["pixart"].config | dict(num_attention_heads=16, attention_head_dim=64, num_layers=3)
    config |= dict(cross_attention_dim=1024)
    dataclasses.replace(FAMILIES["pixart"], config=config).save(tmp_path / "model")
    tensors = {"hidden_states": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 6, 48)}
    save_file(tensors | {"timestep": torch.tensor([900.0, 100.0])}, tmp_path / "inputs.safetensors")
    paths = (tmp_path / "model", name, tmp_path / "inputs.safetensors", tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True)
    about, taken = map(float, done.stdout.split()[-2:])
    assert about == pytest.approx(taken, rel=0.35)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_the_process_holds_is_measured():
    before = dry_run.resident_bytes()
    assert 1e8 < before < 1e11
    held = torch.ones(100_000_000, dtype=torch.uint8)
    assert dry_run.resident_bytes() - before == pytest.approx(len(held), rel=0.1)


def test_nothing_is_read_but_headers(tiny_pipeline, unread):
    workflow.dry_run(str(tiny_pipeline), "hadanorm-balanced-w4a8")
    with pytest.raises(AssertionError, match="weights were read"):
        loading.load(str(tiny_pipeline))


def test_billions_of_parameters_take_no_memory(tmp_path):
    """A file with a header of three billion parameters, and a hole where they would be."""
    config = FAMILIES["pixart"].config | dict(num_attention_heads=32, attention_head_dim=96, num_layers=20)
    config |= dict(cross_attention_dim=3072, sample_size=64)
    with torch.device("meta"):
        state = dataclasses.replace(FAMILIES["pixart"], config=config)
        transformer = generic.build(generic.form(state.source_class).module_class, config)
    header, end = {}, 0
    for name, tensor in transformer.state_dict().items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": state.source_class}))
    shown = workflow.dry_run(str(tmp_path), "rtn-w4a8")
    assert int(re.search(r"float model: (\S+) parameters", shown)[1].replace(",", "")) > 3e9
    assert float(re.search(r"about (\S+) GB", shown)[1]) > 12  # in float32


# The command.


@pytest.fixture
def run(monkeypatch, capsys):
    """run(command line) -> exit status, what it printed and what else was on the screen."""

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(console, "screen", io.StringIO())
        status = console.run(lambda: cli.main(shlex.split(line), prog_name="edge-hadanorm", standalone_mode=False))
        return status, capsys.readouterr().out, console.screen.getvalue()

    return run


def test_the_command_prints_that_and_writes_nothing(tiny_pipeline, tmp_path, run, monkeypatch):
    monkeypatch.setattr(dry_run, "resident_bytes", lambda: 700_000_000)
    before = sorted(tiny_pipeline.rglob("*"))
    line = f"quantize {tiny_pipeline} --recipe rtn-w8a8 --dry-run"
    printed = workflow.dry_run(str(tiny_pipeline), "rtn-w8a8") + "\n"
    assert run(line) == (0, printed, "")
    assert run(f"{line} --out {tmp_path / 'out'}") == (0, printed, "")
    assert not list(tmp_path.iterdir())
    assert sorted(tiny_pipeline.rglob("*")) == before


def damaged(name: str):
    """The transformer's file without a tensor, with one too many, or cut off."""

    def damage(folder) -> None:
        file = folder / "transformer/diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        if name == "missing":
            tensors.pop("proj_out.weight")
        if name == "unknown":
            tensors["x"] = torch.ones(1)
        save_file(tensors, file)
        if name == "truncated":
            file.write_bytes(file.read_bytes()[:-10])

    return damage


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (None, "--recipe rtn-w8a8", ["--out"]),
        (None, "--recipe magic-w8a8 --dry-run", ["magic-w8a8"]),
        (None, "--recipe rtn-w4a8-g48 --dry-run", ["48", "64 inputs", "blocks.0.attn1.qkv"]),
        (None, "--recipe svdquant-r32-w4a8 --average-bits 3 --dry-run", ["average_bits is 3"]),
        (None, "--inputs nosuch --dry-run", ["nosuch", "does not exist"]),
        (None, "--steps 0 --dry-run", ["steps", "0"]),
        (None, "--guidance nan --dry-run", ["--guidance is nan"]),
        (None, "--negative mauve --dry-run", ["'mauve'", "inspect"]),
        (None, "--scheduler magic --dry-run", ["'magic'", "no scheduler of diffusers"]),
        ("missing", "--dry-run", ["proj_out.weight", "missing"]),
        ("unknown", "--dry-run", ["unknown tensor 'x'"]),
        ("truncated", "--dry-run", ["truncated", "copy it again"]),
    ],
)
def test_a_mistake_is_answered_in_a_line(tiny_pipeline, tmp_path, run, damage, options, words):
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline, folder)
    if damage:
        damaged(damage)(folder)
    status, printed, shown = run(f"quantize {folder} {options}")
    assert (status, printed) == (console.MISTAKE, "")
    assert len(shown.splitlines()) == 1
    assert all(word in shown for word in words), shown
