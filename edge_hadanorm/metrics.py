"""How far a quantized model is from the float one: SQNR and PSNR in decibels, sizes in bytes."""

import math
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from edge_hadanorm.linear import QuantizedLinear


class Sqnr:
    """Signal to quantization noise ratio, 10 log10(sum y^2 / sum (y - y')^2), streamed over calls."""

    def __init__(self):
        self.signal = self.noise = 0.0

    def update(self, exact: torch.Tensor, quantized: torch.Tensor) -> None:
        self.signal += exact.double().square().sum().item()
        self.noise += (exact.double() - quantized.double()).square().sum().item()

    @property
    def db(self) -> float:
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


def psnr_db(a: torch.Tensor, b: torch.Tensor, peak: float = 255.0) -> float:
    """Peak signal to noise ratio of pictures of one shape with values 0 to `peak`."""
    error = (a.double() - b.double()).square().mean().item()
    return 10 * math.log10(peak**2 / error) if error else math.inf


def to_pixels(latents: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 of the same shape from values in [-1, 1]."""
    return ((latents + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def save_png(latents: torch.Tensor, file: Path) -> None:
    """A picture [3, H, W] in [-1, 1] as PNG."""
    Image.fromarray(to_pixels(latents).permute(1, 2, 0).numpy()).save(file, format="PNG")


def bits_summary(denoiser: nn.Module) -> dict:
    """Bits and bytes of a quantized denoiser: of its quantized linears and of the float rest."""
    named = {n: m for n, m in denoiser.named_modules() if isinstance(m, QuantizedLinear)}
    linears = list(named.values())
    weights = sum(m.weight.numel() for m in linears)
    code_bits = sum(m.codes.numel() * m.recipe.weight_bits for m in linears if m.codes is not None)
    # What has been absorbed is in other weights already and no device needs it.
    side = sum(
        t.numel() * t.element_size()
        for m in linears
        for k, t in m.state_dict().items()
        if k != "codes" and not k.startswith("absorbed.")
    )
    rest = sum(
        t.numel() * t.element_size()
        for k, t in denoiser.state_dict().items()
        if not any(k.startswith(name + ".") for name in named)
    )
    recipe = linears[0].recipe
    return {
        "weight": recipe.weight_bits,
        "activation": recipe.activation_bits,
        "quantized_parameters": weights,
        "quantized_bytes": math.ceil(code_bits / 8) + side,
        "bytes_per_quantized_parameter": (math.ceil(code_bits / 8) + side) / weights,
        "float_bytes": rest,
    }
