"""An example of a bundle, and the edits of its manifest that are refused."""

import json
from pathlib import Path

from edge_hadanorm.bundle import write_manifest
from edge_hadanorm.bundle.schema import NOISE, SCHEMA
from edge_hadanorm.pipelines.plans import Plan, Row

FILES = {
    "text.pte": b"encoder",
    "denoiser.pte": bytes(range(256)) * 9,
    "tokenizer.json": b"{}",
    "golden/golden.png": b"picture",
    "simulation/config.json": b"{}",
    "simulation/model.safetensors": b"weights",
    "LICENSE": b"Apache",
}


def plan(steps: int, guidance: float | None = None) -> dict:
    """Rows of a sampler that remembers one prediction and draws noise, of a known place in the noise but the last."""
    rows = [
        Row(500.0, 1.0, 0.5, (-0.25, 0.125)[: k + 1], c=(0.1,), known=(0.5, 0.5) if k + 1 < steps else None)
        for k in range(steps)
    ]
    return Plan(tuple(rows), 1.0, guidance).to_json()


def tensor(name: str, dtype: str, *shape: int) -> dict:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def example() -> dict:
    """A manifest without its files."""
    text, conditioning = tensor("text", "float32", 1, 16, 8), tensor("conditioning", "float32", 1, 1, 16, 8)
    ids, mask = tensor("ids", "int64", 1, 16), tensor("mask", "float32", 1, 16)
    latents = tensor("latents", "float32", 1, 3, 8, 12)
    return {
        "schema": SCHEMA,
        "generator": "edge-hadanorm 0.1.0",
        "target": "xnnpack",
        "family": "PixArtTransformer2DModel",
        "recipe": "hadanorm-w4a8",
        "image": {"width": 12, "height": 8, "channels": 3},
        "latents": {"shape": [3, 8, 12]},
        "sizes": {},
        "programs": {
            "text_encoder": {
                "file": "text.pte",
                "methods": {"encode": {"inputs": [ids, mask], "outputs": [text], "activations": 1000}},
            },
            "denoiser": {
                "file": "denoiser.pte",
                "methods": {
                    "prepare": {"inputs": [mask, text], "outputs": [conditioning], "activations": None},
                    "denoise": {
                        "inputs": [latents, tensor("timestep", "float32", 1), conditioning],
                        "outputs": [latents],
                        "activations": 2**40,
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
                    "kept": None,
                }
            },
            "lower": False,
            "labels": None,
            "embedded": None,
        },
        "sampling": {
            "plan": "8",
            "guidance": 4.5,
            "negative": "blurry",
            "plans": {"8": plan(8), "20": plan(20), "4": plan(4)},
        },
        "noise": NOISE,
        "golden": {
            "file": "golden/golden.png",
            "prompt": "a red circle",
            "negative": "",
            "seed": 2**63 - 1,
            "plan": "4",
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
OUTPUT = "programs/denoiser/methods/denoise/outputs"
ENCODER = "prompt/encoders/text_encoder"
ENCODED = "programs/text_encoder/methods/encode/inputs"
# A further size, of a denoiser of its own and a decoder that is the same.
WIDE = {
    "image": {"width": 24, "height": 8, "channels": 3},
    "latents": {"shape": [3, 8, 24]},
    "methods": {"denoiser": {"denoise": "denoise_24x8"}},
    "plans": None,
}
SIZE = "sizes/24x8"


def widen(folder: Path, size: dict = WIDE) -> None:
    """Let the bundle have a further size."""
    denoise = read(folder)["programs"]["denoiser"]["methods"]["denoise"]
    latents = denoise["outputs"][0] | {"shape": [1, *WIDE["latents"]["shape"]]}
    wide = denoise | {"inputs": [latents, *denoise["inputs"][1:]], "outputs": [latents]}
    edit(folder, "programs/denoiser/methods/denoise_24x8", wide)
    edit(folder, "sizes", {"24x8": size})


DECODED, PICTURED = "programs/image_decoder", "programs/image_encoder"
ROWS = "sampling/plans/20/rows"


def keep(folder: Path) -> None:
    """Let the text encoder give the states of four places, as Sana's does."""
    edit(folder, f"{ENCODER}/kept", {"prompt": [0, 13, 14, 15], "negative": [0, 1, 2, 3]})
    ids, mask = read(folder)["programs"]["text_encoder"]["methods"]["encode"]["inputs"]
    edit(folder, ENCODED, [ids, mask, tensor("kept", "int64", 4)])


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
    ("sizes", None),
    ("sizes", []),
    ("sizes", {"24x8": None}),
    *(("sizes", {"24x8": {key: value for key, value in WIDE.items() if key != left}}) for left in WIDE),
    ("sizes", {"24x8": WIDE | {"image": {"width": 24, "height": 8}}}),
    ("sizes", {"24x8": WIDE | {"latents": {"shape": [3, 8]}}}),
    ("sizes", {"24x8": WIDE | {"methods": {"denoiser": ["denoise"]}}}),
    ("sizes", {"24x8": WIDE | {"methods": {"denoiser": {"denoise": 1}}}}),
    ("sizes", {"24x8": WIDE | {"plans": []}}),
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
    ("prompt/embedded", {"file": "tokenizer.json", "prompts": ["a"]}),
    ("prompt/embedded", {"file": "../prompts", "prompts": [], "negatives": []}),
    ("prompt/embedded", {"file": "tokenizer.json", "prompts": ["a"], "negatives": [None]}),
    ("prompt/embedded", {"file": "tokenizer.json", "prompts": ["a"], "negatives": ""}),
    ("prompt/encoders", []),
    ("prompt/encoders", {"image_decoder": {}}),
    ("prompt/encoders/text_encoder/length", 0),
    ("prompt/encoders/text_encoder/pad_id", -1),
    ("prompt/encoders/text_encoder/unknown_id", "<unk>"),
    ("prompt/encoders/text_encoder/prefix", None),
    ("prompt/encoders/text_encoder/kept", False),
    ("prompt/encoders/text_encoder/kept", [0, 1]),
    ("prompt/encoders/text_encoder/kept", {"prompt": [0]}),
    ("prompt/encoders/text_encoder/kept", {"prompt": [-1], "negative": [0]}),
    ("prompt/encoders/text_encoder/kept", {"prompt": [0], "negative": [0.5]}),
    ("prompt/encoders/text_encoder/kept", {"prompt": [0], "negative": None}),
    ("sampling", False),
    ("sampling/plan", 8),
    ("sampling/plan", None),
    ("sampling/negative", None),
    ("sampling/negative", ["blurry"]),
    ("sampling/guidance", float("nan")),
    ("sampling/guidance", float("inf")),
    ("sampling/guidance", "4.5"),
    ("sampling/guidance", True),
    ("sampling/plans", []),
    ("sampling/plans", None),
    ("noise", "mt19937"),
    ("noise", None),
    ("golden/seed", -1),
    ("golden/seed", 2**63),
    ("golden/prompt", None),
    ("golden/negative", None),
    ("golden/plan", 4),
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


# (place in the plan of 20 steps, value, what the reader says of it); a JSON Schema refuses these too.
BAD_PLANS = [
    ("", None, "an object is expected, got NoneType"),
    ("", [], "an object is expected, got list"),
    ("", {}, "noise_scale, guidance, rows missing"),
    ("noise_scale", ..., "noise_scale missing"),
    ("noise_scale", "1", "noise_scale holds something other than finite float32"),
    ("noise_scale", 1e39, "noise_scale holds something other than finite float32"),
    ("guidance", ..., "guidance missing"),
    ("guidance", "4.5", "guidance holds something other than finite float32"),
    ("guidance", float("nan"), "guidance holds something other than finite float32"),
    ("rows", [], "it has no rows"),
    ("rows", {}, "rows must be a list"),
    ("rows/3", [], "row 3 must be an object, got list"),
    ("rows/3/timestep", ..., "row 3 has no timestep"),
    ("rows/3/input_scale", ..., "row 3 has no input_scale"),
    ("rows/3/a", ..., "row 3 has no a"),
    ("rows/3/a", [0.5], "row 3 holds something other than finite float32"),
    ("rows/3/a", True, "row 3 holds something other than finite float32"),
    ("rows/3/timestep", float("inf"), "row 3 holds something other than finite float32"),
    ("rows/3/b", None, "b of row 3 must be a list"),
    ("rows/3/b", 0.5, "b of row 3 must be a list"),
    ("rows/3/b", [[]], "b of row 3 holds something other than finite float32"),
    ("rows/3/b_text", [float("nan")], "b_text of row 3 holds something other than finite float32"),
    ("rows/3/b_negative", ["1"], "b_negative of row 3 holds something other than finite float32"),
    ("rows/3/c", [-1e39], "c of row 3 holds something other than finite float32"),
    ("rows/3/known", [], "known of row 3 must be a list of two numbers"),
    ("rows/3/known", [0.5], "known of row 3 must be a list of two numbers"),
    ("rows/3/known", [0.5, 0.5, 0.5], "known of row 3 must be a list of two numbers"),
    ("rows/3/known", {"s": 1, "r": 0}, "known of row 3 must be a list of two numbers"),
    ("starts", [], "starts must be an object of plans by row"),
    ("starts", None, "starts must be an object of plans by row"),
    ("starts", {"three": plan(17)}, "starts must be an object of plans by row"),
    ("starts", {"03": plan(17)}, "starts must be an object of plans by row"),
    ("starts", {"3": None}, "an object is expected, got NoneType"),
    ("starts", {"3": {}}, "noise_scale, guidance, rows missing"),
    ("rows/3/known", [0.5, None], "row 3 holds something other than finite float32"),
]
# Of more coefficients than there are steps before, which a JSON Schema cannot state.
LONG_PLANS = [
    (f"rows/{k}/{name}", [0.0] * (k + 2), f"{name} of row {k} has more than {k + 1} numbers")
    for name in ("b", "b_text", "b_negative", "c")
    for k in (0, 3, 19)
]
# Starts that are not of the rows from there on, or do not say how noisy a picture's latents are there.
LONG_PLANS += [
    ("starts", {"3": plan(16)}, "the start at row 3 is not of the rows from there on"),
    ("starts", {"20": plan(1)}, "the start at row 20 is not of the rows from there on"),
    ("starts", {"3": plan(17) | {"starts": {"1": plan(16)}}}, "the start at row 3 is not of the rows from there on"),
    ("starts", {"19": plan(1)}, "known of row 0 of the start at row 19 is missing"),
]


def edit_plan(folder: Path, place: str, value: object) -> None:
    """Edit the plan of 20 steps."""
    edit(folder, f"sampling/plans/20/{place}".rstrip("/"), value)


# (what does not go with what, edits, what the reader says of it); a JSON Schema cannot state these.
_IDS, _MASK = tensor("ids", "int64", 1, 16), tensor("mask", "float32", 1, 16)
_LATENTS, _TIME = tensor("latents", "float32", 1, 3, 8, 12), tensor("timestep", "float32", 1)
_NAMES, _KEPT = (
    r"encode\.inputs are not ids, mask of their lengths",
    r"\.text_encoder\.kept are not as many places each",
)
_INPUTS, _OUTPUTS = (rf"denoise\.{side} do not begin with \[1, \*latents\.shape\]" for side in ("inputs", "outputs"))
_DECODE = r"image_decoder\.methods\.decode\.inputs are not one tensor"


def _decoder(*inputs: dict) -> dict:
    return {"file": "denoiser.pte", "methods": {"decode": {"inputs": list(inputs), "outputs": [], "activations": 0}}}


def _image_encoder(inputs: list[dict], outputs: list[dict]) -> dict:
    method = {"inputs": inputs, "outputs": outputs, "activations": None}
    return {"file": "denoiser.pte", "methods": {"encode": method}}


_PICTURE, _ENCODE = tensor("picture", "float32", 1, 3, 64, 96), r"image_encoder\.methods\.encode is not of one picture"
APART = {
    "an image encoder of nothing": ([(PICTURED, _image_encoder([], [_LATENTS]))], _ENCODE),
    "an image encoder to nothing": ([(PICTURED, _image_encoder([_PICTURE], []))], _ENCODE),
    "an image encoder of four channels": (
        [(PICTURED, _image_encoder([tensor("picture", "float32", 1, 4, 64, 96)], [_LATENTS]))],
        _ENCODE,
    ),
    "an image encoder without its method": (
        [(PICTURED, {"file": "denoiser.pte", "methods": {}})],
        r"image_encoder\.methods\.encode is missing",
    ),
    "no ids": ([(ENCODED, [])], _NAMES),
    "ids of another name": ([(f"{ENCODED}/0/name", "tokens")], _NAMES),
    "a mask of another name": ([(f"{ENCODED}/1/name", "attention_mask")], _NAMES),
    "a mask before the ids": ([(ENCODED, [_MASK, _IDS])], _NAMES),
    "ids of two prompts": ([(f"{ENCODED}/0/shape", [2, 16])], _NAMES),
    "ids of another length": ([(f"{ENCODED}/0/shape", [1, 15])], _NAMES),
    "a mask of two prompts": ([(f"{ENCODED}/1/shape", [2, 16])], _NAMES),
    "a length that is not that of the ids": ([(f"{ENCODER}/length", 17)], _NAMES),
    "an input for places that are not there": ([(ENCODED, [_IDS, _MASK, tensor("kept", "int64", 4)])], _NAMES),
    "more places of a prompt": ([(f"{ENCODER}/kept", {"prompt": [0, 1], "negative": [0]})], _KEPT),
    "a place beyond the length": ([(f"{ENCODER}/kept", {"prompt": [0, 16], "negative": [0, 1]})], _KEPT),
    "a negative place beyond the length": ([(f"{ENCODER}/kept", {"prompt": [0], "negative": [16]})], _KEPT),
    "latents of two pictures": ([(f"{INPUT}/0/shape", [2, 3, 8, 12])], _INPUTS),
    "latents of another size": ([("latents/shape", [3, 8, 8])], _INPUTS),
    "latents after the timestep": ([(INPUT, [_TIME, _LATENTS])], _INPUTS),
    "no timestep": ([(INPUT, [_LATENTS])], _INPUTS),
    "predictions of two pictures": ([(f"{OUTPUT}/0/shape", [2, 3, 8, 12])], _OUTPUTS),
    "no prediction": ([(OUTPUT, [])], _OUTPUTS),
    "a decoder of two tensors": ([(DECODED, _decoder(_LATENTS, _TIME))], _DECODE),
    "a decoder of one sample without its batch": ([(DECODED, _decoder(tensor("x", "float32", 3, 8, 8)))], _DECODE),
    "a decoder of nothing": ([(DECODED, _decoder())], _DECODE),
    "prompts in no way": ([("prompt/encoders", {})], r"\.prompt has neither encoders nor labels nor embedded prompts"),
    "an encoder without a program": ([("programs/text_encoder", ...)], r"text_encoder\.methods\.encode is missing"),
    "a default plan that is not there": ([("sampling/plan", "9")], r"\.sampling\.plan is '9', which is not among"),
    "a golden plan that is not there": ([("golden/plan", "8.0")], r"\.golden\.plan is '8\.0', which is not among"),
    "no plans": ([("sampling/plans", {})], r"\.sampling\.plan is '8', which is not among the plans"),
    "a golden sample without plans": ([("sampling", None)], r"\.golden\.plan is '4', which is not among the plans"),
}


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
