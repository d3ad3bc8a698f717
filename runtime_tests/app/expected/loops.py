"""Whole generations of small bundles of every form, recorded call by call.

The programs are no programs: their methods answer with random numbers, and what goes in and out of every call is
recorded. Java has to make the same calls with the same bits, and of their answers the same picture.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from edge_hadanorm import bundle
from edge_hadanorm.bundle.runner import BundleRunner, Method
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines import drawing
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.pictures import save_png, to_pixels
from edge_hadanorm.pipelines.sampling import probe
from edge_hadanorm.tensor_files import write_tensors
from runtime_tests.app.expected.files import numbers, write
from runtime_tests.app.expected.vocabularies import REFERENCE

SCHEDULER = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.5)
STEPS = (1, 2, 4, 8)
LENGTH, WIDTH = 8, 6
Signatures = dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Form:
    """A kind of bundle. encoders: names of what each gives, by role; masked: those that take a mask.

    given: shapes of what `prepare` takes. tile, scale: of the decoder; None: latents are pixels.
    """

    latents: tuple[int, int, int]
    prompts: tuple[str, ...]
    given: dict[str, tuple[int, ...]]
    encoders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    masked: tuple[str, ...] = ()
    lower: bool = False
    prefix: str = ""
    labels: dict[str, int] | None = None
    embedded: tuple[str, ...] = ()
    tile: int | None = None
    scale: int = 1
    scheduler: object = SCHEDULER
    wrong: tuple[str, ...] = ()


TEXT, POOLED, MASK = (2, LENGTH, WIDTH), (2, WIDTH), (2, LENGTH)
FORMS = {
    "pixels": Form(
        (3, 16, 16), ("grinning face", "", "Red  APPLE!"), {"text": TEXT}, {"text_encoder": ("text",)},
        wrong=("a zeppelin", "face " * 9),
    ),
    "grey": Form((1, 5, 9), ("red apple",), {"text": TEXT}, {"text_encoder": ("text",)}),
    "masked": Form(
        (4, 8, 8), ("  Red APPLE \t",), {"mask": MASK, "text": TEXT}, {"text_encoder": ("text",)},
        masked=("text_encoder",), lower=True, prefix="red face ", tile=8, scale=2,
    ),
    "three": Form(
        (4, 10, 24), ("red apple", ""),
        {"pooled_2": POOLED, "text_3": TEXT, "text": TEXT, "mask_3": MASK},
        {"text_encoder": ("text", "pooled"), "text_encoder_2": ("text_2", "pooled_2"), "text_encoder_3": ("text_3",)},
        masked=("text_encoder_3",), tile=10, scale=3, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ),
    "labels": Form(
        (4, 21, 13), ("finch", "", "tench, Tinca tinca"), {"label": (2,)}, tile=8, scale=2,
        labels={"tench, Tinca tinca": 0, "finch": 12, "jay": 17}, wrong=("Finch", "unicorn"),
    ),
    "embedded": Form(
        (2, 8, 8), ("a cat", "two dogs, running", ""), {"text": TEXT, "mask": MASK},
        embedded=("a cat", "two dogs, running"), tile=5, scale=1, wrong=("a cat ", "A cat"),
    ),
}  # fmt: skip


def make(folder: Path) -> None:
    for name, form in FORMS.items():
        (folder / name).mkdir()
        _make(folder / name, form)


def _make(folder: Path, form: Form) -> None:
    source = folder / "bundle"
    (source / "golden").mkdir(parents=True)
    written, programs = _bundle(source, form), _signatures(form)
    cases = []
    for i, (prompt, steps) in enumerate((prompt, steps) for prompt in form.prompts for steps in STEPS):
        guidance = (1.5, 1, 4.1, 0)[i % 4]
        request = {"prompt": prompt, "seed": (0, 7, 2**63 - 1)[i % 3], "steps": steps, "guidance": guidance}
        cases.append(_drawn(folder, f"{i}", written, programs, request))
    golden = cases[0]["request"] | {"file": "golden/picture.png", "psnr_db": 40.0}
    shutil.copy(folder / "0.png", source / "golden/picture.png")
    bundle.write_manifest(source, written.manifest | {"golden": golden})
    refused = [cases[0]["request"] | change for change in (
        {"guidance": -0.5}, {"guidance": 101}, {"steps": 3}, {"seed": -1}, *({"prompt": text} for text in form.wrong)
    )]  # fmt: skip
    refusals = [{"request": request, "refusal": _refusal(written, programs, request)} for request in refused]
    write(folder / "cases.json", {"cases": cases, "refusals": refusals})


def _drawn(folder: Path, name: str, written: bundle.Bundle, programs: dict[str, Signatures], request: dict) -> dict:
    calls = []

    def record(role: str, method: str, outputs: Signatures) -> Method:
        def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            generator = torch.Generator().manual_seed(1000 * len(calls) + steps)
            answers = [torch.randn(tensor.shape, generator=generator) for tensor in outputs.values()]
            both = {"inputs": inputs, "outputs": answers}
            stem = f"{name}.{len(calls)}"
            calls.append(
                {"file": written.programs[role]["file"], "method": method}
                | {key: [_saved(folder, f"{stem}.{key}{i}", t) for i, t in enumerate(both[key])] for key in both}
            )
            return answers

        return run

    steps, table = request["steps"], written.table(request["steps"])
    drawn = drawing.picture(
        _runner(written, programs, record), request["prompt"], table, request["guidance"], request["seed"]
    )
    if drawn.shape[0] == 1:
        drawn = drawn.expand(3, -1, -1)
    save_png(drawn, folder / f"{name}.png")
    return {
        "request": request,
        "calls": calls,
        "pixels": numbers(folder / f"{name}.pixels", to_pixels(drawn).long()),
        "shape": list(drawn.shape),
    }


def _refusal(written: bundle.Bundle, programs: dict[str, Signatures], request: dict) -> str:
    def blank(role: str, method: str, outputs: Signatures) -> Method:
        return lambda inputs: [torch.zeros(tensor.shape) for tensor in outputs.values()]

    try:
        normal(request["seed"], 1)
        table = written.table(request["steps"])
        runner = _runner(written, programs, blank)
        drawing.picture(runner, request["prompt"], table, request["guidance"], request["seed"])
    except UserError as error:
        return str(error)
    raise AssertionError(f"{request} is not refused")


def _runner(written: bundle.Bundle, programs: dict[str, Signatures], run: Callable[..., Method]) -> BundleRunner:
    methods = {
        (role, method): run(role, method, outputs)
        for role, entry in programs.items()
        for method, (_, outputs) in entry.items()
    }
    return BundleRunner(written, methods)


def _saved(folder: Path, name: str, tensor: torch.Tensor) -> dict:
    file = numbers(folder / name, tensor.detach())
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "file": file}


def _signatures(form: Form) -> dict[str, Signatures]:
    """(inputs, outputs) by method by role."""
    given = {name: torch.zeros(shape) for name, shape in form.given.items()}
    conditioning = {"conditioning.0": torch.zeros(2, 3, 5), "conditioning.1": torch.zeros(2, 4)}
    latents, timestep = torch.zeros(2, *form.latents), torch.zeros(1)
    programs = {
        "denoiser": {
            "prepare": (given, conditioning),
            "denoise": ({"latents": latents, "timestep": timestep, **conditioning}, {"prediction": latents}),
        }
    }
    for role, names in form.encoders.items():
        inputs = {"ids": torch.zeros(2, LENGTH, dtype=torch.int64)}
        inputs |= {"mask": torch.zeros(2, LENGTH)} if role in form.masked else {}
        outputs = {name: torch.zeros(POOLED if name.startswith("pooled") else TEXT) for name in names}
        programs[role] = {"encode": (inputs, outputs)}
    if form.tile:
        tile = torch.zeros(1, form.latents[0], form.tile, form.tile)
        picture = torch.zeros(1, 3, form.tile * form.scale, form.tile * form.scale)
        programs[bundle.DECODER] = {"decode": ({"latents": tile}, {"picture": picture})}
    return programs


def _bundle(folder: Path, form: Form) -> bundle.Bundle:
    """The bundle's folder, its programs any bytes."""
    programs = {}
    for role, methods in _signatures(form).items():
        (folder / f"{role}.pte").write_bytes(role.encode())
        signatures = {name: bundle.signature(*both) for name, both in methods.items()}
        programs[role] = {"file": f"{role}.pte", "methods": signatures}
    for role in form.encoders:
        shutil.copy(REFERENCE / "tokenizer/tokenizer.json", folder / f"{role}.tokenizer.json")
    if form.embedded:
        generator = torch.Generator().manual_seed(3)
        rows = (1 + len(form.embedded),)
        carried = {name: torch.randn(rows + shape[1:], generator=generator) for name, shape in form.given.items()}
        write_tensors(folder / "prompts.safetensors", carried)
    (folder / "golden/picture.png").write_bytes(b"to come")
    _, height, width = form.latents
    return bundle.write_manifest(
        folder,
        {
            "schema": bundle.SCHEMA,
            "generator": "edge-hadanorm",
            "target": "xnnpack",
            "family": "PixArtTransformer2DModel",
            "recipe": "hadanorm-w8a8",
            "image": {"width": width * form.scale, "height": height * form.scale, "channels": 3},
            "latents": {"shape": list(form.latents)},
            "programs": programs,
            "prompt": {
                "encoders": {
                    role: {
                        "tokenizer": f"{role}.tokenizer.json",
                        "length": LENGTH,
                        "pad_id": 0,
                        "unknown_id": 1,
                        "prefix": form.prefix,
                    }
                    for role in form.encoders
                },
                "lower": form.lower,
                "labels": form.labels,
                "embedded": {"file": "prompts.safetensors", "prompts": list(form.embedded)} if form.embedded else None,
            },
            "sampling": {
                "steps": 4,
                "guidance": 1.5,
                "tables": {str(steps): probe(form.scheduler, steps).to_json() for steps in STEPS},
            },
            "noise": bundle.NOISE,
            "golden": None,
            "simulation": None,
            "licence": "Apache-2.0",
        },
    )
