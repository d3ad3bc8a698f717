"""Whole generations of small bundles of every form, recorded call by call.

The programs are no programs: their methods answer with random numbers, and what goes in and out of every call is
recorded. Java has to make the same calls with the same bits, and of their answers the same picture.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

from edge_hadanorm import bundle
from edge_hadanorm.bundle.memory import memory_of
from edge_hadanorm.bundle.runner import BundleRunner, Method
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines import drawing
from edge_hadanorm.pipelines.drawing import Wish
from edge_hadanorm.pipelines.pictures import save_png, to_pixels
from edge_hadanorm.pipelines.plans import Plan
from edge_hadanorm.pipelines.probing import probe, with_starts
from edge_hadanorm.pipelines.tiles import Window
from edge_hadanorm.tensor_files import write_tensors
from runtime_tests.app import originals
from runtime_tests.app.expected import plans
from runtime_tests.app.expected.files import numbers, write
from runtime_tests.app.expected.vocabularies import REFERENCE
from runtime_tests.app.originals import Begin
from runtime_tests.app.parity import by_program

SCHEDULER = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.5)
LENGTH, KEPT, WIDTH = 8, 4, 6
# Of the ids after an instruction, and of all of a negative prompt.
PLACES = {"prompt": [0, 5, 6, 7], "negative": [0, 1, 2, 3]}
# Bytes of methods' activations: decoding takes more than steps, and smaller tiles less.
ACTIVATIONS: dict[object, int] = {
    ("denoiser", "denoise"): 2_000_000,
    (bundle.DECODER, "decode"): 3_000_000,
    (bundle.DECODER, bundle.SMALL): 1_500_000,
    (bundle.IMAGE_ENCODER, "encode"): 4_000_000,
    "others": 400_000,
}
GUIDANCES, SEEDS = (1.5, 1, 4.1, 0), (0, 7, 2**63 - 1)
Signatures = dict[str, dict[str, torch.Tensor]]


def scheduled(scheduler: object) -> dict[str, Plan]:
    return {str(steps): with_starts(probe(scheduler, steps), scheduler, steps) for steps in (1, 2, 4, 8)}


def _others() -> dict[str, Plan]:
    """Plans that draw noise, that have guidance in some of their steps, and that were made for one guidance."""
    lcm = {str(steps): probe(LCMScheduler(clip_sample=False), steps) for steps in (4, 12, 2)}
    own = {"own": plans.own(), "own guidance": replace(plans.own(), guidance=plans.OWN)}
    return {"some guided": probe(SCHEDULER, 4).guided_between(0.25, 0.75), **lcm, **own}


@dataclass(frozen=True)
class Form:
    """A kind of bundle. encoders: names of what each gives, by role; masked: those that take a mask.

    given: shapes of what `prepare` takes. kept: whether encoders give the states of KEPT places. negatives: in turns,
    of cases with guidance. carried: the negative prompts that are embedded. tile, scale: the decoder's window of
    latents, and pixels a side of one; no tile: latents are pixels. small: that of its method for smaller tiles, where
    it has one; then its other one fails at the second tile. encoder: whether there is an image encoder. begins: plans
    that pictures are begun with, and how; refused are those of no_begins. planned: whether the system plans
    activations. wrong, wrong_negatives: what is refused.
    """

    latents: tuple[int, int, int]
    prompts: tuple[str, ...]
    given: dict[str, tuple[int, ...]]
    encoders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    negatives: tuple[str, ...] = ("",)
    masked: tuple[str, ...] = ()
    lower: bool = False
    prefix: str = ""
    kept: bool = False
    labels: dict[str, int] | None = None
    embedded: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    tile: Window | None = None
    small: Window | None = None
    scale: int = 1
    encoder: bool = False
    begins: tuple[tuple[str, Begin], ...] = ()
    no_begins: tuple[tuple[str, Begin], ...] = ()
    planned: bool = False
    plans: Callable[[], dict[str, Plan]] = lambda: scheduled(SCHEDULER)
    wrong: tuple[str, ...] = ()
    wrong_negatives: tuple[str, ...] = ()


TEXT, POOLED, MASK = (1, LENGTH, WIDTH), (1, WIDTH), (1, LENGTH)
BEGINS = (("8", Begin(0.6)), ("4", Begin(1.0, masked=True)), ("8", Begin(0.3, masked=True)), ("1", Begin(0.05)))
NO_BEGINS = (("8", Begin(0.0)), ("4", Begin(1.5)), ("8", Begin(-0.5)))
FORMS = {
    "pixels": Form(
        (3, 16, 16), ("grinning face", "", "Red  APPLE!"), {"text": TEXT}, {"text_encoder": ("text",)},
        negatives=("", "red", "face, apple"), wrong=("a zeppelin", "face " * 9), wrong_negatives=("a zeppelin",),
        begins=BEGINS, no_begins=NO_BEGINS,
    ),
    "grey": Form((1, 5, 9), ("red apple",), {"text": TEXT}, {"text_encoder": ("text",)}, planned=True),
    "masked": Form(
        (4, 12, 14), ("  Red APPLE \t",), {"mask": MASK, "text": TEXT}, {"text_encoder": ("text",)},
        negatives=(" Grinning FACE",), masked=("text_encoder",), lower=True, prefix="red face ", tile=(12, 14), scale=2,
        encoder=True, begins=BEGINS, no_begins=NO_BEGINS, wrong=("face " * 7,), wrong_negatives=("face " * 9,),
    ),
    "kept": Form(
        (3, 6, 8), ("red apple", ""), {"mask": (1, KEPT), "text": (1, KEPT, WIDTH)},
        {"text_encoder": ("text", "mask")}, negatives=("face", ""), masked=("text_encoder",), prefix="red face ",
        kept=True, plans=_others, wrong=("face " * 7,), wrong_negatives=("red " * 5,),
        begins=(("4", Begin(0.6)), ("12", Begin(0.5, masked=True)), ("own", Begin(1.0))),
        no_begins=(("own", Begin(0.6)), ("own", Begin(1.0, masked=True)), ("own guidance", Begin(0.2))),
    ),
    "three": Form(
        (4, 10, 24), ("red apple", ""),
        {"pooled_2": POOLED, "text_3": TEXT, "text": TEXT, "mask_3": MASK},
        {"text_encoder": ("text", "pooled"), "text_encoder_2": ("text_2", "pooled_2"), "text_encoder_3": ("text_3",)},
        negatives=("face", ""), masked=("text_encoder_3",), tile=(10, 10), scale=3, small=(6, 9),
        plans=lambda: scheduled(FlowMatchEulerDiscreteScheduler(shift=3.0)), no_begins=(("8", Begin(0.6)),),
    ),
    "labels": Form(
        (4, 21, 13), ("finch", "", "tench, Tinca tinca"), {"label": (1,)}, negatives=("", "jay"), tile=(8, 6), scale=2,
        encoder=True, begins=BEGINS,
        labels={"tench, Tinca tinca": 0, "finch": 12, "jay": 17}, wrong=("Finch", "unicorn"),
        wrong_negatives=("Finch",),
    ),
    "embedded": Form(
        (2, 8, 8), ("a cat", "two dogs, running"), {"text": TEXT, "mask": MASK},
        negatives=("", "blurry"), embedded=("a cat", "two dogs, running"), carried=("blurry", ""), tile=(5, 5), scale=1,
        wrong=("a cat ", "A cat", "", "blurry"), wrong_negatives=("a cat",),
    ),
}  # fmt: skip


def make(folder: Path) -> None:
    for name, form in FORMS.items():
        (folder / name).mkdir()
        _make(folder / name, form)


def _make(folder: Path, form: Form) -> None:
    source = folder / "bundle"
    (source / "golden").mkdir(parents=True)
    written, programs = bundled(source, form), signatures(form)
    requests = asked(form, written)
    cases = [drawn(folder, f"{i}", written, programs, request) for i, request in enumerate(requests)]
    golden = cases[0]["request"] | {"file": "golden/picture.png", "psnr_db": 40.0}
    shutil.copy(folder / "0.png", source / "golden/picture.png")
    bundle.write_manifest(source, written.manifest | {"golden": golden})
    refused = [cases[0]["request"] | change for change in (
        {"guidance": -0.5}, {"guidance": 101}, {"plan": "3"}, {"seed": -1},
        *({"prompt": text} for text in form.wrong),
        *({"negative": text, "guidance": 1.5} for text in form.wrong_negatives),
        *({"plan": name, "guidance": 2} for name, plan in form.plans().items() if plan.guidance is not None),
    )]  # fmt: skip
    refused += [_begun(form, i, written, *each) for i, each in enumerate(form.no_begins, len(requests))]
    refusals = [{"request": request, "refusal": _refusal(written, programs, request)} for request in refused]
    write(folder / "memory.json", memory(written.manifest))
    write(folder / "cases.json", {"cases": cases, "refusals": refusals})


def asked(form: Form, written: bundle.Bundle) -> list[dict]:
    """Requests of every prompt by every plan, and of pictures that begin with others."""
    from_noise = [_request(form, i, *each) for i, each in enumerate(_pairs(form.prompts, written))]
    return from_noise + [_begun(form, i, written, *each) for i, each in enumerate(form.begins)]


def memory(manifest: dict) -> dict:
    """Bytes that each method takes, by role and name, and the peak of a picture from noise."""
    methods = {f"{role}.{name}": need.total() for (role, name), need in memory_of(manifest).items()}
    return {"methods": methods, "peak": bundle.peak_memory(manifest)}


def _pairs(prompts: tuple[str, ...], written: bundle.Bundle) -> list[tuple[str, str, Plan]]:
    return [(prompt, name, plan) for prompt in prompts for name, plan in written.plans.items()]


def _request(form: Form, index: int, prompt: str, name: str, plan: Plan) -> dict:
    guidance = GUIDANCES[index % len(GUIDANCES)] if plan.guidance is None else plan.guidance
    negatives = form.negatives
    if not any("negative" in step.predicted for step in plan.at(guidance)):
        negatives = form.wrong_negatives or negatives  # nobody reads it
    return {
        "prompt": prompt,
        "negative": negatives[index // 2 % len(negatives)],
        "seed": SEEDS[index % len(SEEDS)],
        "plan": name,
        "guidance": guidance,
    }


def _begun(form: Form, index: int, written: bundle.Bundle, name: str, begin: Begin) -> dict:
    """A request of a picture that begins with another."""
    request = _request(form, index, form.prompts[0], name, written.plan(name))
    folder = written.folder.parent
    _, found = originals.made(folder, f"original-{written.image_size[0]}-{index}", written.image_size, begin, index)
    return request | {"negative": form.negatives[0], "original": found}


def _wish(written: bundle.Bundle, request: dict) -> Wish:
    plan = written.plan(request["plan"])
    wish = Wish(request["prompt"], plan, request["guidance"], request["seed"], request["negative"])
    if (found := request.get("original")) is None:
        return wish
    original = originals.read(written.folder.parent, found, written.image_size)
    return replace(wish, plan=plan.begun(found["strength"]), original=original)


def drawn(folder: Path, name: str, written: bundle.Bundle, programs: dict[str, Signatures], request: dict) -> dict:
    """The request with every call, the tensors of which are left in a folder as the picture is, and the pixels."""
    calls, wish = [], _wish(written, request)

    def record(role: str, method: str, outputs: Signatures) -> Method:
        def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            generator = torch.Generator().manual_seed(1000 * len(calls) + wish.plan.steps)
            answers = [torch.randn(tensor.shape, generator=generator) for tensor in outputs.values()]
            fails = method == "decode" and bundle.SMALL in programs[role] and calls[-1]["method"] == method
            both = {"inputs": inputs} if fails else {"inputs": inputs, "outputs": answers}
            stem = f"{name}.{len(calls)}"
            calls.append(
                {"file": written.programs[role]["file"], "method": method, "outputs": None}
                | {key: [_saved(folder, f"{stem}.{key}{i}", t) for i, t in enumerate(both[key])] for key in both}
            )
            if fails:
                raise UserError("not enough memory")
            return answers

        return run

    picture = drawing.picture(_runner(written, programs, record), wish)
    if picture.shape[0] == 1:
        picture = picture.expand(3, -1, -1)
    save_png(picture, folder / f"{name}.png")
    return {
        "request": request,
        "calls": by_program(written, calls, itemgetter("file")),
        "pixels": numbers(folder / f"{name}.pixels", to_pixels(picture).long()),
        "shape": list(picture.shape),
    }


def _refusal(written: bundle.Bundle, programs: dict[str, Signatures], request: dict) -> str:
    def blank(role: str, method: str, outputs: Signatures) -> Method:
        return lambda inputs: [torch.zeros(tensor.shape) for tensor in outputs.values()]

    try:
        drawing.picture(_runner(written, programs, blank), _wish(written, request))
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


def signatures(form: Form) -> dict[str, Signatures]:
    """(inputs, outputs) by method by role of a form's programs."""
    given = {name: torch.zeros(shape) for name, shape in form.given.items()}
    conditioning = {"conditioning.0": torch.zeros(1, 3, 5), "conditioning.1": torch.zeros(1, 4)}
    latents, timestep = torch.zeros(1, *form.latents), torch.zeros(1)
    shapes = {"text": (1, KEPT, WIDTH), "mask": (1, KEPT)} if form.kept else {"text": TEXT, "pooled": POOLED}
    programs = {
        "denoiser": {
            "prepare": (given, conditioning),
            "denoise": ({"latents": latents, "timestep": timestep, **conditioning}, {"prediction": latents}),
        }
    }
    for role, names in form.encoders.items():
        inputs = {"ids": torch.zeros(1, LENGTH, dtype=torch.int64)}
        inputs |= {"mask": torch.zeros(MASK)} if role in form.masked else {}
        inputs |= {"kept": torch.zeros(KEPT, dtype=torch.int64)} if form.kept else {}
        outputs = {name: torch.zeros(shapes[name.partition("_")[0]]) for name in names}
        programs[role] = {"encode": (inputs, outputs)}
    if form.tile:
        tile, picture = _tile(form, form.tile)
        programs[bundle.DECODER] = {"decode": (tile, picture)}
        if form.small:
            programs[bundle.DECODER][bundle.SMALL] = _tile(form, form.small)
        if form.encoder:
            programs[bundle.IMAGE_ENCODER] = {"encode": (picture, tile)}
    return programs


def _tile(form: Form, window: Window) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What a decoder takes and gives of a window."""
    pixels = (side * form.scale for side in window)
    return {"latents": torch.zeros(1, form.latents[0], *window)}, {"picture": torch.zeros(1, 3, *pixels)}


def bundled(folder: Path, form: Form) -> bundle.Bundle:
    """The bundle of a form in a folder, its programs any bytes."""
    programs = {}
    for role, methods in signatures(form).items():
        (folder / f"{role}.pte").write_bytes(role.encode())
        described = {name: bundle.signature(*both) for name, both in methods.items()}
        for name, method in described.items():
            method["activations"] = None if form.planned else ACTIVATIONS.get((role, name), ACTIVATIONS["others"])
        programs[role] = {"file": f"{role}.pte", "methods": described}
    for role in form.encoders:
        shutil.copy(REFERENCE / "tokenizer/tokenizer.json", folder / f"{role}.tokenizer.json")
    if form.embedded:
        generator = torch.Generator().manual_seed(3)
        rows = (len(form.embedded) + len(form.carried),)
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
            "sizes": {},
            "programs": programs,
            "prompt": {
                "encoders": {
                    role: {
                        "tokenizer": f"{role}.tokenizer.json",
                        "length": LENGTH,
                        "pad_id": 0,
                        "unknown_id": 1,
                        "prefix": form.prefix,
                        "kept": PLACES if form.kept else None,
                    }
                    for role in form.encoders
                },
                "lower": form.lower,
                "labels": form.labels,
                "embedded": {
                    "file": "prompts.safetensors",
                    "prompts": list(form.embedded),
                    "negatives": list(form.carried),
                }
                if form.embedded
                else None,
            },
            "sampling": {
                "plan": "4",
                "guidance": 1.5,
                "negative": form.negatives[-1],
                "plans": {name: plan.to_json() for name, plan in form.plans().items()},
            },
            "noise": bundle.NOISE,
            "golden": None,
            "simulation": None,
            "licence": "Apache-2.0",
        },
    )
