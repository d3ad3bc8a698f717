"""report.py, plots.py, activations.py: a page that is complete, right and needs nothing else, in a browser too."""

import base64
import dataclasses
import io
import json
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from edge_hadanorm import checkpoint, workflow
from edge_hadanorm.cli import cli
from edge_hadanorm.measure import activations, evaluation, plots, report
from edge_hadanorm.measure.inspection import LINEAR_HEADER, linear_rows
from edge_hadanorm.method import recipe
from edge_hadanorm.method.cost import denoiser_cost
from edge_hadanorm.models.denoiser import kind
from edge_hadanorm.pipelines.trajectories import evaluation_trajectories
from edge_hadanorm.quantization.calibration import calibrate, observe_inputs
from runtime_tests.support.helpers import randn

RECIPES = ("hadanorm-balanced-w4a8", "rtn-w4a4")
BROWSER = os.environ.get("EDGE_HADANORM_CHROMIUM")
OFFLINE = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update")
QUIET = ("--no-first-run", "--disable-sync", "--disable-quic", "--hide-scrollbars", "--force-color-profile=srgb")


class Page(HTMLParser):
    """Tags with their attributes, the cells of every table by its class, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words: list[str] = []
        self._rows, self._cell = [], False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs)["class"], [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._cell:
            self._rows[-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def pictures(self) -> list[np.ndarray]:
        """Every <img>, [H, W, 3]."""
        images = [attributes for tag, attributes in self.tags if tag == "img"]
        content = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in images]
        return [np.asarray(Image.open(io.BytesIO(data))) for data in content]


def made(*arguments: object) -> str:
    """The page that the command writes."""
    ended = CliRunner().invoke(cli, ["report", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    assert ended.exit_code == 0, ended.exception
    out = Path(arguments[arguments.index("--out") + 1])
    assert ended.stdout.startswith(f"{out}: ")
    assert len(ended.stdout.splitlines()) == 1
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def built(tiny_checkpoint, tmp_path_factory) -> SimpleNamespace:
    """A report on two checkpoints: its file, text, and parsed."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    text = made(*map(tiny_checkpoint, RECIPES), "--out", file)
    return SimpleNamespace(file=file, text=text, page=Page(text))


@pytest.fixture(scope="module")
def drawn(model, tiny_checkpoint) -> list[torch.Tensor]:
    """The pictures [N, 3, 8, 8] of the float model and of both checkpoints, sampled as those are by default."""
    loaded = [checkpoint.load(tiny_checkpoint(name)) for name in RECIPES]
    trajectories = evaluation_trajectories(checkpoint.sampled_alike(model, loaded[0]))
    assert (trajectories.steps, model.pipeline.steps) == (4, 8)
    return [evaluation.pictures(denoiser, trajectories) for denoiser in (model.denoiser, *(s.denoiser for s in loaded))]


# What is on the page.


def assert_needs_nothing_else(page: Page, text: str) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("data:image/png;base64,", "#")), (tag, attributes)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))
    own = re.sub(r"data:image/png;base64,[\w+/=\s]+", "", text)
    assert set(re.findall(r"https?://[^\s\"'<)]+", own)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_page_needs_nothing_else(built):
    assert built.text.startswith("<!DOCTYPE html>")
    assert_needs_nothing_else(built.page, built.text)
    assert len(built.text) < 1_000_000


def test_identifiers_are_used_once_or_say_the_same(built):
    """Figures share a document: what one refers to must be what it has drawn."""
    shapes: dict[str, set] = {}
    for tag, attributes in built.page.tags:
        if "id" in attributes:
            shapes.setdefault(attributes["id"], set()).add((tag, attributes.get("d")))
    assert all(len(same) == 1 for same in shapes.values())
    targets = {a["xlink:href"][1:] for _, a in built.page.tags if a.get("xlink:href", "").startswith("#")}
    assert targets <= set(shapes)


def test_every_checkpoint_has_a_row_of_what_was_measured(built, model, tiny_checkpoint):
    header, original, *rows = built.page.tables["summary"]
    assert header[0] == "model"
    assert len(rows) == len(RECIPES)
    size = sum(t.numel() * 4 for t in model.denoiser.state_dict().values()) / 1e6
    assert original[0].startswith("float32")
    assert model.name in original[0]
    assert original[1:] == ["32", "32", "32", f"{size:.1f}", "–", "–", "–", "–"]
    for row, name, average in zip(rows, RECIPES, ("4", "4"), strict=True):
        folder = tiny_checkpoint(name)
        measured = workflow.evaluate(folder)
        assert row[0].startswith(name)
        assert str(folder) in row[0]
        assert model.name in row[0]
        assert row[1:] == [
            *name[-4:].strip("w").split("a"),
            average,
            f"{(measured['bits']['quantized_bytes'] + measured['bits']['rest_bytes']) / 1e6:.1f}",
            f"{100 * denoiser_cost(checkpoint.load(folder).denoiser):.0f}",
            f"{measured['denoiser_sqnr_db']:.2f}",
            f"{measured['image_psnr_db']:.1f}",
            f"{measured['image_ssim']:.3f}",
        ]


def test_pictures_are_those_of_every_model_pixel_by_pixel(built, model, drawn):
    expected = torch.cat(drawn).permute(0, 2, 3, 1).numpy()
    shown = built.page.pictures()
    assert len(shown) == len(expected) == 3 * 8
    for picture, pixels in zip(shown, expected, strict=True):
        assert np.array_equal(picture, pixels)
    images = [attributes for tag, attributes in built.page.tags if tag == "img"]
    prompts = evaluation_trajectories(model).prompts
    assert [image["alt"] for image in images] == [
        f"{prompt}, {label}" for label in ("float32", *RECIPES) for prompt in prompts
    ]
    assert {(image["width"], image["height"], image["class"]) for image in images} == {("96", "96", "pixelated")}
    rows = built.page.tables["pictures"]
    assert rows[0][1:] == prompts
    assert [row[0] for row in rows[1:]] == ["float32", *RECIPES]
    assert all(re.fullmatch(r"\d+\.\d dB", cell) for row in rows[2:] for cell in row[1:])


def test_every_linear_has_a_row_as_inspect_has_it(built, model, tiny_checkpoint):
    header, *rows = built.page.tables["linears"]
    saved = checkpoint.load(tiny_checkpoint(RECIPES[0]))
    metrics = json.loads((tiny_checkpoint(RECIPES[0]) / "metrics.json").read_text())
    assert header == list(LINEAR_HEADER)
    assert {row[0] for row in rows} == set(model.denoiser.quantizable())
    assert rows == [list(map(str, row)) for row in linear_rows(saved.denoiser, metrics["layers"])]


def test_plots_have_axes_with_units_and_words_for_who_cannot_see_them(built, model):
    plots_ = [attributes for tag, attributes in built.page.tags if tag == "svg"]
    kinds = {kind(name)[0] for name in model.denoiser.quantizable()}
    assert len(plots_) == 1 + len(kinds) + 3 * report.SHOWN_INPUTS
    assert all(plot["aria-label"] and plot["role"] == "img" for plot in plots_)
    labels = (
        "SQNR of the prediction, dB",
        "timestep, from noise to picture",
        "SQNR, dB",
        "block",
        "value / RMS",
        "density",
    )
    for words in labels:
        assert words in built.page.text
    for name in kinds:
        assert name in built.page.text
    assert "nan" not in built.page.text


def test_two_of_one_recipe_are_told_apart(tiny_checkpoint, tmp_path):
    first, second = tiny_checkpoint("rtn-w4a4"), tmp_path / "copy"
    shutil.copytree(first, second)
    rows = Page(made(first, second, first, "--out", tmp_path / "x.html")).tables["summary"][2:]
    assert [row[0].split(" (")[0] for row in rows] == ["rtn-w4a4"] * 2
    for row, path in zip(rows, (first, second), strict=True):
        assert f"rtn-w4a4 ({path})" in row[0]


def test_all_are_drawn_as_the_first_is_by_default(model, tiny_checkpoint, tmp_path):
    first, second = tmp_path / "first", tiny_checkpoint("rtn-w4a4")
    shutil.copytree(second, first)
    config = json.loads((first / "config.json").read_text())
    config["sampling"] |= {"steps": 2, "guidance": 3.0, "negative": "blue c"}
    (first / "config.json").write_text(json.dumps(config))
    page = Page(made(first, second, "--out", tmp_path / "x.html"))
    assert "8 held-out prompts, 2 steps each at guidance 3.0 with the negative prompt “blue c”, with" in page.text
    trajectories = evaluation_trajectories(checkpoint.sampled_alike(model, checkpoint.load(first)))
    expected = [evaluation.pictures(own.denoiser, trajectories) for own in (model, checkpoint.load(second))]
    shown = page.pictures()
    assert len(shown) == 3 * 8
    for i, pictures in enumerate([*expected, expected[1]]):
        for j, picture in enumerate(pictures.permute(0, 2, 3, 1).numpy()):
            assert np.array_equal(shown[8 * i + j], picture)


def test_names_are_text_and_never_markup(tiny_checkpoint, tmp_path):
    folder = tmp_path / "a<b>&c"
    shutil.copytree(tiny_checkpoint("rtn-w4a4"), folder)
    fields = json.loads((folder / "recipe.json").read_text()) | {"name": "<script>alert('x')</script>"}
    (folder / "recipe.json").write_text(json.dumps(fields))
    text = made(folder, "--out", tmp_path / "x.html")
    page = Page(text)
    assert_needs_nothing_else(page, text)
    assert page.tables["summary"][2][0].startswith("<script>alert('x')</script>")
    assert str(folder) in page.tables["summary"][2][0]


def test_what_quantization_leaves_alone_is_infinitely_good(tiny_checkpoint, tmp_path):
    page = Page(made(tiny_checkpoint("rtn-w16a16"), "--out", tmp_path / "x.html"))
    size = page.tables["summary"][1][4]
    assert page.tables["summary"][2][1:] == ["16", "16", "16", size, "0", "∞", "∞", "1.000"]
    assert page.text.count("Not transformed: peak") == report.SHOWN_INPUTS


def test_a_transformer_alone_is_reported_on_captured_inputs_without_pictures(tiny_pipeline, tmp_path):
    inputs = {
        "hidden_states": randn(3, 3, 8, 8).float(),
        "encoder_hidden_states": randn(3, 8, 32).float(),
        "encoder_attention_mask": (torch.arange(8) < torch.tensor([[3], [8], [5]])).float(),
        "timestep": torch.tensor([100.0, 900.0, 500.0]),
    }
    save_file(inputs, tmp_path / "inputs.safetensors")
    transformer = str(tiny_pipeline / "transformer")
    captured = ["--inputs", tmp_path / "inputs.safetensors"]
    workflow.quantize(transformer, RECIPES[0], tmp_path / "alone", inputs=captured[1])
    text = made(tmp_path / "alone", *captured, "--out", tmp_path / "x.html")
    page = Page(text)
    assert_needs_nothing_else(page, text)
    assert "pictures" not in page.tables
    assert "3 captured calls" in page.text
    assert page.tables["summary"][2][7:] == ["–", "–"]
    assert math.isfinite(float(page.tables["summary"][2][6]))


@pytest.mark.slow
def test_a_bundle_is_reported_as_the_checkpoint_that_it_carries(built, tiny_bundle, tmp_path):
    page = Page(made(tiny_bundle(RECIPES[0]).folder, "--out", tmp_path / "x.html"))
    assert page.tables["summary"][2][1:] == built.page.tables["summary"][2][1:]
    assert page.tables["linears"] == built.page.tables["linears"]


def test_force_replaces(tiny_checkpoint, tmp_path):
    out = tmp_path / "x.html"
    out.write_text("older")
    assert made(tiny_checkpoint("rtn-w4a4"), "--out", out, "--force").startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]


def test_a_recipe_in_words():
    assert report.settings(recipe.named("rtn-w4a8")) == "no transform"
    assert report.settings(recipe.named("hadanorm-balanced-w4a8-g32")) == (
        "group size 32, centre dynamic, scale balanced, rotation block"
    )


def test_large_pictures_are_reduced_and_small_ones_enlarged_by_whole_numbers():
    def size(height: int, width: int) -> tuple:
        drawing = ("float32", None, torch.zeros(1, 3, height, width, dtype=torch.uint8))
        grid = report._grid(["a"], [drawing])
        return grid["width"], grid["height"], grid["enlarged"]

    assert size(32, 32) == (96, 96, True)
    assert size(40, 40) == (80, 80, True)
    assert size(512, 1024) == (96, 48, False)


# Inputs before and after the transform.


def test_a_distribution_by_hand():
    tokens = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [3.0, 4.0], [-3.0, 4.0]]) * 7
    shown = activations.distribution(tokens)
    rms = math.sqrt((4 * 9 + 2 * 16) / 8)
    assert shown.peak == pytest.approx(4 / rms)
    assert shown.channel_ratio == pytest.approx(4 / 3)
    assert shown.percentiles[[0, 3]] == pytest.approx(np.array([[-3, 0], [3, 4]]) / rms)
    deviations = np.array([3, 0, -3, 0, 3, 4, -3, 4]) - 1.0
    assert shown.kurtosis == pytest.approx((deviations**4).mean() / (deviations**2).mean() ** 2)
    assert (shown.density * np.diff(shown.edges)).sum() == pytest.approx(1)


def test_a_normal_distribution_has_a_kurtosis_of_three():
    assert activations.distribution(randn(2000, 50)).kurtosis == pytest.approx(3, abs=0.1)


def test_an_input_of_zeros_has_a_distribution():
    shown = activations.distribution(torch.zeros(5, 4))
    assert shown.peak == 0
    assert math.isnan(shown.kurtosis)
    assert shown.channel_ratio == math.inf


@pytest.fixture(scope="module")
def calls(model):
    return evaluation_trajectories(model).record(model.denoiser)[:6]


def test_the_most_outstanding_inputs_are_shown_one_of_a_kind(model, calls):
    moments = calibrate(model.denoiser, [lambda call=call: call.run(model.denoiser) for call in calls])
    ratios = {name: (m.largest.max() / m.largest.median()).item() for name, m in moments.items()}
    chosen = activations.outstanding(moments, 4)
    assert len({kind(name)[0] for name in chosen}) == 4
    assert ratios[chosen[0]] == max(ratios.values())
    assert [ratios[name] for name in chosen] == sorted((ratios[name] for name in chosen), reverse=True)
    left = {kind(name)[0] for name in ratios} - {kind(name)[0] for name in chosen}
    assert max(ratios[name] for name in ratios if kind(name)[0] in left) <= ratios[chosen[-1]]


@pytest.mark.parametrize("name", ["hadanorm-folded-w8a8", "hadanorm-balanced-w8a8", "rtn-w8a8"])
def test_what_is_quantized_is_shown(model, calls, tiny_checkpoint, name):
    """z to the bit as the quantized linears get it in the float model's stead; with 8 bits nothing is laid on first."""
    quantized = checkpoint.load(tiny_checkpoint(name)).denoiser
    shown = activations.measure(model.denoiser, quantized, calls, 4)
    assert len(shown) == 4
    for one in shown:
        linear, raw = quantized.get_submodule(one.name), []
        with observe_inputs(model.denoiser, [one.name], lambda _, x, *rest, raw=raw: raw.append(x)):
            for call in calls:
                call.run(model.denoiser)
        expected = torch.cat([linear.rows(linear.absorbed(x)[0])[:, : x.shape[1]].flatten(0, 1) for x in raw])
        for got, tokens in ((one.x, torch.cat([x.flatten(0, 1) for x in raw])), (one.z, expected)):
            want = activations.distribution(tokens)
            assert one.tokens == len(tokens)
            for field in dataclasses.fields(want):
                assert np.array_equal(getattr(got, field.name), getattr(want, field.name)), field.name
        assert one.steps == linear.absorbed.steps() + linear.transform.steps()


def test_the_rotation_evens_channels_out(model, calls, tiny_checkpoint):
    quantized = checkpoint.load(tiny_checkpoint("hadanorm-balanced-w8a8")).denoiser
    worst = activations.measure(model.denoiser, quantized, calls, 1)[0]
    assert worst.z.channel_ratio < 0.5 * worst.x.channel_ratio


def test_of_many_tokens_some_are_kept(model, calls, tiny_checkpoint, monkeypatch):
    quantized = checkpoint.load(tiny_checkpoint("rtn-w8a8")).denoiser
    monkeypatch.setattr(activations, "VALUES", 2000)
    for one in activations.measure(model.denoiser, quantized, calls, 2):
        width = quantized.get_submodule(one.name).weight.shape[1]
        assert 0 < one.tokens * width <= 2000 + len(calls) * width


def test_a_linear_is_of_a_kind_in_a_block():
    assert kind("blocks.3.ff.up") == ("ff.up", 3)
    assert kind("single.12.attn.0.out") == ("single.attn.out", 12)
    assert kind("final") == ("final", 0)


# In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """browser(arguments...) runs headless Chromium without a network; returns what it prints."""
    names = (BROWSER,) if BROWSER else ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail("no Chromium here: install Debian's package chromium, or name one in EDGE_HADANORM_CHROMIUM")

    def run(*arguments: str) -> str:
        profile = tmp_path_factory.mktemp("profile")
        command = [found, "--headless", "--no-sandbox", "--disable-gpu", *OFFLINE, *QUIET, f"--user-data-dir={profile}"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, timeout=240).stdout

    return run


@pytest.fixture(scope="module")
def screen(browser, built, tmp_path_factory) -> np.ndarray:
    """The page as it looks, [H, W, 3]."""
    file = tmp_path_factory.mktemp("screen") / "screen.png"
    browser(f"--screenshot={file}", "--window-size=1280,4200", built.file.as_uri())
    return np.asarray(Image.open(file).convert("RGB"))


def colours(pixels: np.ndarray) -> np.ndarray:
    """One number [H, W] a pixel."""
    return pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])


def places(screen: np.ndarray, tile: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners (y, x) at which a screen holds a tile pixel by pixel."""
    screen, tile = colours(screen), colours(tile)
    height, width = tile.shape
    rows, columns = screen.shape[0] - height + 1, screen.shape[1] - width + 1
    same = np.ones((rows, columns), dtype=bool)
    for y, x in ((0, 0), (height // 2, width // 2), (height - 1, 0), (0, width - 1), (height - 1, width - 1)):
        same &= screen[y : y + rows, x : x + columns] == tile[y, x]
    return [(y, x) for y, x in np.argwhere(same).tolist() if (screen[y : y + height, x : x + width] == tile).all()]


def test_the_page_is_drawn(screen):
    assert screen.shape == (4200, 1280, 3)
    assert len(np.unique(colours(screen))) > 3000
    inked = (screen < 200).any(-1)
    assert 0.01 < inked.mean() < 0.5
    assert all(band.any() for band in np.array_split(inked[:3600], 12))
    assert not inked[:, :20].any()
    assert not inked[:, -20:].any()


def test_the_pictures_are_seen_in_their_places(screen, drawn):
    """A row a model, a column a prompt, every pixel of a picture a square of 12."""
    found = []
    for pictures in drawn:
        tiles = [np.kron(p.permute(1, 2, 0).numpy(), np.ones((12, 12, 1), dtype=np.uint8)) for p in pictures]
        corners = [places(screen, tile) for tile in tiles]
        assert all(len(at) == 1 for at in corners), corners
        found.append([at[0] for at in corners])
    heights = [{y for y, _ in row} for row in found]
    assert all(len(row) == 1 for row in heights)
    assert [min(row) for row in heights] == sorted(min(row) for row in heights)
    assert len({tuple(x for _, x in row) for row in found}) == 1
    assert [x for _, x in found[0]] == sorted(x for _, x in found[0])


def test_every_series_is_drawn_in_its_colour(screen):
    for colour in plots.COLOURS[: len(RECIPES)]:
        assert (colours(screen) == int(colour[1:], 16)).sum() > 2000, colour


def test_the_browser_finds_the_same_tables(browser, built, model):
    seen = Page(browser("--dump-dom", built.file.as_uri()))
    assert seen.tables == built.page.tables
    assert all(name in seen.text for name in (*RECIPES, *model.denoiser.quantizable()))
