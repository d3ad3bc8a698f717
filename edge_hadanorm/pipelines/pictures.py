"""Pictures: pixels of latents, PNG files."""

from pathlib import Path

import torch
from PIL import Image


def to_pixels(latents: torch.Tensor) -> torch.Tensor:
    """Convert values in [-1, 1] to pixels uint8 of the same shape, rounded half to even."""
    return ((latents + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def to_image(latents: torch.Tensor) -> Image.Image:
    """Make an image from values [3, H, W] in [-1, 1]."""
    return Image.fromarray(to_pixels(latents).permute(1, 2, 0).numpy())


def save_png(latents: torch.Tensor, file: Path) -> None:
    """Write a picture [3, H, W] in [-1, 1] as PNG."""
    to_image(latents).save(file, format="PNG")
