"""Values to pixels and back, masks, and the distance of pictures."""

from pathlib import Path

import numpy as np
import torch

from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.pipelines.pictures import read_mask, read_picture, save_png, to_pixels
from runtime_tests.app.expected.files import numbers, write

HEIGHT, WIDTH = 24, 37


def make(folder: Path) -> None:
    pictures = {
        "random": 0.6 * torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)),
        "ties": _ties(),
        "extremes": _extremes(),
    }
    pictures["levels"] = _levels()
    cases = []
    for name, values in pictures.items():
        save_png(values, folder / f"{name}.png")
        file = numbers(folder / f"{name}.f32", values)
        pixels = numbers(folder / f"{name}.i64", to_pixels(values).long())
        png, size = folder / f"{name}.png", (WIDTH, HEIGHT)
        read = {
            "read": numbers(folder / f"{name}.read", read_picture(png, size)),
            "mask": numbers(folder / f"{name}.mask", read_mask(png, size)),
        }
        cases.append(
            {"name": name, "values": file, "pixels": pixels, "png": png.name, "shape": list(values.shape), **read}
        )
    levels = {name: to_pixels(values) for name, values in pictures.items()}
    distances = [{"a": a, "b": b, "psnr_db": psnr_db(levels[a], levels[b])} for a in levels for b in levels if a != b]
    write(folder / "cases.json", {"pictures": cases, "distances": distances})


def _levels() -> torch.Tensor:
    """Every level, and colours around the middle grey, where a mask turns."""
    grey = torch.arange(256).repeat(3, 1)
    colours = torch.randint(110, 146, (3, HEIGHT * WIDTH - 256), generator=torch.Generator().manual_seed(1))
    return torch.cat([grey, colours], dim=1).reshape(3, HEIGHT, WIDTH) / 127.5 - 1


def _ties() -> torch.Tensor:
    """Values around every boundary between two levels, where rounding decides."""
    edges = ((torch.arange(256).double() + 0.5) / 127.5 - 1).float().numpy()
    near = np.concatenate([edges, np.nextafter(edges, np.float32(-2)), np.nextafter(edges, np.float32(2))])
    return torch.from_numpy(np.resize(near, (3, HEIGHT, WIDTH)))


def _extremes() -> torch.Tensor:
    values = [-1, 1, 0, -0.0, -1e30, 1e30, 1e-40, -1.0000001, 1.0000001, 0.99999994, float("inf"), -float("inf")]
    return torch.from_numpy(np.resize(np.float32(values), (3, HEIGHT, WIDTH)))
