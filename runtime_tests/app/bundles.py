"""Bundles that the app is run on: of the embedded model, and of tiny random pipelines with all that a prompt can be."""

import hashlib
from functools import partial
from pathlib import Path

from edge_hadanorm import bundle, checkpoint, workflow
from edge_hadanorm.bundle import Bundle
from edge_hadanorm.exporters import writer
from edge_hadanorm.exporters.targets import Options
from runtime_tests.device.programs import reference_bundle, workshop
from runtime_tests.device.toolchain import kept
from runtime_tests.support import tiny_pipelines
from runtime_tests.support.tiny_pipelines import save

REFERENCE = ("hadanorm-w8a8", "hadanorm-w4a8")
RECIPE = "rtn-w8a8"
PROMPT = {"pixart": "a red cat", "sd3": "a red cat", "sana": "a red cat", "dit": "tench", "embedded": "a red cat"}
# A text encoder and tiles, and a scheduler that draws noise; three text encoders, and guidance in some of the steps;
# an instruction before the prompt; classes; prompts that were encoded before.
PIPELINES: dict[str, tuple[str, Options, dict]] = {
    "pixart": ("pixart", Options(tile=4), {"scheduler": "LCMScheduler", "negative": "a blue house"}),
    "sd3": ("sd3", Options(guided=(0.3, 0.7)), {}),
    "sana": ("sana", Options(), {"negative": "two green trees"}),
    "dit": ("dit", Options(), {"negative": "goldfish"}),
    "embedded": ("pixart", Options(prompts=("a red cat", "a blue house")), {"negative": "two green trees"}),
}


def made(name: str) -> Bundle:
    """The bundle of a recipe in REFERENCE or of a name in PIPELINES, made if it is not there."""
    return reference_bundle(name) if name in REFERENCE else _tiny(name)


def _tiny(name: str) -> Bundle:
    here = Path(__file__).resolve()
    digest = hashlib.blake2b(digest_size=4)
    for file in (here, Path(tiny_pipelines.__file__)):
        digest.update(file.read_bytes())
    home = kept(workshop() / f"pipeline-{name}-{digest.hexdigest()}", partial(_make, name))
    return bundle.load(home / "bundle")


def _make(name: str, folder: Path) -> None:
    pipeline, options, defaults = PIPELINES[name]
    model = save(pipeline, folder / "model")
    workflow.quantize(str(model), RECIPE, folder / "checkpoint", [PROMPT[name]], steps=1, **defaults)
    saved = checkpoint.load(folder / "checkpoint")
    (folder / "bundle").mkdir()
    writer.write_bundle(folder / "bundle", folder / "checkpoint", saved, "xnnpack", options=options)
