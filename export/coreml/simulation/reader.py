"""Reader of an .mlpackage: its MIL program as protobuf, and the constants that the program names.

Constants are read without Apple's native library. The weight file's format is that of MILBlob in coremltools: at the
offset that a program names, 64 bytes of header (sentinel, dtype, size in bytes, offset of the data), little endian.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coremltools.proto import MIL_pb2, Model_pb2
from google.protobuf.message import DecodeError

from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.coreml.simulation.operators import HELD
from edge_hadanorm.files import read_json

# What a package's program may name as the folder of its model.
MODEL_PATH = "@model_path/"
ENTRY = struct.Struct("<IIQQ")
SENTINEL = 0xDEADBEEF
# By MIL's number: name, bits, and what NumPy reads a stored one as (below a byte: packed).
DTYPES = {
    MIL_pb2.BOOL: ("bool", 8, np.bool_),
    MIL_pb2.STRING: ("string", 0, np.str_),
    MIL_pb2.FLOAT16: ("fp16", 16, np.float16),
    MIL_pb2.FLOAT32: ("fp32", 32, np.float32),
    MIL_pb2.INT8: ("int8", 8, np.int8),
    MIL_pb2.INT16: ("int16", 16, np.int16),
    MIL_pb2.INT32: ("int32", 32, np.int32),
    MIL_pb2.UINT8: ("uint8", 8, np.uint8),
    MIL_pb2.UINT16: ("uint16", 16, np.uint16),
    MIL_pb2.UINT32: ("uint32", 32, np.uint32),
    MIL_pb2.INT4: ("int4", 4, np.int8),
    MIL_pb2.UINT1: ("uint1", 1, np.uint8),
    MIL_pb2.UINT2: ("uint2", 2, np.uint8),
    MIL_pb2.UINT3: ("uint3", 3, np.uint8),
    MIL_pb2.UINT4: ("uint4", 4, np.uint8),
    MIL_pb2.UINT6: ("uint6", 6, np.uint8),
}
NUMBERS = {name: (bits, stored) for name, bits, stored in DTYPES.values()}
# A constant: a tensor, or what a tensor of strings holds.
Constant = torch.Tensor | str | list[str]


@dataclass(frozen=True)
class Type:
    """Type of a value in a program: its dtype's MIL name and its sizes, None where any will do."""

    dtype: str
    shape: tuple[int | None, ...]

    @property
    def floating(self) -> bool:
        return self.dtype.startswith("fp")

    @property
    def held(self) -> torch.dtype:
        """The dtype of torch that a value of it has in a simulation."""
        return HELD.get(self.dtype, torch.int8 if self.dtype.startswith("int") else torch.uint8)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of a constant. Raises ValueError where a part of it is not known."""
        known = tuple(size for size in self.shape if size is not None)
        if len(known) < len(self.shape):
            raise ValueError(f"a constant is {self}")
        return known

    def fits(self, shape: Sequence[int]) -> bool:
        return len(shape) == len(self.shape) and all(
            own in (None, size) for own, size in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join('?' if size is None else str(size) for size in self.shape)}]"


def type_of(proto: MIL_pb2.ValueType) -> Type:
    """Raises ValueError for what is no tensor of a dtype that is known here (states, lists, float64)."""
    kind = proto.WhichOneof("type")
    if kind != "tensorType":
        raise ValueError(f"a {kind} is no tensor")
    tensor = proto.tensorType
    if tensor.dataType not in DTYPES:
        raise ValueError(f"dtype {MIL_pb2.DataType.Name(tensor.dataType)} is not known to the simulation")
    sizes = (d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in tensor.dimensions)
    return Type(DTYPES[tensor.dataType][0], tuple(sizes))


class Package:
    """A folder X.mlpackage of an ML program.

    functions: by name, as protobuf. computed: constants that are stored as codes, by what is stored.
    Raises UserError where there is no such package, or one of another kind.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"Core ML package {folder} is no folder X.mlpackage; check the path")
        self.model = self._model_file()
        try:
            spec = Model_pb2.Model.FromString(self.model.read_bytes())
        except (OSError, DecodeError) as error:
            raise UserError(f"Core ML package {folder}: {self.model.name} is broken ({error}); convert again") from None
        if (kind := spec.WhichOneof("Type")) != "mlProgram":
            raise UserError(
                f"Core ML package {folder} holds a {kind or 'model of no kind'}, not an ML program; "
                'convert again with convert_to="mlprogram"'
            )
        self.functions: dict[str, MIL_pb2.Function] = dict(spec.mlProgram.functions)
        self.computed: dict[tuple, torch.Tensor] = {}
        self._read: dict[tuple, torch.Tensor] = {}

    def _model_file(self) -> Path:
        manifest: Any = read_json(self.folder / "Manifest.json", "manifest of Core ML package")
        try:
            path = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
            return self._inside(self.folder / "Data" / path)
        except (KeyError, TypeError):
            raise UserError(f"Core ML package {self.folder}: its manifest names no model; convert again") from None

    def _inside(self, path: Path) -> Path:
        """Raises UserError for a path to outside the package, or to no file."""
        if not path.resolve().is_relative_to(self.folder.resolve()) or not path.is_file():
            raise UserError(f"Core ML package {self.folder}: it has no file {path.name}; copy it again")
        return path

    def value(self, proto: MIL_pb2.Value, keep: bool = True) -> Constant:
        """A constant of the program; one in a file that is kept is read once, however many functions name it.

        Raises UserError where a weight file is missing or broken, ValueError for a value that is no tensor.
        """
        kind = type_of(proto.type)
        if proto.WhichOneof("value") == "immediateValue":
            return immediate(proto.immediateValue, kind)
        key = (proto.blobFileValue.fileName, proto.blobFileValue.offset, kind)
        if key in self._read:
            return self._read[key]
        value = held(self._stored(*key[:2], kind), kind)
        if keep:
            self._read[key] = value
        return value

    def _stored(self, name: str, offset: int, kind: Type) -> np.ndarray:
        """The bytes of a value in a file of weights, which stay there."""
        file = self._inside(self.model.parent / name.removeprefix(MODEL_PATH))
        data = np.memmap(file, np.uint8, mode="c")  # a writable view, as torch asks for; the file stays as it is
        header = data[offset : offset + ENTRY.size].tobytes()
        sentinel, _, size, start = ENTRY.unpack(header) if len(header) == ENTRY.size else (0, 0, 0, 0)
        if sentinel != SENTINEL or start + size > len(data) or size != stored_bytes(kind):
            raise UserError(f"Core ML package {self.folder}: {file.name} is broken at {offset}; copy it again")
        return data[start : start + size]


def stored_bytes(kind: Type) -> int:
    return -(-int(np.prod(kind.sizes, dtype=np.int64)) * NUMBERS[kind.dtype][0] // 8)


def immediate(proto: MIL_pb2.Value.ImmediateValue, kind: Type) -> Constant:
    """A constant within the program. Raises ValueError for what is no tensor."""
    if proto.WhichOneof("value") != "tensor":
        raise ValueError(f"a {proto.WhichOneof('value')} is no tensor")
    values = getattr(proto.tensor, proto.tensor.WhichOneof("value")).values
    if kind.dtype == "string":
        return list(values) if kind.shape else values[0]
    if isinstance(values, bytes):
        return held(np.frombuffer(bytearray(values), np.uint8), kind)
    return torch.from_numpy(np.array(values, NUMBERS[kind.dtype][1])).to(kind.held).reshape(kind.sizes)


def held(data: np.ndarray, kind: Type) -> torch.Tensor:
    """Stored bytes as the tensor that a simulation holds of them: float32 for fp16, a byte for less than a byte."""
    bits, stored = NUMBERS[kind.dtype]
    small = bits < 8
    array = unpacked(data, bits, int(np.prod(kind.sizes)), stored is np.int8) if small else data.view(stored)
    return torch.from_numpy(array).to(kind.held).reshape(kind.sizes)


def unpacked(data: np.ndarray, bits: int, count: int, signed: bool) -> np.ndarray:
    """The first `count` numbers of so many bits in bytes, the least significant first."""
    if 8 % bits == 0:
        numbers = data[:, None] >> np.arange(0, 8, bits, dtype=np.uint8) & (1 << bits) - 1
    else:
        stream = np.unpackbits(data, bitorder="little")
        numbers = stream[: len(stream) // bits * bits].reshape(-1, bits) @ (1 << np.arange(bits))
    numbers = numbers.reshape(-1)[:count]
    if not signed:
        return numbers.astype(np.uint8)
    return (numbers.astype(np.int8) ^ (1 << bits - 1)) - (1 << bits - 1)
