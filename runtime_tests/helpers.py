"""Random tensors for tests."""

import torch


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Standard normals of a seed."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def prompt_of(text: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """What a denoiser is given of a prompt."""
    return {"text": text} | ({} if mask is None else {"mask": mask})


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over that of what is expected."""
    return ((actual - expected).norm() / expected.norm()).item()
