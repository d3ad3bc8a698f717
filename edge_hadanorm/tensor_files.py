"""Tensors at the edges: safetensors in and out, whole model folders, values that are not finite."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json

T = TypeVar("T")
# Name of the weights that diffusers saves, without suffix.
STEM = "diffusion_pytorch_model"
# Reads something of a file by the name of each tensor: the tensors, their shapes, where they are.
Read = Callable[[str | Path], dict[str, T]]


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read one safetensors file, on the CPU. Raises UserError where it is missing, truncated or no such file."""
    return _read(path, load_file)


def read_shapes(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the header of a safetensors file: float32 tensors of its shapes on the meta device.

    Raises UserError as `read_tensors` does.
    """

    def header(path: str | Path) -> dict[str, torch.Tensor]:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}

    return _read(path, header)


def _read(path: str | Path, read: Callable[[str | Path], T]) -> T:
    """Call what reads a safetensors file. Raises UserError for a file that it cannot read."""
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
        raise UserError(f"cannot write {path}: {error}; make room or give another `out`") from None


def read_weights(
    folder: str | Path, stem: str = STEM, read: Read[torch.Tensor] = read_tensors
) -> dict[str, torch.Tensor]:
    """Read a model folder: STEM or `model` as one file or as indexed shards, else its only *.safetensors.

    read: reads one file, as `read_tensors` and `read_shapes` do. Raises UserError where there are no weights, or
    several files with no index, or where index and shards disagree.
    """
    return _read_folder(folder, stem, read)


def _read_folder(folder: str | Path, stem: str, read: Read[T]) -> dict[str, T]:
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


def _read_shards(index: Path, read: Read[T]) -> dict[str, T]:
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


class LazyWeights(Mapping[str, torch.Tensor]):
    """Weights of a model folder in float32, each read when it is needed, with one shard open at a time.

    Raises UserError as `read_weights` does, and for a tensor that is not finite when that is read.
    """

    def __init__(self, folder: str | Path):
        self._files = _read_folder(folder, STEM, _locations)
        self._path: str | Path | None = None
        self._open: Any = None

    def __getitem__(self, name: str) -> torch.Tensor:
        if self._files[name] != self._path:
            self._path = self._files[name]
            self._open = _read(self._files[name], lambda path: safe_open(path, "pt"))
        # A copy, so that nothing keeps the mapped file in memory.
        tensor = self._open.get_tensor(name).to(torch.float32, copy=True)
        require_finite({name: tensor}, "weights")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _locations(path: str | Path) -> dict[str, str | Path]:
    """Map the name of each tensor in a file to the file."""
    return dict.fromkeys(read_shapes(path), path)


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
