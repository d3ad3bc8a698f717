"""Generations of a bundle of two sizes, recorded as those of loops.py: at either it is a bundle of that size alone.

What its programs have for the other size are methods of names of their own, which no other bundle has.
"""

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from diffusers import DPMSolverMultistepScheduler

from edge_hadanorm import bundle
from runtime_tests.app.expected import loops
from runtime_tests.app.expected.files import write
from runtime_tests.app.originals import Begin

FORM = replace(loops.FORMS["masked"], small=(6, 7), no_begins=())
SCHEDULER = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
# Its plans are others, and fewer.
OTHER = replace(
    FORM,
    latents=(4, 9, 16),
    tile=(6, 7),
    small=(5, 5),
    begins=(("4", Begin(0.6)), ("4", Begin(1.0, masked=True))),
    plans=lambda: {"4": loops.scheduled(SCHEDULER)["4"]},
)
NAME = "32x18"
ALONE = {
    "denoiser": ("denoise",),
    bundle.DECODER: ("decode", bundle.SMALL),
    bundle.IMAGE_ENCODER: ("encode",),
}


def make(folder: Path) -> None:
    usual, other = (_single(folder / name, form) for name, form in (("bundle", FORM), ("other", OTHER)))
    cases = [
        loops.drawn(folder, f"{written.folder.name}.{i}", written, loops.signatures(form), request)
        | {"size": "{}x{}".format(*written.image_size)}
        for written, form in ((usual, FORM), (other, OTHER))
        for i, request in enumerate(loops.asked(form, written))
    ]
    for call in (call for case in cases if case["size"] == NAME for call in case["calls"]):
        if call["method"] in ALONE.get(Path(call["file"]).stem, ()):
            call["method"] = _named(call["method"])
    shutil.copy(folder / "bundle.0.png", usual.folder / "golden/picture.png")
    golden = cases[0]["request"] | {"file": "golden/picture.png", "psnr_db": 40.0}
    bundle.write_manifest(usual.folder, _both(usual.manifest | {"golden": golden}, other.manifest))
    memory = {"{}x{}".format(*each.image_size): loops.memory(each.manifest) for each in (usual, other)}
    write(folder / "memory.json", memory)
    write(folder / "cases.json", {"cases": cases, "refusals": []})


def _single(folder: Path, form: loops.Form) -> bundle.Bundle:
    (folder / "golden").mkdir(parents=True)
    return loops.bundled(folder, form)


def _both(manifest: dict, other: dict) -> dict:
    """The manifest of a bundle with what another has at its size."""
    manifest = deepcopy(manifest)
    for role, names in ALONE.items():
        methods = other["programs"][role]["methods"]
        manifest["programs"][role]["methods"] |= {_named(name): methods[name] for name in names}
    size = {
        "image": other["image"],
        "latents": other["latents"],
        "methods": {role: {name: _named(name) for name in names} for role, names in ALONE.items()},
        "plans": other["sampling"]["plans"],
    }
    return manifest | {"sizes": {NAME: size}}


def _named(method: str) -> str:
    return f"{method}_{NAME}"
