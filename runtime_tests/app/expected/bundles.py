"""Bundles, good and spoilt in every way that the tests of bundles know, and what Python says of each."""

import base64
import json
import re
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_hadanorm.bundle import load
from edge_hadanorm.bundle.schema import DTYPES
from edge_hadanorm.errors import UserError
from runtime_tests.app.expected.files import write
from runtime_tests.support import manifests as known
from runtime_tests.support.mutations import changed

MUTATED, DAMAGED = 150, 60
# Numbers that no JSON has but Python's: Java says of them that they are not JSON.
PYTHONS_ALONE = re.compile(rb"NaN|Infinity")
# The same examples in every run.
FIXED = settings(derandomize=True, deadline=None, database=None, suppress_health_check=HealthCheck)


def make(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        good = known.make(Path(scratch) / "bundle")
        files = {name: base64.b64encode(content).decode() for name, content in known.FILES.items()}
        manifests = [text for text in (*_edited(good), *_mutated(), *_damaged()) if not PYTHONS_ALONE.search(text)]
        cases = [_manifest_case(good, text) for text in dict.fromkeys(manifests)]
    write(folder / "manifests.json", {"files": files, "cases": cases})


def _manifest_case(folder: Path, manifest: bytes) -> dict:
    """A manifest, and what is said of the example's files with it; `refusal` is null where they are a bundle."""
    (folder / "manifest.json").write_bytes(manifest)
    refusal = None
    try:
        load(folder)
    except UserError as error:
        refusal = str(error).replace(str(folder / "manifest.json"), "MANIFEST").replace(str(folder), "BUNDLE")
    return {"manifest": base64.b64encode(manifest).decode(), "refusal": refusal}


def _edited(folder: Path) -> Iterator[bytes]:
    """Every single edit that the tests of bundles make."""
    whole = known.read(folder)
    yield json.dumps(whole).encode()
    yield b"\xef\xbb\xbf" + json.dumps(whole).encode()
    edits = [*known.WRONG, *((key, ...) for key in (*known.example(), "files"))]
    edits += [(f"{known.INPUT}/0/dtype", dtype) for dtype in DTYPES]
    edits += [(place, path) for place in ("programs/denoiser/file", "golden/file", "simulation") for path in PATHS]
    edits += [("files", whole["files"] | {path: {"sha256": "0" * 64, "bytes": 0}}) for path in known.UNSAFE]
    edits += [("sampling/plans", {"8": known.plan(8), "4": known.plan(4), name: known.plan(8)}) for name in NAMES]
    plans = [(f"sampling/plans/20/{place}".rstrip("/"), value) for place, value, _ in [*known.BAD_PLANS, *PLANS]]
    edits += plans + [(f"sampling/plans/20/{place}", value) for place, value, _ in known.LONG_PLANS]
    edits += [("schema", schema) for schema in (0, 1, 2, 3, 4, 99, -1, "3", 3.0, True, None, 2**31, 2**70)]
    edits += [("sampling/plans/20/starts", starts) for starts in STARTS]
    edits += [("programs/image_encoder", {"file": "LICENSE", "methods": {}})]
    edits += [("programs/image_encoder", _encoder(*encode)) for encode in ENCODES]
    edits += OTHERS
    for several in [*([edit] for edit in edits), *(edits for edits, _ in known.APART.values())]:
        for place, value in several:
            known.edit(folder, place, value)
        yield (folder / "manifest.json").read_bytes()
        known.write(folder, whole)
    known.keep(folder)
    kept = known.read(folder)
    yield json.dumps(kept).encode()
    for place, value in KEPT:
        known.edit(folder, place, value)
        yield (folder / "manifest.json").read_bytes()
        known.write(folder, kept)
    known.write(folder, whole)


NOTHING = {"inputs": [], "outputs": [], "activations": None}
PATHS = [*known.UNSAFE, "missing", "manifest.json", "LICENSE/x", "simulation", "golden", "LICENSE", "a b", "é", "日本"]
NAMES = ["", "0", "08", "8.0", "fast", "٨", "12345678", "7\n", "a" * 80]
# As known.BAD_PLANS has them, most of them good.
PLANS = [
    ("guidance", 3.5, ""),
    ("guidance", None, ""),
    ("guidance", 1e39, ""),
    ("noise_scale", True, ""),
    ("noise_scale", 7, ""),
    ("rows", known.plan(39)["rows"], ""),
    ("rows/0/known", None, ""),
    ("rows/0/b", [], ""),
    ("rows/3/b_negative", [1, 2, 3, 4.5], ""),
    ("rows/3/c", [0, -0.0, 3e38], ""),
    ("rows/3/extra", [], ""),
    ("rows/3/a", 2**70, ""),
]
# Of known.plan(20), whose rows reach one step back.
STARTS = [
    None,
    [],
    {},
    {"one": known.plan(2)},
    {"01": known.plan(19)},
    {"0": known.plan(20)},
    {"\u0661": known.plan(19)},
    {"19999": known.plan(2)},
    {"20": known.plan(1)},
    {"18": known.plan(2)},
    {"18": known.plan(3)},
    {"18": []},
    {"18": {"rows": []}},
    {"18": known.plan(2) | {"rows": []}},
    {"18": known.plan(2) | {"noise_scale": "1"}},
    {"18": known.plan(2) | {"starts": {"1": known.plan(1)}}},
    {"18": known.plan(2) | {"starts": {}}},
    {"19": known.plan(1)},
    {"17": known.plan(3), "18": known.plan(2)},
]
PICTURE, SAMPLE = known.tensor("picture", "float32", 1, 3, 16, 16), known.tensor("latents", "float32", 1, 4, 8, 8)
# (inputs, outputs) of an image encoder, one of them good.
ENCODES = [
    ([PICTURE], [SAMPLE]),
    ([], [SAMPLE]),
    ([PICTURE, PICTURE], [SAMPLE]),
    ([PICTURE], []),
    ([PICTURE], [SAMPLE, SAMPLE]),
    ([known.tensor("picture", "float32", 1, 4, 16, 16)], [SAMPLE]),
    ([known.tensor("picture", "float32", 3, 16, 16)], [SAMPLE]),
    ([PICTURE], [known.tensor("latents", "float32", 4, 8, 8)]),
]
# Methods of an image decoder, the last two of them good.
DECODED = {"inputs": [SAMPLE], "outputs": [PICTURE], "activations": 1}
DECODES = [
    {"decode": DECODED, "decode_small": NOTHING},
    {"decode": DECODED, "decode_small": DECODED | {"inputs": [SAMPLE, SAMPLE]}},
    {"decode": DECODED, "decode_small": DECODED | {"inputs": [known.tensor("latents", "float32", 4, 8, 8)]}},
    {"decode_small": DECODED},
    {"decode": DECODED | {"activations": -1}},
    {"decode": DECODED | {"activations": 1.0}},
    {"decode": DECODED | {"activations": None}},
    {"decode": DECODED, "decode_small": DECODED},
]
KEPT = [
    (f"{known.ENCODER}/kept", None),
    (f"{known.ENCODER}/kept", {"prompt": [0, 1, 2], "negative": [0, 1, 2]}),
    (f"{known.ENCODER}/kept", {"prompt": [0, 0, 0, 0], "negative": [15, 14, 13, 12]}),
    (f"{known.ENCODER}/kept/negative", [0, 1, 2]),
    (f"{known.ENCODER}/kept/prompt", [0, 1, 2, 2**31]),
    (f"{known.ENCODED}/2/shape", [1, 4]),
    (f"{known.ENCODED}/2/name", "places"),
    (f"{known.ENCODED}/0/name", "kept"),
]
OTHERS = [
    ("prompt", None),
    ("prompt/labels", {}),
    ("prompt/labels", {"cat": 0}),
    ("prompt/encoders", {}),
    ("prompt/embedded", {"file": "LICENSE", "prompts": ["a", "b"], "negatives": [""]}),
    ("prompt/embedded", {"file": "LICENSE", "prompts": [], "negatives": []}),
    ("prompt/encoders/text_encoder/unknown_id", None),
    ("prompt/encoders/text_encoder_2", known.example()["prompt"]["encoders"]["text_encoder"]),
    ("sampling", None),
    ("sampling/plan", "20"),
    ("sampling/negative", ""),
    ("golden", None),
    ("golden/plan", "20"),
    ("simulation", None),
    ("programs/image_decoder", {"file": "LICENSE", "methods": {}}),
    ("programs/image_decoder", {"file": "LICENSE", "methods": {"decode": NOTHING}}),
    *(("programs/image_decoder", {"file": "LICENSE", "methods": methods}) for methods in DECODES),
    ("programs/denoiser/methods/denoise/inputs", []),
    ("programs/denoiser/methods/denoise/outputs", []),
    ("programs/text_encoder/methods/encode/inputs", []),
    ("prompt/encoders/text_encoder/length", 5),
    ("latents/shape", [3, 8, 9]),
    ("programs/other", {"file": "LICENSE", "methods": {}}),
    ("programs/denoiser/methods/prepare/package", "simulation"),
    ("comment", {"any": ["thing"]}),
]  # fmt: skip


def _encoder(inputs: list[dict], outputs: list[dict]) -> dict:
    return {"file": "LICENSE", "methods": {"encode": NOTHING | {"inputs": inputs, "outputs": outputs}}}


def _example() -> dict:
    """The manifest of the example's files."""
    listed = {
        name: {"sha256": sha256(content).hexdigest(), "bytes": len(content)} for name, content in known.FILES.items()
    }
    return known.example() | {"files": listed}


def _mutated() -> list[bytes]:
    """Manifests with one to three random changes, the same ones in every run."""
    found = []

    @settings(FIXED, max_examples=MUTATED)
    @given(manifest=changed(_example()))
    def collect(manifest: object) -> None:
        found.append(json.dumps(manifest).encode())

    collect()
    return found


def _damaged() -> list[bytes]:
    """A manifest cut, or with some bytes replaced."""
    content, found = json.dumps(_example()).encode(), []

    @settings(FIXED, max_examples=DAMAGED)
    @given(position=st.integers(0, len(content)), patch=st.binary(max_size=4), cut=st.booleans())
    def collect(position: int, patch: bytes, cut: bool) -> None:
        found.append(content[:position] + patch + (b"" if cut else content[position + len(patch) :]))

    collect()
    return found
