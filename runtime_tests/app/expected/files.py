"""Files that Java reads."""

import json
from pathlib import Path

import numpy as np


def write(path: Path, value: object) -> None:
    """JSON, strictly."""
    path.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")


def numbers(path: Path, values) -> str:
    """float32 or int64 numbers, raw and little-endian; the file's name."""
    array = np.ascontiguousarray(values)
    assert array.dtype in (np.float32, np.int64), array.dtype
    path.write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return path.name
