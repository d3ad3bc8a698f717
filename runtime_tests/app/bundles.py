"""Bundles that the app is run on: of the embedded model, and of tiny random pipelines with all that a prompt can be."""

import hashlib
import shutil
from functools import partial
from pathlib import Path

from diffusers import FlowMatchLCMScheduler

from edge_hadanorm import bundle, checkpoint, workflow
from edge_hadanorm.bundle import Bundle
from edge_hadanorm.exporters import writer
from edge_hadanorm.exporters.targets import Options
from edge_hadanorm.pipelines.probing import probe
from runtime_tests.device.programs import reference_bundle, workshop
from runtime_tests.device.toolchain import kept
from runtime_tests.support import tiny_pipelines
from runtime_tests.support.tiny_pipelines import save

REFERENCE = ("hadanorm-w8a8", "hadanorm-w4a8")
# The first of them with one more plan, whose sampler draws noise in every step.
STOCHASTIC, NOISY = "hadanorm-w8a8-lcm", "lcm 4"
RECIPE = "rtn-w8a8"
PROMPT = {"pixart": "a red cat", "sd3": "a red cat", "sana": "a red cat", "dit": "tench", "embedded": "a red cat"}
# A text encoder, both image coders in tiles, and a scheduler that draws noise; three text encoders, and guidance in
# some of the steps; an instruction before the prompt; classes; prompts that were encoded before.
PIPELINES: dict[str, tuple[str, Options, dict]] = {
    "pixart": ("pixart", Options(tile=4, encoder=True), {"scheduler": "LCMScheduler", "negative": "a blue house"}),
    "sd3": ("sd3", Options(guided=(0.3, 0.7)), {}),
    "sana": ("sana", Options(encoder=True), {"negative": "two green trees"}),
    "dit": ("dit", Options(), {"negative": "goldfish"}),
    "embedded": ("pixart", Options(prompts=("a red cat", "a blue house")), {"negative": "two green trees"}),
}


def made(name: str) -> Bundle:
    """The bundle of a recipe in REFERENCE, STOCHASTIC, or of a name in PIPELINES, made if it is not there."""
    if name in REFERENCE:
        return reference_bundle(name)
    make = _make_stochastic if name == STOCHASTIC else partial(_make, name)
    here = Path(__file__).resolve()
    digest = hashlib.blake2b(digest_size=4)
    for file in (here, Path(tiny_pipelines.__file__)):
        digest.update(file.read_bytes())
    home = kept(workshop() / f"pipeline-{name}-{digest.hexdigest()}", make)
    return bundle.load(home / "bundle")


def _make_stochastic(folder: Path) -> None:
    source = reference_bundle(REFERENCE[0])
    shutil.copytree(source.folder, folder / "bundle")
    plans = source.sampling["plans"] | {NOISY: probe(FlowMatchLCMScheduler(shift=1.5), 4).to_json()}
    sampling = source.sampling | {"plans": plans}
    bundle.write_manifest(folder / "bundle", source.manifest | {"sampling": sampling})


def _make(name: str, folder: Path) -> None:
    pipeline, options, defaults = PIPELINES[name]
    model = save(pipeline, folder / "model")
    workflow.quantize(str(model), RECIPE, folder / "checkpoint", [PROMPT[name]], steps=1, **defaults)
    saved = checkpoint.load(folder / "checkpoint")
    (folder / "bundle").mkdir()
    writer.write_bundle(folder / "bundle", folder / "checkpoint", saved, "xnnpack", options=options)
