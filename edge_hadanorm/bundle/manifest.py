"""The bundle: a folder with all that a device needs to make pictures, and manifest.json, which describes it.

README.md beside this file says what every key of the manifest means, and manifest.schema.json is its JSON Schema.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_hadanorm.bundle.schema import DECODER, IMAGE_ENCODER, MANIFEST, check_manifest, paths_by_role
from edge_hadanorm.bundle.sizes import at, size_name
from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json, write_json
from edge_hadanorm.pipelines.plans import Plan
from edge_hadanorm.pipelines.tiles import Window


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
    def sizes(self) -> list[tuple[int, int]]:
        """Widths and heights in pixels that pictures can have, the default first."""
        images = [size["image"] for size in self.manifest["sizes"].values()]
        return [self.image_size, *((image["width"], image["height"]) for image in images)]

    def at(self, size: tuple[int, int]) -> "Bundle":
        """Take the bundle for one of its sizes, width and height. Raises UserError, with the sizes, for another."""
        if size == self.image_size:
            return self
        if size not in self.sizes:
            known = [size_name(*known) for known in self.sizes]
            raise UserError(f"bundle {self.folder} has no pictures of {size_name(*size)} pixels; take {_choice(known)}")
        return Bundle(self.folder, at(self.manifest, size_name(*size)))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W of one sample."""
        channels, height, width = self.manifest["latents"]["shape"]
        return channels, height, width

    @property
    def token_length(self) -> int | None:
        """Ids of a prompt for the first text encoder; None where a prompt is no text."""
        encoders = (self.manifest["prompt"] or {"encoders": {}})["encoders"]
        return next((encoder["length"] for encoder in encoders.values()), None)

    @property
    def decode_window(self) -> Window | None:
        """Height and width of the latents that are decoded at once; None where latents are the picture."""
        return self.window(DECODER, "decode") if DECODER in self.programs else None

    @property
    def encode_window(self) -> Window:
        """Height and width in pixels of what is encoded at once. Raises UserError where there is no image encoder."""
        if IMAGE_ENCODER not in self.programs:
            raise UserError(f"bundle {self.folder} has no image encoder: export with `with_encoder`")
        return self.window(IMAGE_ENCODER, "encode")

    def window(self, role: str, method: str) -> Window:
        """Height and width of what a method of either half of the autoencoder takes at once."""
        height, width = self.programs[role]["methods"][method]["inputs"][0]["shape"][2:]
        return height, width

    @property
    def programs(self) -> dict[str, dict]:
        return self.manifest["programs"]

    @property
    def golden(self) -> dict | None:
        return self.manifest["golden"]

    @property
    def sampling(self) -> dict:
        """Defaults and plans. Raises UserError where there are none."""
        if self.manifest["sampling"] is None:
            raise UserError(f"bundle {self.folder} holds a transformer alone: it cannot draw prompts")
        return self.manifest["sampling"]

    @property
    def plans(self) -> dict[str, Plan]:
        """Plans by name, in the manifest's order; empty for a transformer alone."""
        plans = (self.manifest["sampling"] or {"plans": {}})["plans"]
        return {name: Plan.from_json(plan) for name, plan in plans.items()}

    def plan(self, name: str | int) -> Plan:
        """Look up a plan by its name, or a scheduler's by its steps. Raises UserError, with the names there are."""
        plans = self.sampling["plans"]
        if str(name) not in plans:
            raise UserError(f"bundle {self.folder} has no plan for {name} steps; take {_choice(plans)}")
        return Plan.from_json(plans[str(name)])

    def package(self, role: str, method: str) -> Path:
        """Path of the Core ML package that a method is in."""
        return self.folder / self.programs[role]["methods"][method]["package"]

    def file(self, name: str) -> Path:
        """Path of a program by its role, of `tokenizer`, `golden` or `simulation`, or of a file by its name in `files`.

        Raises UserError where the bundle has no such thing.
        """
        roles = paths_by_role(self.manifest)
        if name not in roles and name not in self.manifest["files"]:
            raise UserError(f"bundle {self.folder} has no {name!r}; ask for {_choice(roles)} or a listed file")
        return self.folder / roles.get(name, name)


def program_bytes(manifest: dict, role: str | None = None) -> int:
    """Bytes of a manifest's programs on disk, or of the one in a role."""
    chosen = [manifest["programs"][role]] if role else manifest["programs"].values()
    programs = [PurePosixPath(program["file"]) for program in chosen]
    return sum(
        entry["bytes"]
        for name, entry in manifest["files"].items()
        if any(program in (path := PurePosixPath(name), *path.parents) for program in programs)
    )


def load(folder: str | Path) -> Bundle:
    """Read the bundle in a folder, and verify it to the last byte.

    Raises UserError where there is no manifest or it does not follow the schema, and where a file is missing,
    truncated, altered, foreign or outside the folder.
    """
    folder = Path(folder)
    if not os.path.isfile(folder / MANIFEST):
        raise UserError(f"{folder} is not a bundle: it has no {MANIFEST}; `edge-hadanorm export` makes bundles")
    manifest = check_manifest(read_json(folder / MANIFEST, "manifest"), folder / MANIFEST)
    present, listed = _contents(folder), manifest["files"]
    for name in sorted({*present, *listed}):
        if problem := _problem(present.get(name), listed.get(name)):
            raise UserError(f"bundle {folder}: {name!r} {problem}")
    return Bundle(folder, manifest)


def write_manifest(folder: str | Path, manifest: dict) -> Bundle:
    """Make a folder of files a bundle: hash them into the `files` of a manifest and write it, after all else.

    Raises UserError, before it writes, where the manifest would not follow the schema.
    """
    folder = Path(folder)
    files = {name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for name, path in _contents(folder).items()}
    manifest = json.loads(json.dumps(manifest | {"files": files}))  # as a reader will see it
    check_manifest(manifest, folder / MANIFEST)
    write_json(folder / MANIFEST, manifest)
    return Bundle(folder, manifest)


def _contents(folder: Path) -> dict[str, Path]:
    """List every file in a folder but its manifest, by relative path. Raises UserError for links out, special files."""
    root, files = Path(os.path.realpath(folder)), {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if root not in Path(os.path.realpath(path)).parents:
            raise UserError(f"bundle {folder}: {name!r} is a link out of the bundle; remove it")
        if path.is_symlink() or not path.is_dir():
            if not path.is_file():
                raise UserError(f"bundle {folder}: {name!r} is not a regular file; remove it")
            files[name] = path
    files.pop(MANIFEST, None)
    return files


def _problem(path: Path | None, entry: dict | None) -> str | None:
    """Say what is wrong with a file and its entry in the manifest, each None where missing; None if nothing is."""
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


def _choice(names: Iterable[object]) -> str:
    return f"one of {', '.join(map(str, names))}"
