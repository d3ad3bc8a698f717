"""The bundle: a folder with all that a device needs to make pictures, and manifest.json, which describes it.

The manifest is one JSON object in UTF-8. A reader ignores keys that it does not know and refuses a newer schema.

    schema       2
    generator    name and version of what wrote the bundle
    target       what the programs are for: xnnpack (ExecuTorch .pte), coreml, coreml-pte
    family       the transformer's class in diffusers
    recipe       name of the quantization recipe
    image        {width, height, channels} of a picture
    latents      {shape}: [C, H, W] of one sample
    programs     {role: {file, methods: {method: {inputs: [tensor], outputs: [tensor]}}}}, tensor {name, dtype, shape}.
                 Arguments and results are in the order listed, their shapes fixed. Roles:
                     text_encoder, text_encoder_2, text_encoder_3, as far as the model has them
                                    encode(ids, and a mask where listed: 1 for tokens, 0 for padding) -> states...
                     denoiser       prepare(inputs...) -> conditioning, one tensor or more. By name, its inputs are
                                    outputs of the encoders and masks that those were given (mask, mask_2, ...), or
                                    `label`, the number of a class. Of a transformer alone they are the caller's
                                    denoise(latents, timestep, conditioning...) -> prediction
                     image_decoder  decode(latents [1, C, h, w]) -> picture [1, 3, H, W], of latents or of a tile
                                    of them (decoder.py mixes the tiles); absent where latents are pixels
                 For coreml, a method has {package, function}, the folder X.mlpackage that it is in and its name
                 there, and a tensor has {feature}, its name there; `file` is that package or a folder of several.
                 A program may have {notes}, lines that its user should read
                 Row 0 of ids, states, latents and prediction is for the empty text, row 1 for the prompt
    prompt       {encoders, lower, labels, embedded} or null, for a transformer alone. One of these is not empty:
                     encoders       {role: {tokenizer, length, pad_id, unknown_id, prefix}}. tokenizer: a `tokenizers`
                                    JSON file. length: of the ids, which pad_id fills up. unknown_id: of words not in
                                    the vocabulary, or null. prefix: stands before every prompt but the empty one
                     labels         {name: number} of the classes that can be drawn, or null; the empty prompt has
                                    the number of classes
                     embedded       {file, prompts} or null: what encoders gave of these prompts, safetensors [n, ...]
                                    by name; row 0 is of the empty prompt, row i of the i-th
                 lower: whether prompts are lower-cased, and stripped of white space at their ends
    sampling     {steps, guidance, tables: {"8": table}} or null: the defaults, and a table for each number of steps
                 that can be asked for (sampling.py defines table and loop). With the predictions of the text and of the
                 empty text, a step takes empty + guidance * (text - empty); at guidance 1 that of the text alone
    noise        "philox4x32-10/box-muller": noise.py defines the bits of a seed; a sample is filled row by row
    golden       {file, prompt, seed, steps, guidance, psnr_db} or null: a self-check. What the device makes of the same
                 has a PSNR of at least psnr_db to the picture in file
    simulation   folder of the quantized checkpoint, for a host that has no runtime for the target, or null
    licence      of the weights
    files        {path: {sha256, bytes}} of every file but manifest.json: 64 lower-case hex digits, and the size

Paths are relative to the bundle, with `/`, without `.`, `..`, `:` or `\\`. A dtype is one of float32, float16,
bfloat16, int64, int32, int16, int8, uint8, bool. A pixel is x, the last latents or what a decoder makes of them, as
min(max((x + 1) * 127.5, 0), 255) rounded half to even, in the order channel, row, column.
"""

import hashlib
import json
import math
import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json, write_json
from edge_hadanorm.pipelines import tokenizer_of
from edge_hadanorm.sampling import SamplerTable

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


@dataclass(frozen=True)
class Bundle:
    """A bundle as data. Every file of one that `load` returns has been verified."""

    folder: Path
    manifest: dict

    @property
    def target(self) -> str:
        return self.manifest["target"]

    @property
    def recipe(self) -> str:
        return self.manifest["recipe"]

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.manifest["image"]["width"], self.manifest["image"]["height"]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return tuple(self.manifest["latents"]["shape"])

    @property
    def token_length(self) -> int | None:
        """Of the first text encoder; None where a prompt is no text."""
        encoders = (self.manifest["prompt"] or {"encoders": {}})["encoders"]
        return next((encoder["length"] for encoder in encoders.values()), None)

    @property
    def decode_side(self) -> int | None:
        """Side of the latents that are decoded at once; None where latents are the picture."""
        if DECODER not in self.programs:
            return None
        return self.programs[DECODER]["methods"]["decode"]["inputs"][0]["shape"][-1]

    @property
    def programs(self) -> dict[str, dict]:
        return self.manifest["programs"]

    @property
    def golden(self) -> dict | None:
        return self.manifest["golden"]

    @property
    def tables(self) -> dict[int, SamplerTable]:
        """By number of steps, ascending; empty for a transformer alone."""
        tables = (self.manifest["sampling"] or {"tables": {}})["tables"]
        return {steps: SamplerTable.from_json(tables[str(steps)]) for steps in sorted(map(int, tables))}

    def table(self, steps: int) -> SamplerTable:
        """The table for a number of steps. Raises UserError, with the numbers that there are, where it is none."""
        if not (tables := self.tables):
            raise UserError(f"bundle {self.folder} has no sampler tables; export a whole pipeline to make pictures")
        if steps not in tables:
            raise UserError(f"bundle {self.folder} has no table for {steps} steps; take {_choice(tables)}")
        return tables[steps]

    def package(self, role: str, method: str) -> Path:
        """The Core ML package that a method is in."""
        return self.folder / self.programs[role]["methods"][method]["package"]

    def file(self, name: str) -> Path:
        """Path of a program by its role, of `tokenizer`, `golden` or `simulation`, or of a file by its name in `files`.

        Raises UserError where the bundle has no such thing.
        """
        roles = _roles(self.manifest)
        if name not in roles and name not in self.manifest["files"]:
            raise UserError(f"bundle {self.folder} has no {name!r}; ask for {_choice(roles)} or a listed file")
        return self.folder / roles.get(name, name)


def program_bytes(manifest: dict) -> int:
    """What the programs of a manifest take on disk."""
    programs = [PurePosixPath(program["file"]) for program in manifest["programs"].values()]
    return sum(
        entry["bytes"]
        for name, entry in manifest["files"].items()
        if any(program in (path := PurePosixPath(name), *path.parents) for program in programs)
    )


def load(folder: str | Path) -> Bundle:
    """The bundle in a folder, verified to the last byte.

    Raises UserError where there is no manifest or it does not follow the schema, and where a file is missing,
    truncated, altered, foreign or outside the folder.
    """
    folder = Path(folder)
    if not os.path.isfile(folder / MANIFEST):
        raise UserError(f"{folder} is not a bundle: it has no {MANIFEST}; `edge-hadanorm export` makes bundles")
    manifest = read_json(folder / MANIFEST, "manifest")
    _check_manifest(manifest, folder / MANIFEST)
    found, listed = _contents(folder), manifest["files"]
    for name in sorted({*found, *listed}):
        if problem := _problem(found.get(name), listed.get(name)):
            raise UserError(f"bundle {folder}: {name!r} {problem}")
    return Bundle(folder, manifest)


def write_manifest(folder: str | Path, manifest: dict) -> Bundle:
    """Make a folder of files a bundle: hash them into the `files` of a manifest and write it, after all else.

    Raises UserError, before it writes, where the manifest would not follow the schema.
    """
    folder = Path(folder)
    files = {name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for name, path in _contents(folder).items()}
    manifest = json.loads(json.dumps(manifest | {"files": files}))  # as a reader will see it
    _check_manifest(manifest, folder / MANIFEST)
    write_json(folder / MANIFEST, manifest)
    return Bundle(folder, manifest)


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


def _contents(folder: Path) -> dict[str, Path]:
    """Every file in a folder but its manifest, by relative path. Raises UserError for links out and special files."""
    root, found = Path(os.path.realpath(folder)), {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if root not in Path(os.path.realpath(path)).parents:
            raise UserError(f"bundle {folder}: {name!r} is a link out of the bundle; remove it")
        if path.is_symlink() or not path.is_dir():
            if not path.is_file():
                raise UserError(f"bundle {folder}: {name!r} is not a regular file; remove it")
            found[name] = path
    found.pop(MANIFEST, None)
    return found


def _problem(path: Path | None, entry: dict | None) -> str | None:
    """What is wrong with a file that is there (or not) and its entry in the manifest (or none)."""
    if path is None:
        return "is missing; copy the bundle again"
    if entry is None:
        return "is foreign, the manifest does not list it; remove it"
    try:
        if (size := path.stat().st_size) != entry["bytes"]:
            return f"is truncated or of the wrong size, {size} bytes instead of {entry['bytes']}; copy the bundle again"
        return None if _sha256(path) == entry["sha256"] else "was altered, its sha256 differs; copy the bundle again"
    except OSError as error:
        return f"cannot be read: {error.strerror}; check its permissions"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _choice(names) -> str:
    return f"one of {', '.join(map(str, names))}"
