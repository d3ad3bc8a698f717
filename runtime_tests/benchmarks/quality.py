"""Every method at every format on the reference and on the stress model, in the style of the HadaNorm paper's tables.

    python -m runtime_tests.benchmarks.quality --results FILE.json [--model reference|stress] [--forms ...]

Calibrates on 32 prompts and measures on others, with other seeds: SQNR of the denoiser and PSNR of the pictures on 8,
SQNR of each linear alone on 32. Results are written one by one, and what FILE.json has already is not measured again;
a run of everything takes about an hour and a half on one core, and the two models can run side by side into two files.
Prints the tables as Markdown, of several files when they are all given.
"""

import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from edge_hadanorm import console
from edge_hadanorm.pipelines.trajectories import calibration_prompts, evaluation_trajectories

if __name__ == "__main__":
    console.silence_libraries()  # before they are imported

import click

from edge_hadanorm import files
from edge_hadanorm.measure.evaluation import Original, denoiser_sqnr_db, layer_sqnr_db, mean_psnr_db, pictures
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method import recipe
from edge_hadanorm.models.denoiser import kind
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization import calibration
from edge_hadanorm.quantization.quantize import quantize
from edge_hadanorm.reference import stress

MODELS = ("reference", "stress")
METHODS = (
    *("rtn", "smoothquant", "quarot", "vidit-q", "hadanorm", "hadanorm-balanced", "hadanorm-folded", "hadanorm-auto"),
    *("svdquant-r16", "svdquant-r32", "hadanorm-auto-r32"),
)
FORMS = ("w4a4", "w4a6", "w4a8", "w4a8-g32", "w8a8", "w8a8-static", "w4a8-static")
# Linears are compared on calls of more prompts, one of so many: by single tokens, ranges of all calls differ by luck.
LAYER_PROMPTS, LAYER_CALLS = 32, 13
# Ranges of static activations: trajectories of so many prompts.
RANGES = 8
KINDS = {
    "attention in": ("attn1.qkv",),
    "attention out": ("attn1.out",),
    "cross-attention": ("attn2.q", "attn2.kv", "attn2.out"),
    "feed-forward in": ("ff.up",),
    "feed-forward out": ("ff.down",),
}
# What is compared with what: methods without a float branch beside the integer product, and all of them.
CLASSES = {
    "hadanorm-auto": tuple(m for m in METHODS if not recipe.METHODS[m].get("rank")),
    "hadanorm-auto-r32": METHODS,
}
PEERS = {
    "hadanorm-auto": "the best of other authors without a branch",
    "hadanorm-auto-r32": "the best of other authors",
}
OURS = ("hadanorm-auto", "hadanorm-auto-r32")
# A linear may be this much worse by our choice than by the best single method.
TOLERANCE_DB = 0.2


class Bench:
    """One float model, with what methods are calibrated and measured on. folder: for a model that is made first."""

    def __init__(self, name: str, folder: Path):
        if name == "stress":
            stress.write(folder / name)
        self.model = loading.load(str(folder / name) if name == "stress" else name)
        pipeline, self.denoiser = self.model.pipeline, self.model.denoiser
        prompts = calibration_prompts(self.model)
        calibrating = Trajectories(pipeline, prompts, pipeline.steps, pipeline.guidance, seed=0)
        self.samples = calibrating.samples(self.denoiser)
        self.calls = calibrating.record(self.denoiser, console.progress("recording"))
        self.moments = calibration.calibrate(self.denoiser, self.samples, console.progress("calibrating"))
        self.held_out = evaluation_trajectories(self.model)
        self.inputs = self.held_out.record(self.denoiser)
        self.layer_inputs = evaluation_trajectories(self.model, LAYER_PROMPTS).record(self.denoiser)
        self.original = Original.of(self.denoiser, self.inputs, self.held_out)

    def measure(self, name: str) -> dict:
        """What a recipe of this name makes of the model."""
        own, start = recipe.named(name), time.monotonic()
        quantized = quantize(self.denoiser, own, self.moments, self.samples[:RANGES], self.calls)
        seconds = time.monotonic() - start
        bits = bits_summary(quantized)
        return {
            "denoiser_sqnr_db": denoiser_sqnr_db(self.original, quantized),
            "image_psnr_db": mean_psnr_db(self.original.pictures, pictures(quantized, self.held_out)),
            "layers": layer_sqnr_db(self.denoiser, quantized, self.layer_inputs[::LAYER_CALLS]),
            "stored_bits": 8 * bits["bytes_per_quantized_parameter"],
            "quantize_seconds": seconds,
        }


def by_kind(layers: dict[str, float]) -> dict[str, float]:
    """Mean SQNR over the linears of each of KINDS."""
    return {
        label: statistics.mean(db for name, db in layers.items() if kind(name)[0] in kinds)
        for label, kinds in KINDS.items()
    }


def never_worse(results: dict[str, dict], ours: str, others: tuple[str, ...]) -> float:
    """Share of the linears whose SQNR by `ours` is within TOLERANCE_DB of the best of the others'."""
    layers = [results[method]["layers"] for method in others if method in results and method not in OURS]
    own = results[ours]["layers"]
    return statistics.mean(db >= max(other[name] for other in layers) - TOLERANCE_DB for name, db in own.items())


def tables(results: dict[str, dict]) -> str:
    """Markdown: SQNR and PSNR by method and format, then by kind of linear, then what our choice gains."""
    found: dict[tuple[str, str], dict[str, dict]] = defaultdict(dict)
    for key, result in results.items():
        model, name = key.split(" ")
        method, form = next((m, f) for f in FORMS for m in METHODS if name == f"{m}-{f}")
        found[model, form][method] = result
    lines = []
    for model in MODELS:
        if forms := [form for form in FORMS if (model, form) in found]:
            lines += _main_table(model, {form: found[model, form] for form in forms})
            for form in forms:
                lines += _kind_table(model, form, found[model, form])
    return "\n".join(lines)


def _main_table(model: str, forms: dict[str, dict[str, dict]]) -> list[str]:
    lines = ["", f"{model}: denoiser SQNR / picture PSNR, dB", "", _row("method", "bits at w4", *forms)]
    lines.append("|---|" + "---:|" * (len(forms) + 1))
    for method in METHODS:
        cells = [forms[form].get(method) for form in forms]
        if any(cells):
            at_w4 = [cell["stored_bits"] for form, cell in zip(forms, cells, strict=True) if cell and form[:2] == "w4"]
            lines.append(_row(f"`{method}`", f"{at_w4[0]:.1f}" if at_w4 else "", *(_cell(cell) for cell in cells)))
    for ours, others in CLASSES.items():
        gains, shares = [], []
        for results in forms.values():
            peers = [results[m]["denoiser_sqnr_db"] for m in others if m in results and not m.startswith("hadanorm")]
            complete = ours in results and peers
            gains.append(f"{results[ours]['denoiser_sqnr_db'] - max(peers):+.1f}" if complete else "")
            shares.append(f"{never_worse(results, ours, others):.0%}" if complete else "")
        lines.append(_row(f"`{ours}` over {PEERS[ours]}", "", *gains))
        lines.append(_row(f"linears within {TOLERANCE_DB} dB of the best single method or better", "", *shares))
    return lines


def _kind_table(model: str, form: str, results: dict[str, dict]) -> list[str]:
    lines = [
        "",
        f"{model}, {form}: SQNR of the linears, dB",
        "",
        _row("method", *KINDS),
        "|---|" + "---:|" * len(KINDS),
    ]
    kinds = {method: by_kind(result["layers"]) for method, result in results.items()}
    return lines + [_row(f"`{m}`", *(f"{db:.1f}" for db in kinds[m].values())) for m in METHODS if m in kinds]


def _cell(result: dict | None) -> str:
    return f"{result['denoiser_sqnr_db']:.1f} / {result['image_psnr_db']:.1f}" if result else ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


@click.command()
@click.option("--results", "result_files", type=click.Path(path_type=Path), multiple=True, required=True)
@click.option("--model", type=click.Choice(MODELS), help="Measure on this one.  [default: only print]")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--forms", default=",".join(FORMS), show_default=True)
def main(result_files: tuple[Path, ...], model: str | None, methods: str, forms: str) -> None:
    """Measure what is missing in the first results file, and print the tables of all."""
    results = {}
    for file in result_files:
        results |= json.loads(file.read_text()) if file.exists() else {}
    wanted = [f"{method}-{form}" for form in forms.split(",") for method in methods.split(",")]
    if model and (missing := [name for name in wanted if f"{model} {name}" not in results]):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(model, Path(folder))
            for name in console.progress(model)(missing):
                results[f"{model} {name}"] = bench.measure(name)
                with files.new_file(result_files[0]) as partial:
                    files.write_json(partial, results)
    print(tables(results))


if __name__ == "__main__":
    raise SystemExit(console.run(lambda: main.main(standalone_mode=False)))
