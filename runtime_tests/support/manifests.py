"""An example of a bundle, and the edits of its manifest that are refused."""

import json
from pathlib import Path

from edge_hadanorm.bundle import write_manifest
from edge_hadanorm.bundle.schema import NOISE
from edge_hadanorm.pipelines.sampling import SamplerTable

FILES = {
    "text.pte": b"encoder",
    "denoiser.pte": bytes(range(256)) * 9,
    "tokenizer.json": b"{}",
    "golden/golden.png": b"picture",
    "simulation/config.json": b"{}",
    "simulation/model.safetensors": b"weights",
    "LICENSE": b"Apache",
}


def table(steps: int) -> dict:
    return SamplerTable(steps, [500.0] * steps, [1.0] * steps, [0.5] * steps, [[-0.25]] * steps, 1.0).to_json()


def tensor(name: str, dtype: str, *shape: int) -> dict:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def example() -> dict:
    """A manifest without its files."""
    text, conditioning = tensor("text", "float32", 2, 16, 8), tensor("conditioning", "float32", 2, 1, 16, 8)
    latents = tensor("latents", "float32", 2, 3, 8, 12)
    return {
        "schema": 1,
        "generator": "edge-hadanorm 0.1.0",
        "target": "xnnpack",
        "family": "PixArtTransformer2DModel",
        "recipe": "hadanorm-w4a8",
        "image": {"width": 12, "height": 8, "channels": 3},
        "latents": {"shape": [3, 8, 12]},
        "programs": {
            "text_encoder": {
                "file": "text.pte",
                "methods": {"encode": {"inputs": [tensor("ids", "int64", 2, 16)], "outputs": [text]}},
            },
            "denoiser": {
                "file": "denoiser.pte",
                "methods": {
                    "prepare": {"inputs": [text], "outputs": [conditioning]},
                    "denoise": {
                        "inputs": [latents, tensor("timestep", "float32", 1), conditioning],
                        "outputs": [latents],
                    },
                },
            },
        },
        "prompt": {
            "encoders": {
                "text_encoder": {
                    "tokenizer": "tokenizer.json",
                    "length": 16,
                    "pad_id": 0,
                    "unknown_id": 1,
                    "prefix": "",
                }
            },
            "lower": False,
            "labels": None,
            "embedded": None,
        },
        "sampling": {"steps": 8, "guidance": 4.5, "tables": {"8": table(8), "20": table(20), "4": table(4)}},
        "noise": NOISE,
        "golden": {
            "file": "golden/golden.png",
            "prompt": "a red circle",
            "seed": 2**63 - 1,
            "steps": 4,
            "guidance": 1,
            "psnr_db": 35.0,
        },
        "simulation": "simulation",
        "licence": "Apache-2.0",
    }


def make(folder: Path, manifest: dict | None = None) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder, manifest or example())
    return folder


def read(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def write(folder: Path, manifest: object) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(folder: Path, place: str, value: object) -> None:
    """Set, or with ... delete, a value of the manifest at a place such as `image/width`."""
    manifest = read(folder)
    parent, key = None, None
    for name in place.split("/"):
        parent = manifest if parent is None else parent[key]
        key = int(name) if isinstance(parent, list) else name
    if value is ...:
        del parent[key]
    else:
        parent[key] = value
    write(folder, manifest)


INPUT = "programs/denoiser/methods/denoise/inputs"


WRONG = [
    ("generator", 1),
    ("target", None),
    ("family", []),
    ("recipe", {}),
    ("licence", None),
    ("image", None),
    ("image/width", 0),
    ("image/height", 8.0),
    ("image/channels", "3"),
    ("image/width", True),
    ("image/width", 2**31),
    ("latents/shape", [3, 8]),
    ("latents/shape", [3, 8, 0]),
    ("latents/shape", "3x8x8"),
    ("programs", []),
    ("programs/denoiser", None),
    ("programs/denoiser/file", None),
    ("programs/denoiser/methods", ["prepare", "denoise"]),
    (f"{INPUT}", {}),
    (f"{INPUT}/0", "latents"),
    (f"{INPUT}/0/name", 3),
    (f"{INPUT}/0/dtype", "complex64"),
    (f"{INPUT}/0/dtype", ["float32"]),
    (f"{INPUT}/0/shape", [1, -1]),
    (f"{INPUT}/0/shape", [1, None]),
    (f"{INPUT}/0/shape", None),
    ("prompt", {}),
    ("prompt/lower", 0),
    ("prompt/labels", ["cat"]),
    ("prompt/labels", {"cat": -1}),
    ("prompt/embedded", {"file": "tokenizer.json"}),
    ("prompt/embedded", {"file": "../prompts", "prompts": []}),
    ("prompt/encoders", []),
    ("prompt/encoders", {"image_decoder": {}}),
    ("prompt/encoders/text_encoder/length", 0),
    ("prompt/encoders/text_encoder/pad_id", -1),
    ("prompt/encoders/text_encoder/unknown_id", "<unk>"),
    ("prompt/encoders/text_encoder/prefix", None),
    ("sampling", False),
    ("sampling/steps", 0),
    ("sampling/guidance", float("nan")),
    ("sampling/guidance", float("inf")),
    ("sampling/guidance", "4.5"),
    ("sampling/guidance", True),
    ("sampling/tables", []),
    ("noise", "mt19937"),
    ("noise", None),
    ("golden/seed", -1),
    ("golden/seed", 2**63),
    ("golden/prompt", None),
    ("golden/psnr_db", 10**400),
    ("simulation", 1),
    ("files", []),
    ("files/LICENSE", None),
    ("files/LICENSE/bytes", -1),
    ("files/LICENSE/bytes", 6.0),
    ("files/LICENSE/sha256", "0" * 63),
    ("files/LICENSE/sha256", "A" * 64),
    ("files/LICENSE/sha256", "0" * 64 + "\n"),
    ("files/LICENSE/sha256", None),
]


UNSAFE = [
    "/etc/passwd",
    "../LICENSE",
    "golden/../LICENSE",
    "golden/..",
    "..",
    ".",
    "",
    "./LICENSE",
    "golden//golden.png",
    "golden/",
    "golden\\golden.png",
    "..\\LICENSE",
    "C:/x",
    "C:x",
    "file:LICENSE",
    "LICENSE\0",
    "LICENSE\n",
    "\ud800",
    "//host/share",
]
