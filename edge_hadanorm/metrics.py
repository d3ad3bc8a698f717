"""How far a quantized model is from the float one: SQNR and PSNR in decibels, SSIM, sizes in bytes."""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from edge_hadanorm.linear import QuantizedLinear

# Side in pixels of the windows that SSIM compares, or the largest odd number that fits into smaller pictures.
SSIM_WINDOW = 7


class Sqnr:
    """Signal to quantization noise ratio, 10 log10(sum y^2 / sum (y - y')^2), streamed over calls."""

    def __init__(self):
        self.signal = self.noise = 0.0

    def update(self, exact: torch.Tensor, quantized: torch.Tensor) -> None:
        self.signal += exact.double().square().sum().item()
        self.noise += (exact.double() - quantized.double()).square().sum().item()

    @classmethod
    def of_all(cls, parts: Iterable["Sqnr"]) -> "Sqnr":
        """That of everything its parts have seen."""
        parts, whole = list(parts), cls()
        whole.signal, whole.noise = sum(part.signal for part in parts), sum(part.noise for part in parts)
        return whole

    @property
    def db(self) -> float:
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


def psnr_db(a: torch.Tensor, b: torch.Tensor, peak: float = 255.0) -> float:
    """Peak signal to noise ratio of pictures of one shape with values 0 to `peak`."""
    error = (a.double() - b.double()).square().mean().item()
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Structural similarity (Wang et al., 2004) of pictures uint8 [C, H, W], 1 where they are equal."""
    from skimage.metrics import structural_similarity  # a third of a second that only evaluation needs

    side = min(SSIM_WINDOW, *a.shape[1:])
    window = side if side % 2 else side - 1
    fixed = dict(channel_axis=0, data_range=255, use_sample_covariance=False)
    return float(structural_similarity(a.numpy(), b.numpy(), win_size=window, **fixed))


def to_pixels(latents: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 of the same shape from values in [-1, 1]."""
    return ((latents + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def save_png(latents: torch.Tensor, file: Path) -> None:
    """A picture [3, H, W] in [-1, 1] as PNG."""
    Image.fromarray(to_pixels(latents).permute(1, 2, 0).numpy()).save(file, format="PNG")


def stored_bytes(linear: QuantizedLinear) -> int:
    """Bytes of a quantized linear with its codes packed; what has been absorbed no device needs."""
    codes = 0 if linear.codes is None else math.ceil(linear.codes.numel() * linear.recipe.weight_bits / 8)
    kept = (t for k, t in linear.state_dict().items() if k != "codes" and not k.startswith("absorbed."))
    return codes + sum(t.numel() * t.element_size() for t in kept)


def bits_summary(denoiser: nn.Module) -> dict:
    """Bits and bytes of a quantized denoiser: of the linears that its recipe is for, and of the rest.

    average: bits of a weight's code, without scales, over these linears, whose recipes may differ.
    """
    linears = {name: denoiser.get_submodule(name) for name in denoiser.quantizable()}
    sizes = {name: math.prod(linear.shape) for name, linear in linears.items()}
    weights, stored = sum(sizes.values()), sum(map(stored_bytes, linears.values()))
    rest = sum(
        t.numel() * t.element_size()
        for k, t in denoiser.state_dict().items()
        if not any(k.startswith(name + ".") for name in linears)
    )
    recipes = {name: linear.recipe for name, linear in linears.items()}
    return {
        "weight": min(recipe.weight_bits for recipe in recipes.values()),
        "activation": next(iter(recipes.values())).activation_bits,
        "average": sum(sizes[name] * recipe.weight_bits for name, recipe in recipes.items()) / weights,
        "quantized_parameters": weights,
        "quantized_bytes": stored,
        "bytes_per_quantized_parameter": stored / weights,
        "rest_bytes": rest,
    }


def megabytes(bits: dict) -> float:
    """The size of a denoiser with this `bits_summary`."""
    return (bits["quantized_bytes"] + bits["rest_bytes"]) / 1e6
