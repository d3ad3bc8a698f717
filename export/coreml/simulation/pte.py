"""The Core ML programs inside an ExecuTorch program, ready to be simulated.

A delegate's data is a folder in one piece, with model.mlpackage and metadata.json, or where methods share weights
`CMJR` and JSON that names such a folder in the program's named data, and a function in its package. Folders are read
here, for the reader that ExecuTorch brings crashes on broken ones.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary

from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.coreml.simulation.interpreter import Function, load
from edge_hadanorm.files import read_json

BACKEND = "CoreMLBackend"
PACKAGE, METADATA = "model.mlpackage", "metadata.json"
REFERENCE = b"CMJR"
MAIN = "main"
# A node's kind.
FILE = 0


@dataclass(frozen=True)
class Delegate:
    """A Core ML delegate of a method of an ExecuTorch program.

    function: what it computes, by names. inputs, outputs: those names in the order in which the method calls it.
    """

    method: str
    function: Function
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def load_delegates(program: str | Path, precision: str = "declared") -> list[Delegate]:
    """The Core ML delegates of a .pte, method by method, each in its order.

    Raises UserError for a missing or broken program, one without such delegates, or with compiled ones.
    """
    path = Path(program)
    try:
        file = deserialize_pte_binary(path.read_bytes())
    except OSError as error:
        raise UserError(f"program {path} cannot be read: {error.strerror}; check the path") from None
    except Exception as error:  # flatc and ExecuTorch raise whatever the file made them raise
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path} is no ExecuTorch program ({reason}); export it again") from None
    delegates, shared = [], {}
    for method, data in delegate_data(file):
        try:
            if data.startswith(REFERENCE):
                reference = json.loads(data[len(REFERENCE) :])
                key, function = reference["key"], reference["functionName"]
                if key not in shared:
                    shared[key] = _unpacked(path, named_data(file, key), precision)
                functions, metadata = shared[key]
            else:
                function = MAIN
                functions, metadata = _unpacked(path, data, precision)
            names = metadata.get("methods", {}).get(function, metadata)
            inputs, outputs = tuple(names["inputNames"]), tuple(names["outputNames"])
            delegates.append(Delegate(method, functions[function], inputs, outputs))
        except (KeyError, IndexError, TypeError, AttributeError, json.JSONDecodeError):
            raise UserError(f"program {path}: the data of a Core ML delegate is broken; export it again") from None
    if not delegates:
        raise UserError(f"program {path} has no Core ML delegate; export it for Core ML")
    return delegates


def delegate_data(file: PTEFile) -> Iterator[tuple[str, bytes]]:
    """Methods and the data of their Core ML delegates."""
    for plan in file.program.execution_plan:
        for delegate in plan.delegates:
            if delegate.id == BACKEND:
                yield plan.name, bytes(file.program.backend_delegate_data[delegate.processed.index].data)


def named_data(file: PTEFile, key: str) -> bytes:
    return bytes(file.named_data.buffers[file.named_data.pte_data[key].buffer_index])


def _unpacked(path: Path, data: bytes, precision: str) -> tuple[dict[str, Function], dict]:
    """Functions and metadata; what they map of the folder stays readable when it is gone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in folder_files(data).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        if not (folder / PACKAGE).is_dir():
            raise UserError(f"program {path} holds a compiled Core ML model, which a Mac alone runs; export MODEL")
        metadata: Any = read_json(folder / METADATA, "metadata of Core ML delegate")
        return load(folder / PACKAGE, precision), metadata


def folder_files(data: bytes) -> dict[str, memoryview]:
    """Contents by path in a folder in one piece.

    Its last bytes, in reverse, are JSON: nodes, children before their parents and the folder last, each with its
    name, and the region of a file or the numbers of children. Raises KeyError, IndexError or JSONDecodeError for what
    is none.
    """
    nodes, files = _trailer(data)["nodes"], {}

    def walk(number: int, below: int, path: str) -> None:
        node = nodes[number]
        if not 0 <= number < below:
            raise IndexError(f"node {number} in node {below}")
        for name, child in node["children"].items():
            if name in ("", ".", "..") or "/" in name or "\\" in name:
                raise KeyError(name)
            walk(child, number, f"{path}/{name}" if path else name)
        if node["kind"] == FILE:
            if not path:
                raise KeyError("a file is no folder")
            start, size = node["dataRegion"]["offset"], node["dataRegion"]["size"]
            if start < 0 or size < 0 or start + size > len(data):
                raise IndexError(f"{size} bytes at {start} of {len(data)}")
            files[path] = memoryview(data)[start : start + size]

    walk(len(nodes) - 1, len(nodes), "")
    return files


def _trailer(data: bytes, length: int = 1 << 16) -> dict:
    """The JSON that ends, in reverse, with the data."""
    text = data[-length:][::-1].decode("latin-1")
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except json.JSONDecodeError:
        if length >= len(data) or not text.startswith("{"):
            raise
        return _trailer(data, 16 * length)
