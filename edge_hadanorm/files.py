"""Files at the edges: JSON and safetensors in, folders and files out that appear whole or not at all.

Every mistake of the user (a missing file, a truncated one, an output that cannot be written) is a UserError.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from edge_hadanorm.errors import UserError

# What this tool writes holds one of these; --force replaces no other folder, so never a home directory by mistake.
MARKERS = ("manifest.json", "recipe.json", "results.json")
# The tensors of a file.
Read = Callable[[str | Path], dict[str, torch.Tensor]]
# What a disk answers that cannot take a file: full, over quota, file too large for it.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What is not worth writing twice, as text encoders are.
LARGE_BYTES = 64 << 20


def read_json(path: str | Path, what: str) -> object:
    """The value in a UTF-8 JSON file. `what` says in messages what the file is.

    The -Infinity and NaN that diffusers writes into scheduler configs are read as floats. Raises UserError where the
    file is missing, unreadable, not UTF-8 or not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}; check the path") from None
    except (ValueError, RecursionError) as error:  # also an integer or a nesting beyond what Python reads
        raise UserError(f"{what} {path} is not JSON in UTF-8: {error}; correct it or copy it again") from None


def write_json(path: str | Path, obj: object) -> None:
    """Write an object as indented JSON, its keys in the order given; NaN and infinity, which JSON lacks, as null.

    Raises UserError where the file cannot be written.
    """
    text = json.dumps(_without_infinities(obj), indent=1, allow_nan=False) + "\n"
    with _as_user_error(path):
        Path(path).write_text(text, encoding="utf-8")


def _without_infinities(obj: object) -> object:
    if isinstance(obj, dict):
        return {key: _without_infinities(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_without_infinities(value) for value in obj]
    return None if isinstance(obj, float) and not math.isfinite(obj) else obj


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of one safetensors file, on the CPU. Raises UserError where it is missing, truncated or no such."""
    return _opened(path, load_file)


def read_shapes(path: str | Path) -> dict[str, torch.Tensor]:
    """The same of its header alone: float32 tensors on the meta device, without values."""

    def header(path: str | Path) -> dict[str, torch.Tensor]:
        with safe_open(path, "pt") as file:
            return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118

    return _opened(path, header)


def _opened(path: str | Path, read: Read) -> dict[str, torch.Tensor]:
    try:
        return read(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path or copy the file again") from None
    except OSError as error:
        what = "it is a folder" if os.path.isdir(path) else error  # safetensors maps it, which says "No such device"
        raise UserError(f"{path} cannot be read: {what}; check the path") from None
    except SafetensorError:
        raise UserError(f"{path} is truncated or not a safetensors file; copy it again") from None


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as one safetensors file. Raises UserError where it cannot be written, as on a full disk."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {path}: {error}; make room or give another --out") from None


def read_weights(
    folder: str | Path, stem: str = "diffusion_pytorch_model", read: Read = read_tensors
) -> dict[str, torch.Tensor]:
    """The weights of a model folder: STEM or `model` as one file or as indexed shards, else its only *.safetensors.

    read: what reads a file, `read_tensors` or `read_shapes`. Raises UserError where there are none, or several with no
    index, or where index and shards disagree.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder of weights; check the path")
    for name in dict.fromkeys((stem, "model")):
        if os.path.lexists(file := folder / f"{name}.safetensors"):
            return read(file)
        if os.path.lexists(file := folder / f"{name}.safetensors.index.json"):
            return _read_shards(file, read)
    files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("."))
    if not files:
        raise UserError(
            f"{folder} has no {stem}.safetensors: only safetensors are read, never .bin pickles; "
            "save the model with safe_serialization=True"
        )
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise UserError(f"{folder} has {len(files)} safetensors files ({names}, ...); name one {stem}.safetensors")
    return read(files[0])


def _read_shards(index: Path, read: Read) -> dict[str, torch.Tensor]:
    content = read_json(index, "shard index")
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict) or not where:
        raise UserError(f"shard index {index} has no weight_map of tensor to file; copy it again")
    for name, file in where.items():
        if not isinstance(file, str) or not file.isprintable() or not file.strip(".") or set(file) & set("/\\:"):
            raise UserError(f"shard index {index} gives {file!r} for {name!r}, not a file name in its folder")
    shards = {file: read(index.parent / file) for file in sorted(set(where.values()))}
    for name, file in where.items():
        if name not in shards[file]:
            raise UserError(f"{index.parent / file} lacks {name!r}, which {index.name} places there; copy both again")
    return {name: shards[file][name] for name, file in where.items()}


class Weights(Mapping[str, torch.Tensor]):
    """The weights of a model folder in float32, each read when it is asked for, with one shard open at a time.

    Raises UserError as `read_weights` does, and for a tensor that is not finite when that is read.
    """

    def __init__(self, folder: str | Path):
        self._files = read_weights(folder, read=_locations)
        self._path, self._open = None, None

    def __getitem__(self, name: str) -> torch.Tensor:
        if self._files[name] != self._path:
            self._path = self._files[name]
            self._open = _opened(self._path, lambda path: safe_open(path, "pt"))
        # A copy, so that nothing keeps the mapped file in memory.
        tensor = self._open.get_tensor(name).to(torch.float32, copy=True)
        require_finite({name: tensor}, "weights")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _locations(path: str | Path) -> dict[str, str | Path]:
    """The file by the name of each tensor in it."""
    return dict.fromkeys(read_shapes(path), path)


def link_or_copy(source: str, target: str) -> None:
    """For shutil.copytree: a large file becomes a link to the same bytes where the file system can.

    Raises UserError where the disk is full, which copytree would not tell from other errors.
    """
    if os.path.getsize(source) >= LARGE_BYTES:
        with suppress(OSError):
            os.link(os.path.realpath(source), target)
            return
    with _as_user_error(target, FULL):
        shutil.copy2(source, target)


def require_finite(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises UserError that names the first tensor with NaN or an infinity; `what` says whose tensors they are."""
    for name, tensor in tensors.items():
        values = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor  # for float8
        if not (finite := torch.isfinite(values)).all():
            bad = finite.numel() - int(finite.sum())
            raise UserError(
                f"{what}: {bad} of {finite.numel()} values of {name!r} are NaN or infinite; "
                "compute them again in float32"
            )


@contextmanager
def new_folder(out: str | Path, force: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends and leaves no trace when the block fails.

    It lies beside `out` as `.NAME.partial`; one that a killed run left is removed first. Missing parents are created.
    With `force` an earlier `out` of ours stays until its successor is complete. Raises UserError, before the block,
    where `out` exists (or, with force, is not ours to replace) or cannot be created, inside it where the disk is full,
    and after it where it cannot be moved into place.
    """
    target = Path(os.path.realpath(out))
    partial, replaced = (target.parent / f".{target.name}.{state}" for state in ("partial", "replaced"))
    with _as_user_error(out):
        if replaced.exists() and not target.exists():
            replaced.rename(target)  # an earlier run was killed between the two moves at its end
        _require_free(target, force)
    parents = []
    try:
        with _as_user_error(out):
            for parent in reversed([parent for parent in target.parents if not parent.exists()]):
                parent.mkdir(exist_ok=True)
                parents.append(parent)
            if os.path.lexists(partial):
                shutil.rmtree(partial)
            partial.mkdir()
        with _as_user_error(out, FULL):
            yield partial
        with _as_user_error(out):
            _require_free(target, force)
            if target.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                target.rename(replaced)
            partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            for parent in reversed(parents):
                parent.rmdir()
        raise
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def new_file(out: str | Path) -> Iterator[Path]:
    """A path to write, with the suffix of `out`, which replaces `out` when the block ends and vanishes when it fails.

    Raises UserError, before the block, where the parent folder is missing or cannot be written or where `out` is not
    a regular file, inside it where the disk is full, and after it where the file cannot be moved into place.
    """
    target = Path(os.path.realpath(out))
    partial = target.parent / f".{target.stem}.partial{target.suffix}"
    with _as_user_error(out):
        if os.path.exists(out) and not os.path.isfile(out):  # /dev/null must not become a regular file
            raise UserError(f"{out} is not a file; give another --out")
        if not target.parent.is_dir():
            raise UserError(f"cannot write {out}: {target.parent} is not a folder; create it or give another --out")
        partial.unlink(missing_ok=True)
        partial.touch(exist_ok=False)
    try:
        with _as_user_error(out, FULL):
            yield partial
        with _as_user_error(out):
            os.replace(partial, target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _require_free(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target} is a file; give another --out")
    if not force:
        raise UserError(f"{target} exists; use --force to replace it or give another --out")
    if os.path.ismount(target):
        raise UserError(f"{target} is a mount point, which cannot be replaced; give a folder inside it as --out")
    if any(target.iterdir()) and not any((target / marker).exists() for marker in MARKERS):
        raise UserError(f"{target} holds files that edge-hadanorm did not write; remove it or give another --out")


@contextmanager
def _as_user_error(out: str | Path, codes: tuple[int, ...] | None = None) -> Iterator[None]:
    """An OSError inside, of these codes or any, as a UserError."""
    try:
        yield
    except OSError as error:
        if codes is not None and error.errno not in codes:
            raise
        way = "make room or " if error.errno in FULL else ""
        raise UserError(f"cannot write {out}: {error.strerror or error}; {way}give another --out") from None
