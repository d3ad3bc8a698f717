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
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_hadanorm.bundle.schema import DECODER, MANIFEST, _check_manifest, _roles
from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json, write_json
from edge_hadanorm.pipelines.sampling import SamplerTable


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
