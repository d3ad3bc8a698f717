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
    edits += [("sampling/tables", {"8": known.table(8), "4": known.table(4), key: known.table(8)}) for key in KEYS]
    edits += [("sampling/tables/20", table) for table in TABLES]
    edits += [("schema", schema) for schema in (0, 1, 2, 3, 99, -1, "1", 1.0, True, None, 2**31, 2**70)]
    edits += OTHERS
    for place, value in edits:
        known.edit(folder, place, value)
        yield (folder / "manifest.json").read_bytes()
        known.write(folder, whole)


PATHS = [*known.UNSAFE, "missing", "manifest.json", "LICENSE/x", "simulation", "golden", "LICENSE", "a b", "é", "日本"]
KEYS = ["", "0", "08", "8.0", "-8", "eight", "٨", "8 ", "1_0", "12345678", "123456", "7\n"]
TABLES = [None, {}, [], known.table(39)]
TABLES += [known.table(8) | change for change in (
    {"a": [1.0]}, {"noise_scale": "1"}, {"noise_scale": True}, {"steps": 8.0}, {"steps": True}, {"b": [[]] * 8},
    {"b": [[1.0, 2.0]] * 8}, {"a": [1e39] * 8}, {"a": [None] * 8}, {"timesteps": "12345678"}, {"extra": 1},
    {"b": [[float(j) for j in range(k + 1)] for k in range(8)]},
)]  # fmt: skip
OTHERS = [
    ("prompt", None),
    ("prompt/labels", {}),
    ("prompt/labels", {"cat": 0}),
    ("prompt/encoders", {}),
    ("prompt/embedded", {"file": "LICENSE", "prompts": ["a", "b"]}),
    ("prompt/encoders/text_encoder/unknown_id", None),
    ("prompt/encoders/text_encoder_2", known.example()["prompt"]["encoders"]["text_encoder"]),
    ("sampling", None),
    ("sampling/steps", 5),
    ("golden", None),
    ("golden/steps", 5),
    ("simulation", None),
    ("programs/image_decoder", {"file": "LICENSE", "methods": {}}),
    ("programs/image_decoder", {"file": "LICENSE", "methods": {"decode": {"inputs": [], "outputs": []}}}),
    ("programs/denoiser/methods/denoise/inputs", []),
    ("programs/denoiser/methods/denoise/outputs", []),
    ("programs/text_encoder/methods/encode/inputs", []),
    ("prompt/encoders/text_encoder/length", 5),
    ("latents/shape", [3, 8, 9]),
    ("programs/other", {"file": "LICENSE", "methods": {}}),
    ("programs/denoiser/methods/prepare/package", "simulation"),
    ("comment", {"any": ["thing"]}),
]  # fmt: skip


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
