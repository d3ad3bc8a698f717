"""Distances of a quantized model from the float one: SQNR and PSNR in decibels, SSIM."""

import math
from collections.abc import Iterable

import torch

# Side in pixels of the windows that SSIM compares, or the largest odd number that fits into smaller pictures.
SSIM_WINDOW = 7


class Sqnr:
    """Signal to quantization noise ratio, 10 log10(sum y^2 / sum (y - y')^2), streamed over calls."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def update(self, exact: torch.Tensor, quantized: torch.Tensor) -> None:
        """Add tensors of one shape, in float64."""
        self.signal += exact.double().square().sum().item()
        self.noise += (exact.double() - quantized.double()).square().sum().item()

    @classmethod
    def of_all(cls, parts: Iterable["Sqnr"]) -> "Sqnr":
        """Join what the parts have added up."""
        parts, whole = list(parts), cls()
        whole.signal, whole.noise = sum(part.signal for part in parts), sum(part.noise for part in parts)
        return whole

    @property
    def db(self) -> float:
        """The ratio in decibels; infinite without noise."""
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


def psnr_db(a: torch.Tensor, b: torch.Tensor, peak: float = 255.0) -> float:
    """Peak signal to noise ratio in dB of pictures of one shape with values 0 to `peak`; infinite for equal ones."""
    error = (a.double() - b.double()).square().mean().item()
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Structural similarity (Wang et al., 2004) of pictures uint8 [C, H, W], 1 where they are equal."""
    from skimage.metrics import structural_similarity  # a third of a second that only evaluation needs

    side = min(SSIM_WINDOW, *a.shape[1:])
    window = side if side % 2 else side - 1
    fixed = dict(channel_axis=0, data_range=255, use_sample_covariance=False)
    return float(structural_similarity(a.numpy(), b.numpy(), win_size=window, **fixed))
