"""Files at the edges: JSON in and out, folders and files that appear whole or not at all.

Every mistake of the user (a missing file, a truncated one, an output that cannot be written) is a UserError. Messages
name the parameters `out` and `force` of the function that the user called.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_hadanorm.errors import UserError

# Every folder that this package writes holds one of these. `force` replaces no other, so never a home directory.
MARKERS = ("manifest.json", "recipe.json", "results.json")
# Errors of a disk that cannot take a file: full, over quota, file too large for it.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Files from this size on, such as text encoders' weights, are linked rather than copied.
LARGE_BYTES = 64 << 20


def read_json(path: str | Path, what: str) -> object:
    """Read the value in a UTF-8 JSON file. `what` names the file in messages.

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


def read_object(path: str | Path, what: str) -> dict:
    """Read a JSON file that holds an object. Raises UserError as `read_json` does, and for another value."""
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise UserError(f"{what} {path} is a {type(value).__name__}, not a JSON object; copy it again")
    return value


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


def link_or_copy(source: str, target: str) -> None:
    """Link a large file, where the file system can, and copy any other; a `copy_function` of shutil.copytree.

    Raises UserError where the disk is full, which copytree would not tell from other errors.
    """
    if os.path.getsize(source) >= LARGE_BYTES:
        with suppress(OSError):
            os.link(os.path.realpath(source), target)
            return
    with _as_user_error(target, FULL):
        shutil.copy2(source, target)


@contextmanager
def new_folder(out: str | Path, force: bool = False) -> Iterator[Path]:
    """Make a folder to fill, which becomes `out` when the block ends and leaves no trace when the block fails.

    It lies beside `out` as `.NAME.partial`; one that a killed run left is removed first. Missing parents are created.
    With `force` an earlier `out` of ours stays until its successor is complete. Raises UserError, before the block,
    where `out` exists (or, with `force`, holds a foreign folder) or cannot be created, inside it where the disk is
    full, and after it where it cannot be moved into place.
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
    """Make a file to write, with the suffix of `out`, which replaces `out` when the block ends and vanishes on failure.

    Raises UserError, before the block, where the parent folder is missing or cannot be written or where `out` is not
    a regular file, inside it where the disk is full, and after it where the file cannot be moved into place.
    """
    target = Path(os.path.realpath(out))
    partial = target.parent / f".{target.stem}.partial{target.suffix}"
    with _as_user_error(out):
        if os.path.exists(out) and not os.path.isfile(out):  # /dev/null must not become a regular file
            raise UserError(f"{out} is not a file; give another `out`")
        if not target.parent.is_dir():
            raise UserError(f"cannot write {out}: {target.parent} is not a folder; create it or give another `out`")
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
        raise UserError(f"{target} is a file; give another `out`")
    if not force:
        raise UserError(f"{target} exists; use `force` to replace it or give another `out`")
    if os.path.ismount(target):
        raise UserError(f"{target} is a mount point, which cannot be replaced; give a folder inside it as `out`")
    if any(target.iterdir()) and not any((target / marker).exists() for marker in MARKERS):
        raise UserError(f"{target} holds files that edge-hadanorm did not write; remove it or give another `out`")


@contextmanager
def _as_user_error(out: str | Path, codes: tuple[int, ...] | None = None) -> Iterator[None]:
    """Raise an OSError of the block, of these codes or any, as a UserError."""
    try:
        yield
    except OSError as error:
        if codes is not None and error.errno not in codes:
            raise
        way = "make room or " if error.errno in FULL else ""
        raise UserError(f"cannot write {out}: {error.strerror or error}; {way}give another `out`") from None
