"""How well the reference model draws its captions.

    python -m edge_hadanorm.reference.figures [PIPELINE_FOLDER]

Draws every caption once with the float pipeline and compares the picture with all training pictures.
"""

import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.reference import data
from edge_hadanorm.reference.pipeline import ReferencePipeline

BATCH = 20


def draw(folder: Path, captions: list[str]) -> torch.Tensor:
    """Pictures uint8 [N, 3, H, W], seeded by the caption's index."""
    pipeline = ReferencePipeline.from_pretrained(folder, use_safetensors=True, torch_dtype=torch.float32)
    drawn = []
    for first in tqdm(range(0, len(captions), BATCH), desc="drawing", disable=None):
        batch = captions[first : first + BATCH]
        seeds = range(first, first + len(batch))
        noise = torch.stack([torch.from_numpy(normal(seed, (3, data.SIDE, data.SIDE))) for seed in seeds])
        drawn.append(to_pixels(pipeline(batch, noise)))
    return torch.cat(drawn)


def figures(folder: Path) -> dict:
    """Over all captions: share whose nearest training picture is the captioned one, and mean PSNR to that, in dB."""
    pictures, captions = data.load()
    drawn = draw(folder, captions)
    exact = data.retrieval(drawn, captions)
    psnr = sum(psnr_db(a, b) for a, b in zip(drawn, pictures, strict=True)) / len(captions)
    return {"captions": len(captions), "nearest_is_captioned": round(exact, 4), "mean_psnr_db": round(psnr, 2)}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("weights")
    print(json.dumps(figures(folder)))


if __name__ == "__main__":
    main()
