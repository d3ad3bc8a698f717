"""Draws the app's screens from its resources, for the README.

    python -m runtime_tests.app.screens BUNDLE --out android_demo/screens.webp

Layouts, strings, colours, sizes and drawables are read from android_demo/app/src/main/res and laid out by Chromium,
not by Android: the picture says so. The pictures in the screens are drawn by the ExecuTorch runtime of this machine
with the bundle, and the times are its. Fails on what the harness does not know, on a touch target below 48 dp, and on
text that does not fit.
"""

import argparse
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from edge_hadanorm.bundle import load
from edge_hadanorm.errors import UserError
from runtime_tests.app import gradle
from runtime_tests.app.screens.layout import Page
from runtime_tests.app.screens.resources import Resources, Unknown
from runtime_tests.app.screens.run import run
from runtime_tests.app.screens.scenes import Shot, shots

RESOURCES = gradle.APP / "res"
PORTRAIT, LANDSCAPE = (360, 780), (780, 360)  # dp: a phone of 1080 x 2340 pixels
GAP, CAPTION = 24, 60
MOST_BYTES = 150_000
NOTE = (
    "Drawn by runtime_tests/app/screens from the app's resources, not by Android; the emoji and the times come from"
    f" ExecuTorch on {platform.system()}, {platform.machine()}."
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--allow-file-access-from-files",
    "--virtual-time-budget=3000",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
CSS = """
* { box-sizing: border-box; margin: 0; }
body { font: 16px/1.3 Roboto, "Liberation Sans", sans-serif; background: #ffffff; }
main { display: flex; gap: 24px; padding: 24px; flex-wrap: wrap; }
figure { display: flex; flex-direction: column; gap: 10px; }
figcaption, footer { color: #5b5d6b; font-size: 15px; text-align: center; }
footer { padding-bottom: 16px; }
.screen { display: flex; overflow: hidden; border-radius: 28px; padding: 28px 0 20px;
          box-shadow: 0 0 0 1px #8884, 0 6px 20px #0002; }
.picture { width: 100%; height: 100%; image-rendering: pixelated; display: block;
           object-fit: contain; }
.line { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.radio { width: 20px; height: 20px; margin: 0 6px; border: 2px solid; border-radius: 10px; display: grid;
         place-items: center; flex: none; }
.radio.checked::after { content: ""; width: 10px; height: 10px; border-radius: 5px; background: currentColor; }
.rest { flex: 1; display: grid; align-items: center; }
svg { flex: none; }
"""
# Boxes that a finger cannot hit, and text that is wider or higher than its view.
CHECK = """
const bad = [];
for (const view of document.querySelectorAll("[data-kind]")) {
  const box = view.getBoundingClientRect();
  if (view.dataset.touch && (box.width < 48 || box.height < 48))
    bad.push(`${view.dataset.kind} ${view.id} is ${box.width} x ${box.height} dp to touch`);
  const words = view.querySelector(":scope > span");
  if (words && (words.scrollWidth > words.clientWidth + 1 && words.clientWidth ||
                words.getBoundingClientRect().right > box.right + 1 || words.offsetHeight > box.height + 1))
    bad.push(`text of ${view.dataset.kind} ${view.id} does not fit: ${words.textContent}`);
}
document.body.dataset.bad = JSON.stringify(bad);
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a .webp or .png")
    parser.add_argument("--prompt", help="instead of the golden sample's")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--fonts", type=Path, help="files/ of npm's @fontsource/roboto, the font that phones have")
    parser.add_argument("--landscape", action="store_true", help="a phone that lies on its side")
    options = parser.parse_args()
    try:
        draw(options)
    except (Unknown, UserError) as error:
        print(f"cannot draw the screens: {error}", file=sys.stderr)
        return 2
    return 0


def draw(options: argparse.Namespace) -> None:
    bundle = load(options.bundle)
    if (golden := bundle.golden) is None:
        raise Unknown(f"{options.bundle} has no golden sample; take a bundle of a whole pipeline")
    seed = golden["seed"] if options.seed is None else options.seed
    made = run(bundle, options.prompt or golden["prompt"], seed)
    size = LANDSCAPE if options.landscape else PORTRAIT
    turned = ("land",) if options.landscape else ()
    figures = [figure(shot, turned, size) for shot in shots(Resources(RESOURCES, turned), made)]
    columns = 2 if options.landscape else len(figures)
    rows = -(-len(figures) // columns)
    window = (columns * (size[0] + GAP) + GAP, rows * (size[1] + CAPTION) + CAPTION)
    page = f"<style>{fonts(options.fonts)}{CSS}</style><main>{''.join(figures)}</main><footer>{NOTE}</footer>"
    page = f"<!doctype html><meta charset=utf-8><body>{page}<script>{CHECK}</script></body>"
    picture = photograph(page, window)
    picture.save(options.out, quality=88, method=6)
    if options.out.stat().st_size > MOST_BYTES:
        raise Unknown(f"{options.out} is larger than {MOST_BYTES} bytes")


def figure(shot: Shot, turned: tuple[str, ...], size: tuple[int, int]) -> str:
    resources = Resources(RESOURCES, (*shot.qualifiers, *turned))
    style = f"width:{size[0]}px;height:{size[1]}px;{resources.css('@color/background', frozenset())}"
    body = Page(resources, shot.scene).body("activity_main").replace("<div", f'<div style="{style}"', 1)
    return f"<figure>{body}<figcaption>{shot.title}</figcaption></figure>"


def fonts(folder: Path | None) -> str:
    if folder is None:
        return ""
    return "".join(
        f"@font-face {{ font-family: Roboto; font-weight: {weight}; src: url('{file.resolve().as_uri()}'); }}"
        for weight in (400, 700)
        for file in [folder / f"roboto-latin-{weight}-normal.woff2"]
    )


def photograph(page: str, window: tuple[int, int]) -> Image.Image:
    """A page of that size in CSS pixels as Chromium shows it, once its checks say that nothing is wrong."""
    named = (os.environ.get("EDGE_HADANORM_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in named if name and (path := shutil.which(name))), None)
    if chromium is None:
        raise Unknown("no Chromium here: install Debian's package chromium, or name one in EDGE_HADANORM_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        html, png = Path(folder) / "screens.html", Path(folder) / "screens.png"
        html.write_text(page, encoding="utf-8")
        size = f"--window-size={window[0]},{window[1]}"
        command = [chromium, *FLAGS, f"--user-data-dir={folder}/profile", size]
        dom = subprocess.run([*command, "--dump-dom", html.as_uri()], capture_output=True, text=True, timeout=120)
        found = re.search(r'<body data-bad="([^"]*)"', dom.stdout)
        if found is None:
            raise Unknown("Chromium did not lay the page out")
        if problems := json.loads(found[1].replace("&quot;", '"')):
            raise Unknown("; ".join(problems))
        subprocess.run([*command, f"--screenshot={png}", html.as_uri()], capture_output=True, check=True, timeout=120)
        return Image.open(io.BytesIO(png.read_bytes())).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
