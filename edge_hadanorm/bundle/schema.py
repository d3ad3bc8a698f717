"""The manifest's schema: what its values may be, and which parts must go together. README.md says what they mean."""

import math
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from edge_hadanorm.bundle.sizes import at, size_name
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.kinds import tokenizer_of
from edge_hadanorm.pipelines.plans import LARGEST as LARGEST_FLOAT32
from edge_hadanorm.pipelines.plans import LISTS, Plan

SCHEMA = 3
MANIFEST = "manifest.json"
NOISE = "philox4x32-10/box-muller"
DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
DECODER, IMAGE_ENCODER = "image_decoder", "image_encoder"
# Its method for smaller tiles, which needs less memory.
SMALL = "decode_small"
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
METHODS = {
    "denoiser": ("prepare", "denoise"),
    DECODER: ("decode",),
    IMAGE_ENCODER: ("encode",),
    **dict.fromkeys(ENCODERS, ("encode",)),
}


def _is_whole(value: Any, least: int = 0, end: int = 2**31) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < end


def _is_finite(value: Any) -> bool:
    return _is_whole(value, -(2**53), 2**53) or (isinstance(value, float) and math.isfinite(value))


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(_is_whole(size, least=1) for size in value)


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not value.isprintable() or set(value) & set("\\:"):
        return False
    path = PurePosixPath(value)
    return path.as_posix() == value != "." and not path.is_absolute() and ".." not in path.parts


@dataclass(frozen=True)
class Value:
    """A plain value of the manifest: its name in messages, the test of it here, and the JSON Schema of it."""

    name: str
    fits: Callable[[Any], bool]
    json_schema: dict = field(default_factory=dict, hash=False)


WHOLE = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
LARGE = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
LARGEST = float(np.finfo(np.float64).max)
# One part of a path: no separator, nothing that Windows or a shell reads otherwise, and not `.` or `..`.
PART = r"(?!\.{1,2}(/|$))[^/\\:]+"

TEXT = Value("a string", lambda value: isinstance(value, str), {"type": "string"})
VERSION = Value(str(SCHEMA), lambda value: _is_whole(value) and value == SCHEMA, {"type": "integer", "const": SCHEMA})
COUNT = Value("a positive integer", lambda value: _is_whole(value, least=1), WHOLE | {"minimum": 1})
INDEX = Value("a non-negative integer", _is_whole, WHOLE)
INT64 = Value("a non-negative integer", lambda value: _is_whole(value, end=2**63), LARGE)
NUMBER = Value("a finite number", _is_finite, {"type": "number", "minimum": -LARGEST, "maximum": LARGEST})
PATH = Value(
    "a plain relative path",
    _is_path,
    {"type": "string", "pattern": f"^{PART}(/{PART})*$", "not": {"pattern": r"[\u0000-\u001f\u007f\ud800-\udfff]"}},
)
SHA256 = Value(
    "a sha256",
    lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)),
    {"type": "string", "pattern": "^[0-9a-f]{64}$", "maxLength": 64},
)
SHAPE = Value("a list of positive integers", _is_shape, {"type": "array", "items": COUNT.json_schema})
LATENTS = Value(
    "[C, H, W]",
    lambda value: _is_shape(value) and len(value) == 3,
    SHAPE.json_schema | {"minItems": 3, "maxItems": 3},
)
FLAG = Value("true or false", lambda value: isinstance(value, bool), {"type": "boolean"})
DTYPE = Value(f"one of {', '.join(DTYPES)}", lambda value: value in DTYPES, {"enum": list(DTYPES)})
ROLE = Value(f"one of {', '.join(ENCODERS)}", lambda value: value in ENCODERS, {"enum": list(ENCODERS)})
NOISE_NAME = Value(NOISE, lambda value: value == NOISE, {"const": NOISE})
FLOAT = {"type": "number", "minimum": -LARGEST_FLOAT32, "maximum": LARGEST_FLOAT32}
FLOATS = {"type": "array", "items": FLOAT}
ROWS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {
            **dict.fromkeys(("timestep", "input_scale", "a"), FLOAT),
            **dict.fromkeys(LISTS, FLOATS),
            "known": {"anyOf": [FLOATS | {"minItems": 2, "maxItems": 2}, {"type": "null"}]},
        },
        "required": ["timestep", "input_scale", "a"],
    },
}
BEGUN: dict = {
    "type": "object",
    "properties": {"noise_scale": FLOAT, "guidance": {"anyOf": [FLOAT, {"type": "null"}]}, "rows": ROWS},
    "required": ["noise_scale", "guidance", "rows"],
}
STARTS = {"type": "object", "propertyNames": {"pattern": "^[1-9][0-9]{0,3}$"}, "additionalProperties": BEGUN}
# `Plan.from_json` checks a plan, with lengths that JSON Schema cannot state.
PLAN = Value("a plan", lambda value: True, BEGUN | {"properties": {**BEGUN["properties"], "starts": STARTS}})

# A kind of value is a plain `Value`; a list of any number of one kind; an object by its keys, `?` after one that may be
# null; or an object with keys of one kind, {Value: kind}.
Kind = Value | list | dict
TENSOR: Kind = {"name": TEXT, "dtype": DTYPE, "shape": SHAPE}
METHOD: Kind = {"inputs": [TENSOR], "outputs": [TENSOR], "activations?": INT64}
IMAGE: Kind = {"width": COUNT, "height": COUNT, "channels": COUNT}
FIELDS: dict[str, Kind] = {
    "schema": VERSION,
    "generator": TEXT,
    "target": TEXT,
    "family": TEXT,
    "recipe": TEXT,
    "image": IMAGE,
    "latents": {"shape": LATENTS},
    "sizes": {
        TEXT: {
            "image": IMAGE,
            "latents": {"shape": LATENTS},
            "methods": {TEXT: {TEXT: TEXT}},
            "plans?": {TEXT: PLAN},
        }
    },
    "programs": {
        TEXT: {"file": PATH, "methods": {TEXT: {"inputs": [TENSOR], "outputs": [TENSOR], "activations?": INT64}}}
    },
    "prompt?": {
        "encoders": {
            ROLE: {
                "tokenizer": PATH,
                "length": COUNT,
                "pad_id": INDEX,
                "unknown_id?": INDEX,
                "prefix": TEXT,
                "kept?": {"prompt": [INDEX], "negative": [INDEX]},
            },
        },
        "lower": FLAG,
        "labels?": {TEXT: INDEX},
        "embedded?": {"file": PATH, "prompts": [TEXT], "negatives": [TEXT]},
    },
    "sampling?": {"plan": TEXT, "guidance": NUMBER, "negative": TEXT, "plans": {TEXT: PLAN}},
    "noise": NOISE_NAME,
    "golden?": {
        "file": PATH,
        "prompt": TEXT,
        "negative": TEXT,
        "seed": INT64,
        "plan": TEXT,
        "guidance": NUMBER,
        "psnr_db": NUMBER,
    },
    "simulation?": PATH,
    "licence": TEXT,
    "files": {PATH: {"sha256": SHA256, "bytes": INT64}},
}
# Further keys of a method of a Core ML program.
FEATURES: Kind = [{"feature": TEXT}]
PACKAGED: Kind = {"package": PATH, "function": TEXT, "inputs": FEATURES, "outputs": FEATURES}


def signature(inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> dict:
    """Describe a method for the manifest, from its tensors by name; its activations are known once it is lowered."""

    def describe(tensors: dict[str, torch.Tensor]) -> list[dict]:
        return [
            {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
            for name, tensor in tensors.items()
        ]

    return {"inputs": describe(inputs), "outputs": describe(outputs), "activations": None}


def check_manifest(manifest: Any, path: Path) -> dict:
    """Return the manifest. Raises UserError where it does not follow the schema; path: of its file, for messages."""
    version: Any = manifest.get("schema") if isinstance(manifest, dict) else None
    if _is_whole(version) and version > SCHEMA:
        raise UserError(f"{path}: made by a newer edge-hadanorm (schema {version}, this one reads {SCHEMA}); update")
    if _is_whole(version, least=1) and version < SCHEMA:
        raise UserError(
            f"{path}: made by an older edge-hadanorm (schema {version}, this one reads {SCHEMA}); export the "
            "checkpoint again"
        )
    try:
        _check(manifest, FIELDS, "")
        _check_links(manifest)
        for name in manifest["sizes"]:
            _check_size(manifest, name)
    except UserError as error:
        raise UserError(f"{path} is not a valid manifest: {error}; export the bundle again") from None
    return manifest


LIST = Value("a list", lambda value: isinstance(value, list))
OBJECT = Value("an object", lambda value: isinstance(value, dict))


def _check(value: Any, kind: Kind, where: str) -> None:
    """Raises UserError where the value at a place of the manifest, such as `.image.width`, is not of its kind."""
    if isinstance(kind, Value):
        if not kind.fits(value):
            raise UserError(f"{where or 'the whole'} is {reprlib.repr(value)}, not {kind.name}")
    elif isinstance(kind, list):
        _check(value, LIST, where)
        for index, item in enumerate(value):
            _check(item, kind[0], f"{where}[{index}]")
    else:
        _check(value, OBJECT, where)
        for key, item in kind.items():
            if isinstance(key, Value):
                for name in value:
                    _check(name, key, f"a key of {where}")
                    _check(value[name], item, f"{where}[{reprlib.repr(name)}]")
            elif (name := key.rstrip("?")) not in value:
                raise UserError(f"{where}.{name} is missing")
            elif value[name] is not None or name == key:
                _check(value[name], item, f"{where}.{name}")


def _check_links(manifest: dict) -> None:
    """Raises UserError where one part of a well-typed manifest does not go with another."""
    programs, files, prompt = manifest["programs"], manifest["files"], manifest["prompt"]
    encoders = prompt["encoders"] if prompt else {}
    for role in {"denoiser", *programs, *encoders} & set(METHODS):
        for method in METHODS[role]:
            if method not in programs.get(role, {"methods": ()})["methods"]:
                raise UserError(f".programs.{role}.methods.{method} is missing")
    _check_signatures(programs, manifest["latents"]["shape"], encoders)
    if prompt and not (encoders or prompt["labels"] or prompt["embedded"]):
        raise UserError(".prompt has neither encoders nor labels nor embedded prompts")
    if MANIFEST in files:
        raise UserError(f".files lists {MANIFEST} itself")
    folders = {parent.as_posix() for path in files for parent in PurePosixPath(path).parents}
    for role, path in paths_by_role(manifest).items():
        may_be_folder = role == "simulation" or role in programs  # a Core ML program is a folder
        if path not in files and not (may_be_folder and path in folders):
            raise UserError(f"{path!r}, the {role}, is not in .files")
    for role, program in programs.items():
        for name, method in program["methods"].items():
            if "package" in method:
                _check(method, PACKAGED, f".programs.{role}.methods.{name}")
                if method["package"] not in folders:
                    raise UserError(f"{method['package']!r}, the package of {role}.{name}, is not in .files")
    plans = manifest["sampling"]["plans"] if manifest["sampling"] else {}
    for name, plan in plans.items():
        try:
            Plan.from_json(plan)
        except UserError as error:
            raise UserError(f"{error} (.sampling.plans[{reprlib.repr(name)}])") from None
    for part in ("sampling", "golden"):
        if manifest[part] and manifest[part]["plan"] not in plans:
            raise UserError(f".{part}.plan is {reprlib.repr(manifest[part]['plan'])}, which is not among the plans")


def _check_size(manifest: dict, name: str) -> None:
    """Raises UserError where the manifest of one of its sizes alone would not do, or has another name."""
    image = manifest["sizes"][name]["image"]
    if name != size_name(image["width"], image["height"]) or image == manifest["image"]:
        raise UserError(f".sizes[{reprlib.repr(name)}] is not named by its width and height, others than the default's")
    alone = at(manifest, name)
    try:
        _check_links(alone)
    except UserError as error:
        raise UserError(f"{error} (.sizes[{name!r}])") from None


def _check_signatures(programs: dict, latents: list[int], encoders: dict) -> None:
    """Raises UserError where a method's tensors do not fit what the loop gives it."""
    shapes = {
        (role, name, side): [tensor["shape"] for tensor in method[side]]
        for role, program in programs.items()
        for name, method in program["methods"].items()
        for side in ("inputs", "outputs")
    }
    for side, least in (("inputs", 2), ("outputs", 1)):
        tensors = shapes["denoiser", "denoise", side]
        if len(tensors) < least or tensors[0] != [1, *latents]:
            raise UserError(f".programs.denoiser.methods.denoise.{side} do not begin with [1, *latents.shape]")
    if DECODER in programs:
        for name in [name for name in ("decode", SMALL) if name in programs[DECODER]["methods"]]:
            tensors = shapes[DECODER, name, "inputs"]
            if len(tensors) != 1 or len(tensors[0]) != 4:
                raise UserError(f".programs.{DECODER}.methods.{name}.inputs are not one tensor [1, C, h, w]")
    if IMAGE_ENCODER in programs:
        tensors, made = (shapes[IMAGE_ENCODER, "encode", side] for side in ("inputs", "outputs"))
        if not (len(tensors) == len(made) == 1 and len(tensors[0]) == len(made[0]) == 4 and tensors[0][1] == 3):
            raise UserError(
                f".programs.{IMAGE_ENCODER}.methods.encode is not of one picture [1, 3, H, W] to one of latents"
            )
    for role, encoder in encoders.items():
        tensors = shapes[role, "encode", "inputs"]
        names = [tensor["name"] for tensor in programs[role]["methods"]["encode"]["inputs"]]
        wanted = {name: [1, encoder["length"]] for name in ("ids", "mask")}
        if encoder["kept"]:
            prompt, negative = (encoder["kept"][name] for name in ("prompt", "negative"))
            if len(prompt) != len(negative) or max([*prompt, *negative], default=-1) >= encoder["length"]:
                raise UserError(f".prompt.encoders.{role}.kept are not as many places each within the length")
            wanted["kept"] = [len(prompt)]
        if names[:1] != ["ids"] or [wanted.get(name) for name in names] != tensors:
            raise UserError(f".programs.{role}.methods.encode.inputs are not {', '.join(wanted)} of their lengths")


def paths_by_role(manifest: dict) -> dict[str, str]:
    """Paths that the manifest names, by role: programs, tokenizers, embedded prompts, golden picture, simulation."""
    paths = {role: program["file"] for role, program in manifest["programs"].items()}
    prompt = manifest["prompt"] or {"encoders": {}, "embedded": None}
    paths |= {tokenizer_of(role): encoder["tokenizer"] for role, encoder in prompt["encoders"].items()}
    paths |= {"embedded": prompt["embedded"]["file"]} if prompt["embedded"] else {}
    paths |= {"golden": manifest["golden"]["file"]} if manifest["golden"] else {}
    return paths | ({"simulation": manifest["simulation"]} if manifest["simulation"] else {})
