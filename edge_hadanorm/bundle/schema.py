"""The manifest's schema: what its values may be, and which parts must go together."""

import math
import re
import reprlib
from pathlib import Path, PurePosixPath

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.kinds import tokenizer_of
from edge_hadanorm.pipelines.sampling import SamplerTable

SCHEMA = 2
MANIFEST = "manifest.json"
NOISE = "philox4x32-10/box-muller"
DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
DECODER = "image_decoder"
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
METHODS = {"denoiser": ("prepare", "denoise"), DECODER: ("decode",), **dict.fromkeys(ENCODERS, ("encode",))}


def _is_int(value: object, least: int = 0, end: int = 2**31) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < end


def _is_number(value: object) -> bool:
    return _is_int(value, -(2**53), 2**53) or (isinstance(value, float) and math.isfinite(value))


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(_is_int(size, least=1) for size in value)


def _is_path(value: object) -> bool:
    if not isinstance(value, str) or not value.isprintable() or set(value) & set("\\:"):
        return False
    path = PurePosixPath(value)
    return path.as_posix() == value != "." and not path.is_absolute() and ".." not in path.parts


# What a value may be is a pair (test, name in messages); a list of any number of one kind; an object by its keys, `?`
# after one that may be null; or an object with keys of one kind, {pair: kind}.
TEXT = (lambda value: isinstance(value, str), "a string")
COUNT = (lambda value: _is_int(value, least=1), "a positive integer")
INDEX = (_is_int, "a non-negative integer")
INT64 = (lambda value: _is_int(value, end=2**63), "a non-negative integer")
NUMBER = (_is_number, "a finite number")
PATH = (_is_path, "a plain relative path")
STEPS = (lambda value: re.fullmatch("[1-9][0-9]{0,5}", value), "a number of steps")
SHA256 = (lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value), "a sha256")
SHAPE = (_is_shape, "a list of positive integers")
LATENTS = (lambda value: _is_shape(value) and len(value) == 3, "[C, H, W]")
TENSOR = {"name": TEXT, "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"), "shape": SHAPE}
ROLE = (lambda value: value in ENCODERS, f"one of {', '.join(ENCODERS)}")
ANY = (lambda value: True, "")
FIELDS = {
    "schema": COUNT,
    "generator": TEXT,
    "target": TEXT,
    "family": TEXT,
    "recipe": TEXT,
    "image": {"width": COUNT, "height": COUNT, "channels": COUNT},
    "latents": {"shape": LATENTS},
    "programs": {TEXT: {"file": PATH, "methods": {TEXT: {"inputs": [TENSOR], "outputs": [TENSOR]}}}},
    "prompt?": {
        "encoders": {
            ROLE: {"tokenizer": PATH, "length": COUNT, "pad_id": INDEX, "unknown_id?": INDEX, "prefix": TEXT},
        },
        "lower": (lambda value: isinstance(value, bool), "true or false"),
        "labels?": {TEXT: INDEX},
        "embedded?": {"file": PATH, "prompts": [TEXT]},
    },
    "sampling?": {"steps": COUNT, "guidance": NUMBER, "tables": {STEPS: ANY}},
    "noise": (lambda value: value == NOISE, NOISE),
    "golden?": {"file": PATH, "prompt": TEXT, "seed": INT64, "steps": COUNT, "guidance": NUMBER, "psnr_db": NUMBER},
    "simulation?": PATH,
    "licence": TEXT,
    "files": {PATH: {"sha256": SHA256, "bytes": INT64}},
}
# What a method of a Core ML program has besides.
FEATURES = [{"feature": TEXT}]
PACKAGED = {"package": PATH, "function": TEXT, "inputs": FEATURES, "outputs": FEATURES}


def signature(inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> dict:
    """A method's entry in the manifest, of tensors by name."""

    def describe(tensors: dict[str, torch.Tensor]) -> list[dict]:
        return [
            {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
            for name, tensor in tensors.items()
        ]

    return {"inputs": describe(inputs), "outputs": describe(outputs)}


def _check_manifest(manifest: object, path: Path) -> None:
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if _is_int(schema) and schema > SCHEMA:
        raise UserError(
            f"{path}: made by a newer edge-hadanorm (schema {schema}, this one reads up to {SCHEMA}); update"
        )
    try:
        _check(manifest, FIELDS, "")
        _check_links(manifest)
    except UserError as error:
        raise UserError(f"{path} is not a valid manifest: {error}; export the bundle again") from None


def _check(value: object, kind: tuple | list | dict, where: str) -> None:
    """Raises UserError where the value at a place of the manifest, such as `.image.width`, is not of its kind."""
    if isinstance(kind, tuple):
        fits, name = kind
        if not fits(value):
            raise UserError(f"{where or 'the whole'} is {reprlib.repr(value)}, not {name}")
    elif isinstance(kind, list):
        _check(value, (lambda value: isinstance(value, list), "a list"), where)
        for index, item in enumerate(value):
            _check(item, kind[0], f"{where}[{index}]")
    else:
        _check(value, (lambda value: isinstance(value, dict), "an object"), where)
        for key, item in kind.items():
            if isinstance(key, tuple):
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
    for role, path in _roles(manifest).items():
        may_be_folder = role == "simulation" or role in programs  # a Core ML program is a folder
        if path not in files and not (may_be_folder and path in folders):
            raise UserError(f"{path!r}, the {role}, is not in .files")
    for role, program in programs.items():
        for name, method in program["methods"].items():
            if "package" in method:
                _check(method, PACKAGED, f".programs.{role}.methods.{name}")
                if method["package"] not in folders:
                    raise UserError(f"{method['package']!r}, the package of {role}.{name}, is not in .files")
    tables = manifest["sampling"]["tables"] if manifest["sampling"] else {}
    for table in tables.values():
        SamplerTable.from_json(table)
    for part in ("sampling", "golden"):
        if manifest[part] and str(manifest[part]["steps"]) not in tables:
            raise UserError(f".{part}.steps is {manifest[part]['steps']}, for which there is no table")


def _check_signatures(programs: dict, latents: list[int], encoders: dict) -> None:
    """Raises UserError where a method could not be given what is made for it."""
    shapes = {
        (role, name, side): [tensor["shape"] for tensor in method[side]]
        for role, program in programs.items()
        for name, method in program["methods"].items()
        for side in ("inputs", "outputs")
    }
    for side, least in (("inputs", 2), ("outputs", 1)):
        found = shapes["denoiser", "denoise", side]
        if len(found) < least or found[0][1:] != latents:
            raise UserError(f".programs.denoiser.methods.denoise.{side} do not begin with [batch, *latents.shape]")
    if DECODER in programs:
        found = shapes[DECODER, "decode", "inputs"]
        if len(found) != 1 or len(found[0]) != 4:
            raise UserError(f".programs.{DECODER}.methods.decode.inputs are not one tensor [1, C, h, w]")
    for role, encoder in encoders.items():
        found = shapes[role, "encode", "inputs"]
        if not found or any(shape[1:] != [encoder["length"]] for shape in found):
            raise UserError(
                f".programs.{role}.methods.encode.inputs are not of {encoder['length']} ids each, the length"
            )


def _roles(manifest: dict) -> dict[str, str]:
    """The paths that the manifest speaks of: programs, tokenizer, golden picture, simulation."""
    paths = {role: program["file"] for role, program in manifest["programs"].items()}
    prompt = manifest["prompt"] or {"encoders": {}, "embedded": None}
    paths |= {tokenizer_of(role): encoder["tokenizer"] for role, encoder in prompt["encoders"].items()}
    paths |= {"embedded": prompt["embedded"]["file"]} if prompt["embedded"] else {}
    paths |= {"golden": manifest["golden"]["file"]} if manifest["golden"] else {}
    return paths | ({"simulation": manifest["simulation"]} if manifest["simulation"] else {})
