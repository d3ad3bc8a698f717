"""Random pictures that others begin with, and masks, as PNG files that Java reads too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edge_hadanorm.pipelines.drawing import Original
from edge_hadanorm.pipelines.pictures import read_mask, read_picture


@dataclass(frozen=True)
class Begin:
    """How a picture begins with a known one: at a strength, with a mask or without."""

    strength: float
    masked: bool = False


def made(folder: Path, name: str, size: tuple[int, int], begin: Begin, seed: int) -> tuple[Original, dict]:
    """An original of a width and height, and how Java finds it: {picture, mask, strength}, the names of files.

    Grey masks are in colours, as Java changes the levels of a grey file.
    """
    draw = np.random.default_rng(seed)
    files = [f"{name}.picture.png", *([f"{name}.mask.png"] if begin.masked else [])]
    for file in files:
        Image.fromarray(draw.integers(0, 256, (*reversed(size), 3), dtype=np.uint8)).save(folder / file)
    found = {"picture": files[0], "mask": files[1] if begin.masked else None, "strength": begin.strength}
    return read(folder, found, size), found


def read(folder: Path, found: dict, size: tuple[int, int]) -> Original:
    """An original as Java finds it."""
    mask = None if found["mask"] is None else read_mask(folder / found["mask"], size)
    picture = read_picture(folder / found["picture"], size)
    return Original(picture.contiguous(), mask)  # ExecuTorch reads the memory of its inputs as if it lay in this order
