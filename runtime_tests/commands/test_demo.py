"""The demo, as a user runs it, and the reference model's programs on the runtime."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from edge_hadanorm import bundle, checkpoint, demo, files, workflow
from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.exporters import writer
from edge_hadanorm.exporters.targets import simulation
from edge_hadanorm.measure.metrics import psnr_db
from edge_hadanorm.pipelines.drawing import Wish, picture
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.trajectories import EVALUATION_PROMPTS, evaluation_prompts

pytestmark = pytest.mark.slow


def test_demo_leaves_pictures_numbers_and_a_bundle(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, "-c", "from edge_hadanorm.cli import main; main()", "demo", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = {result["recipe"]: result for result in json.loads((out / "results.json").read_text())}
    assert list(results) == list(demo.RECIPES)
    shown = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith(demo.METHODS)}
    for name, result in results.items():
        assert shown[name][0] == f"{result['denoiser_sqnr_db']:.2f}"
        assert shown[name][-1] == ("-" if result["executorch_ms"] is None else f"{result['executorch_ms']:.1f}")
    assert done.stderr == ""
    for form, gain in (("w4a4", 1.5), ("w4a8", 3)):
        sqnr = {method: results[f"{method}-{form}"]["denoiser_sqnr_db"] for method in demo.METHODS}
        ours = sqnr.pop("hadanorm-auto")
        assert ours > max(sqnr.values()) + gain
    exported = results[demo.EXPORTED]
    assert exported["executorch_to_simulation_psnr_db"] >= 35
    assert [name for name, result in results.items() if result["executorch_ms"] is not None] == [demo.EXPORTED]
    pictures = [Image.open(file).convert("RGB") for file in (out / "pictures").glob("*.png")]
    assert len({picture.tobytes() for picture in pictures}) == EVALUATION_PROMPTS
    assert {picture.size for picture in pictures} == {(32, 32)}
    assert bundle.load(out / "bundle").recipe == demo.EXPORTED
    with Image.open(out / "comparison.png") as comparison:
        assert len(comparison.getcolors(1 << 20)) > 1000  # pictures, not an empty page


def test_reference_at_eight_bits_draws_the_same_on_the_runtime(tmp_path):
    workflow.quantize("reference", "hadanorm-balanced-w8a8", tmp_path / "checkpoint")
    saved = checkpoint.load(tmp_path / "checkpoint")
    with files.new_folder(tmp_path / "bundle") as folder:
        writer.write_bundle(folder, tmp_path / "checkpoint", saved, "xnnpack")
    loaded = bundle.load(tmp_path / "bundle")
    runners = ExecuTorchRunner(loaded), simulation(loaded)
    for seed, prompt in enumerate(evaluation_prompts(saved.pipeline.prompts, 4)):
        drawn = [to_pixels(picture(runner, Wish(prompt, loaded.plan(8), 1.5, seed))) for runner in runners]
        assert psnr_db(*drawn) >= 45, prompt
