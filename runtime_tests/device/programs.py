"""The programs that machines are compared on, with inputs and what the simulation makes of them.

linear RECIPE [block N]    1152 to 1152 on 256 tokens with outliers, the whole transform online
exact W                    every W-bit code on integer tokens: the product is a whole number, exactly
family NAME                a step of the tiny member of `families.py`, with one block of each kind
block NAME                 a step of `bench`'s PixArt of 1152 features with one block on 256 tokens, ours and stock
reference RECIPE           a step of the embedded model, of its bundle
"""

import dataclasses
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

import edge_hadanorm
from edge_hadanorm import bundle, checkpoint, exporters, files, workflow
from edge_hadanorm.bench.case import Case
from edge_hadanorm.bench.contenders import edge_program, executorch_stock
from edge_hadanorm.exporters.component import Denoise
from edge_hadanorm.exporters.writer import write_bundle
from edge_hadanorm.exporters.xnnpack.program import export
from edge_hadanorm.exporters.xnnpack.target import lower
from edge_hadanorm.method.fold import Folding
from edge_hadanorm.method.grids import Grid
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import Recipe, named
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.trajectories import calibration_prompts
from edge_hadanorm.quantization.calibration import Moments, calibrate
from edge_hadanorm.quantization.quantize import build_transform, quantize, quantize_linear
from edge_hadanorm.tensor_files import read_tensors, write_tensors
from runtime_tests.device.toolchain import CACHE, kept
from runtime_tests.support.families import FAMILIES, last
from runtime_tests.support.helpers import randn

WIDTH, TOKENS, BLOCKS = 1152, 256, (16, 64, 128)
METHODS = ("rtn", "hadanorm", "hadanorm-folded")
FORMS = ("w8a8", "w4a8", "w4a8-g32")
STOCK = {"stock-8da8w": "8da8w", "stock-8da4w": "8da4w"}
FAMILY_RECIPE = "hadanorm-w8a8"
REFERENCE_STEPS, SEED = 4, 7
CASE = Case(blocks=1, tokens=256)
WEEK = 7 * 24 * 3600


@dataclass(frozen=True)
class Subject:
    """A method of a program, its inputs, and what it should give, float32: simulated, of a block the float model's."""

    file: Path
    method: str
    inputs: list[np.ndarray]
    expected: np.ndarray


# The packages that programs are made by, and files beside them that only show something.
MAKING = ("method", "models", "quantization", "pipelines", "bundle", "workflow", "reference", "bench")
SHOWING = ("cli.py", "console.py", "demo.py", "progress.py", "tables.py", "__init__.py")


@cache
def workshop(folder: Path = CACHE) -> Path:
    """Where programs are kept, until the code that they are made by changes. Those of a week ago are forgotten."""
    for old in folder.glob("programs-*"):
        if time.time() - old.stat().st_mtime > WEEK:
            shutil.rmtree(old, ignore_errors=True)
    here = Path(__file__).resolve()
    root, export = Path(edge_hadanorm.__file__).parent, Path(exporters.__file__).parent
    folders = [*(root / name for name in MAKING), export]
    sources = {path for folder in folders for path in folder.rglob("*.py")}
    sources |= {here, here.parents[1] / "support/families.py", *root.glob("*.py")} - {root / name for name in SHOWING}
    digest = hashlib.blake2b("".join(map(version, ("executorch", "torch"))).encode(), digest_size=8)
    for file in sorted(sources):
        digest.update(file.read_bytes())
    return folder / f"programs-{digest.hexdigest()}"


def subject(name: str, folder: Path | None = None) -> Subject:
    """The program of a name in SUBJECTS, made if it is not there."""
    home = kept((folder or workshop()) / name.replace(" ", "-"), partial(_make, name))
    about, tensors = files.read_json(home / "subject.json", "subject"), read_tensors(home / "tensors.safetensors")
    inputs = [tensors[f"input.{i}"].numpy() for i in range(len(tensors) - 1)]
    return Subject(home / about["file"], about["method"], inputs, tensors["expected"].numpy())


def _make(name: str, home: Path) -> None:
    with torch.no_grad():
        made = SUBJECTS[name](home)
    tensors = {f"input.{i}": tensor.contiguous() for i, tensor in enumerate(made.inputs)}
    write_tensors(home / "tensors.safetensors", tensors | {"expected": made.expected})
    files.write_json(home / "subject.json", {"file": made.file, "method": made.method})


def reference_bundle(recipe: str, folder: Path | None = None) -> bundle.Bundle:
    """The bundle that `reference RECIPE` is a step of."""
    return bundle.load(subject(f"reference {recipe}", folder).file.parent)


@dataclass(frozen=True)
class _Made:
    """What a builder leaves in its folder: a program by its path there."""

    file: str
    method: str
    inputs: list[torch.Tensor]
    expected: torch.Tensor


def _linear(folder: Path, recipe: Recipe) -> _Made:
    x = (randn(TOKENS, WIDTH) + 2 * randn(WIDTH, seed=1)) * randn(WIDTH, seed=2).exp()
    moments = Moments(WIDTH)
    moments.update(x[None])
    linear = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
    linear.weight.copy_(randn(WIDTH, WIDTH, seed=3) / WIDTH**0.5)
    linear.bias.copy_(randn(WIDTH, seed=4))
    transform = build_transform(recipe, moments, linear.weight)
    return _simulated(folder, quantize_linear(recipe, Folding(FeatureTransform(), transform), linear), x[None].float())


def _exact(folder: Path, bits: int) -> _Made:
    """Tokens from -128 to 127, so of scale 1; products stay below 2^24, which float32 counts to."""
    grid, generator = Grid(bits, symmetric=True), torch.Generator().manual_seed(bits)
    codes = torch.randint(grid.qmin, grid.qmax + 1, (96, 256), generator=generator).to(torch.int8)
    x = torch.randint(-128, 128, (1, 33, 256), generator=generator).float()
    x[..., :2] = torch.tensor([-128.0, 127.0])
    linear = QuantizedLinear(named(f"rtn-w{bits}a8"), FeatureTransform(), codes, torch.ones(96, 1), None)
    made = _simulated(folder, linear, x)
    return dataclasses.replace(made, expected=(x.long() @ codes.long().T).float())


def _simulated(folder: Path, module: nn.Module, x: torch.Tensor) -> _Made:
    program, _ = lower({"forward": export(nn.Sequential(module), (x,))})
    (folder / "linear.pte").write_bytes(program.buffer)
    return _Made("linear.pte", "forward", [x], module(x))


def _family(folder: Path, name: str) -> _Made:
    family = FAMILIES[name]
    layers = {key: 1 for key in family.config if key.startswith("num_") and key.endswith("_layers")}
    family = dataclasses.replace(family, config=family.config | layers)
    with tempfile.TemporaryDirectory() as scratch:
        denoiser = loading.load(str(family.save(Path(scratch) / "transformer"))).denoiser

    def call(seed: int, timestep: float) -> Inputs:
        made = last(family.call(denoiser, seed, timestep=timestep))
        prompt = {name: tensor.float() for name, tensor in made.prompt.items()}
        return Inputs(made.latents.float(), made.timestep.float(), prompt)

    calls = [call(20 * i, timestep) for i, timestep in enumerate((900.0, 500.0, 100.0))]
    moments = calibrate(denoiser, [partial(inputs.run, denoiser) for inputs in calls])
    return _step(folder, quantize(denoiser, named(FAMILY_RECIPE), moments), call(80, 412.5))


def _step(folder: Path, denoiser: nn.Module, inputs: Inputs) -> _Made:
    conditioning = [tensor.contiguous() for tensor in denoiser.prepare(**inputs.prompt)]
    given = (inputs.latents, inputs.timestep, conditioning)
    program, _ = lower({"denoise": export(Denoise(denoiser), given)})
    (folder / "denoiser.pte").write_bytes(program.buffer)
    return _Made("denoiser.pte", "denoise", [*given[:2], *conditioning], denoiser.denoise(*given))


def _block(folder: Path, name: str) -> _Made:
    exact = CASE.transformer(*CASE.arguments)
    if name in STOCK:
        executorch_stock(CASE, 1, folder, STOCK[name])
        return _Made(next(folder.glob("*.pte")).name, "forward", list(CASE.arguments), exact)
    file, inputs = edge_program(CASE, folder, name)
    return _Made(file.name, "denoise", inputs, exact[:, : inputs[0].shape[1]])  # ours leaves out the learned variance


def _reference(folder: Path, recipe: str) -> _Made:
    model = loading.load("reference")
    prompts = calibration_prompts(model)[::4]
    workflow.quantize("reference", recipe, folder / "checkpoint", prompts, steps=REFERENCE_STEPS)
    (folder / "bundle").mkdir()
    saved = checkpoint.load(folder / "checkpoint")
    write_bundle(folder / "bundle", folder / "checkpoint", saved, "xnnpack")
    latents = torch.from_numpy(normal(SEED, (1, *saved.denoiser.latent_shape())))
    inputs = Inputs(latents, torch.tensor([500.0]), model.pipeline.prompt(prompts[0]))
    conditioning = [tensor.contiguous() for tensor in saved.denoiser.prepare(**inputs.prompt)]
    given = [inputs.latents, inputs.timestep, *conditioning]
    return _Made("bundle/denoiser.pte", "denoise", given, inputs.run(saved.denoiser))


LINEARS = [named(f"{method}-{form}") for form in FORMS for method in METHODS] + [named("svdquant-r32-w4a8")]
LINEARS_BY_BLOCK = {block: dataclasses.replace(named("hadanorm-w8a8"), block=block) for block in BLOCKS}
# A block or the reference model takes a minute to make.
STEPS = ("rtn-w8a8", "hadanorm-w8a8", "hadanorm-folded-w8a8", "rtn-w4a8", "hadanorm-w4a8")
REFERENCE = ("rtn-w8a8", "hadanorm-w8a8", "hadanorm-w4a8")
SUBJECTS: dict[str, Callable[[Path], _Made]] = {
    **{f"linear {recipe.name}": partial(_linear, recipe=recipe) for recipe in LINEARS},
    **{f"linear {recipe.name} block {n}": partial(_linear, recipe=recipe) for n, recipe in LINEARS_BY_BLOCK.items()},
    **{f"exact {bits}": partial(_exact, bits=bits) for bits in (8, 4)},
    **{f"family {name}": partial(_family, name=name) for name in FAMILIES},
    **{f"block {name}": partial(_block, name=name) for name in (*STEPS, *STOCK)},
    **{f"reference {recipe}": partial(_reference, recipe=recipe) for recipe in REFERENCE},
}
