"""The reference model's pictures: Noto emoji at 32x32 with their Unicode names as captions.

They are vendored as one contact sheet, `pictures.png`, whose text chunk lists the captions row by row.
To make it again from the npm package `emoji-datasource-google` (16.0.0), unpack that and run

    python -m edge_hadanorm.reference.data PACKAGE_FOLDER
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

SHEET = Path(__file__).with_name("pictures.png")
SIDE = 32
COLUMNS = 32
MAX_WORDS = 8

# Subcategories whose members are recognisable at 32x32.
SUBCATEGORIES = frozenset(
    [
        "face-smiling",
        "face-affection",
        "face-tongue",
        "face-hand",
        "face-neutral-skeptical",
        "face-sleepy",
        "face-unwell",
        "face-hat",
        "face-glasses",
        "face-concerned",
        "face-negative",
        "face-costume",
        "cat-face",
        "monkey-face",
        "heart",
        "animal-mammal",
        "animal-bird",
        "animal-amphibian",
        "animal-reptile",
        "animal-marine",
        "animal-bug",
        "plant-flower",
        "plant-other",
        "food-fruit",
        "food-vegetable",
        "food-prepared",
        "food-asian",
        "food-sweet",
        "drink",
        "transport-ground",
        "transport-water",
        "transport-air",
        "sport",
        "music",
        "musical-instrument",
        "place-building",
        "place-religious",
        "sky&weather",
    ]
)


def words(caption: str) -> list[str]:
    """The lower-case words of a caption; everything but letters and digits separates."""
    return re.findall(r"[a-z0-9]+", caption.lower())


def load() -> tuple[torch.Tensor, list[str]]:
    """Pictures [N, 3, 32, 32] uint8 and their N captions."""
    with Image.open(SHEET) as sheet:
        captions = json.loads(sheet.info["captions"])
        pixels = np.asarray(sheet.convert("RGB"))
    rows = pixels.shape[0] // SIDE
    tiles = pixels.reshape(rows, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(tiles[: len(captions)].copy()), captions


def retrieval(drawn: torch.Tensor, captions: list[str]) -> float:
    """Share of the pictures drawn, uint8 [N, 3, 32, 32], whose nearest vendored picture has the caption given.

    Nearest is by Euclidean distance of the pixels.
    """
    pictures, known = load()
    nearest = torch.cdist(drawn.flatten(1).double(), pictures.flatten(1).double()).argmin(1).tolist()
    return sum(known[i] == caption for i, caption in zip(nearest, captions, strict=True)) / len(captions)


def _picture(path: Path) -> Image.Image:
    """One emoji on white, 32x32 RGB."""
    with Image.open(path) as file:
        image = file.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _wanted(emoji: dict) -> bool:
    single_code_point = "-" not in emoji["unified"].replace("-FE0F", "")
    subcategory = emoji["subcategory"].replace(" ", "")
    return single_code_point and emoji["has_img_google"] and subcategory in SUBCATEGORIES


def make_sheet(package: Path) -> int:
    """Write `pictures.png` from an unpacked emoji-datasource-google package; returns the number of pictures."""
    emoji = sorted(json.loads((package / "emoji.json").read_text()), key=lambda e: e["sort_order"])
    chosen = {" ".join(words(e["name"])): e["image"] for e in emoji if _wanted(e)}
    chosen = {caption: image for caption, image in chosen.items() if len(words(caption)) <= MAX_WORDS}
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(chosen) // COLUMNS) * SIDE), "white")
    for i, image in enumerate(chosen.values()):
        sheet.paste(_picture(package / "img/google/64" / image), (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    info = PngInfo()
    info.add_text("captions", json.dumps(list(chosen)))
    sheet.save(SHEET, pnginfo=info, optimize=True)
    return len(chosen)


if __name__ == "__main__":
    print(make_sheet(Path(sys.argv[1])), "pictures in", SHEET)
