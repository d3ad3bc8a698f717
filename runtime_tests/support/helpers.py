"""Random tensors for tests; what a command leaves and answers."""

from pathlib import Path

import torch

from edge_hadanorm import console
from edge_hadanorm.pipelines.drawing import Original


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Standard normals of a seed."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def prompt_of(text: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """What a denoiser is given of a prompt."""
    return {"text": text} | ({} if mask is None else {"mask": mask})


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over that of what is expected."""
    return ((actual - expected).norm() / expected.norm()).item()


def an_original(size: tuple[int, int], masked: bool = False) -> Original:
    """A picture of a width and height in soft colours, whose right part alone is drawn anew where it is masked."""
    width, height = size
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    picture = torch.stack([rows * columns, (3 * rows).sin() * 0.8 + 0 * columns, columns + 0 * rows])
    return Original(picture, (columns > 0.3).float().expand(height, width) if masked else None)


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too."""
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


def assert_answered(status: int, shown: str, words: list[str]) -> None:
    """That a command ended as one with a mistake does, in a line that has these words."""
    assert status == console.MISTAKE, shown
    assert "Traceback" not in shown
    assert 1 <= len(shown.splitlines()) <= 2, shown
    assert len(shown) < 700, shown
    assert all(word in shown for word in words), shown
