"""Pictures: pixels of latents, files of pictures and masks."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from edge_hadanorm.errors import UserError

Source = Image.Image | str | Path


def to_pixels(latents: torch.Tensor) -> torch.Tensor:
    """Convert values in [-1, 1] to pixels uint8 of the same shape, rounded half to even."""
    return ((latents + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def to_image(latents: torch.Tensor) -> Image.Image:
    """Make an image from values [3, H, W] in [-1, 1]."""
    return Image.fromarray(to_pixels(latents).permute(1, 2, 0).numpy())


def save_png(latents: torch.Tensor, file: Path) -> None:
    """Write a picture [3, H, W] in [-1, 1] as PNG."""
    to_image(latents).save(file, format="PNG")


def read_picture(file: Source, size: tuple[int, int]) -> torch.Tensor:
    """Read a picture [3, H, W] in [-1, 1] of a width and height, cut to their proportions around its centre.

    What is transparent becomes white. Raises UserError for what is no picture.
    """
    image = _opened(file)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return torch.from_numpy(_fitted(image.convert("RGB"), size)).permute(2, 0, 1).contiguous() / 127.5 - 1


def read_mask(file: Source, size: tuple[int, int]) -> torch.Tensor:
    """Read a mask [H, W], cut as `read_picture` does: 1 where the file is nearer to white than to black, else 0."""
    return torch.from_numpy(_fitted(_opened(file).convert("L"), size) >= 128).to(torch.float32)


def _opened(file: Source) -> Image.Image:
    if isinstance(file, Image.Image):
        return file
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image)  # cameras turn their pictures by a note
    except FileNotFoundError:
        raise UserError(f"picture {file} does not exist") from None
    except Exception as error:  # a decoder may fail in any way on a damaged file
        raise UserError(f"picture {file} cannot be read ({type(error).__name__}): give a PNG or JPEG") from None


def _fitted(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.array(ImageOps.fit(image, size, Image.Resampling.LANCZOS))
