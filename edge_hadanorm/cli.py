"""The command `edge-hadanorm`."""

import json
from pathlib import Path

import click

from edge_hadanorm import __version__, console
from edge_hadanorm.bundle.runner import set_threads
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters import targets
from edge_hadanorm.pipelines.trajectories import read_prompts

FOLDER = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="edge-hadanorm")
def cli() -> None:
    """Quantize a Diffusion Transformer with HadaNorm and put it on a phone."""


out_folder = click.option("--out", type=FOLDER, required=True, help="Folder to write; appears whole or not at all.")
force = click.option("--force", is_flag=True, help="Replace an existing output.")
inputs_file = click.option("--inputs", type=FOLDER, help="Captured transformer inputs (.safetensors) to evaluate on.")
reference = click.option(
    "--reference", metavar="MODEL", help="The float model.  [default: the one it was quantized from]"
)


@cli.command()
@click.option("--out", type=FOLDER, default=Path("demo-output"), show_default=True, help="Folder to write.")
@force
def demo(out: Path, force: bool) -> None:
    """Quantize the reference model by every method, export it, and draw the pictures side by side."""
    from edge_hadanorm.demo import run

    run(out, force)


@cli.command()
@click.argument("model")
@click.option(
    "--recipe",
    "recipe_name",
    default="hadanorm-auto-w4a8",
    show_default=True,
    metavar="NAME|FILE.json",
    help="See `edge-hadanorm recipes`.",
)
@click.option("--average-bits", type=float, help="Weight bits on average, more where it matters: 4.5, for example.")
@click.option("--out", type=FOLDER, help="Folder to write; appears whole or not at all.")
@click.option("--dry-run", is_flag=True, help="Show what would be made of which shapes, and write nothing.")
@click.option("--prompts", type=FOLDER, help="Text file of calibration prompts, one a line.")
@click.option("--inputs", type=FOLDER, help="Captured transformer inputs (.safetensors) to calibrate on instead.")
@click.option("--steps", type=int, help="Sampler steps of a calibration picture.  [default: the pipeline's]")
@click.option("--seed", type=int, default=0, show_default=True, help="Noise seed of the first calibration picture.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps: where calibration runs.")
@force
def quantize(model, recipe_name, average_bits, out, dry_run, prompts, inputs, steps, seed, device, force) -> None:
    """Quantize MODEL (`reference`, a diffusers folder or a hub id) into a checkpoint."""
    from edge_hadanorm import workflow

    if out is None and not dry_run:
        raise click.MissingParameter(param_type="option", param_hint="'--out'")
    if prompts and inputs:
        raise UserError("calibration takes --prompts or --inputs, not both; leave one out")
    lines = read_prompts(prompts) if prompts else None
    if dry_run:
        click.echo(workflow.dry_run(model, recipe_name, lines, inputs, steps, seed, average_bits))
        return
    metrics = workflow.quantize(model, recipe_name, out, lines, inputs, steps, seed, device, force, average_bits)
    click.echo(f"{out}: {summary(metrics)}")


@cli.command()
@click.argument("quantized", type=FOLDER)
@click.option("--target", required=True, help=f"{targets.summary()}.")
@out_folder
@click.option(
    "--prompts-embedded",
    "embedded",
    type=FOLDER,
    metavar="FILE",
    help="Encode these prompts here, one a line, and leave the text encoders out.",
)
@click.option(
    "--decode-tile", "tile", type=click.IntRange(1, 4096), help="Side of the latents to decode at once.  [default: 64]"
)
@click.option("--precision", help="Of Core ML's floats: fp16, but for what would lose by it, or fp32.  [default: fp16]")
@force
def export(quantized, target, out, embedded, tile, precision, force) -> None:
    """Export a QUANTIZED checkpoint to a bundle that a phone runs."""
    from edge_hadanorm import bundle, checkpoint, files
    from edge_hadanorm.exporters import writer

    options = targets.Options(tuple(read_prompts(embedded)) if embedded else (), tile, precision)

    saved = checkpoint.load(quantized)
    targets.check_target(target, saved, precision)
    if quantized.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} is the checkpoint {quantized}, or lies in it; export to a folder of its own")
    with files.new_folder(out, force) as folder:
        manifest = writer.write_bundle(folder, quantized, saved, target, console.status, options)
    size = bundle.program_bytes(manifest)
    click.echo(f"{out}: {saved.recipe.name} for {target}, programs of {size / 1e6:.1f} MB")
    for note in manifest["programs"]["denoiser"]["notes"]:
        click.echo(note)


@cli.command()
@click.argument("bundle", type=FOLDER)
@click.argument("prompt")
@click.option("--out", type=FOLDER, required=True, metavar="IMAGE.png", help="Picture to write.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise.")
@click.option("--steps", type=int, help="Sampler steps.  [default: the bundle's]")
@click.option("--guidance", type=float, help="Classifier-free guidance.  [default: the bundle's]")
@click.option("--backend", type=click.Choice(["auto", "executorch", "simulation"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1, 64), help="Threads of the runtime.  [default: the runtime's]")
def generate(bundle, prompt, out, seed, steps, guidance, backend, threads) -> None:
    """Draw PROMPT with a BUNDLE, as a phone would."""
    from edge_hadanorm import workflow

    if threads:
        set_threads(threads)
    milliseconds, runner = workflow.generate(bundle, prompt, out, seed, steps, guidance, backend)
    click.echo(f"{out}: drawn on {runner}" + (f", {milliseconds:.1f} ms a step" if milliseconds else ""))


@cli.command()
@click.argument("quantized", type=FOLDER)
@inputs_file
@reference
@click.option("--json", "json_file", type=FOLDER, metavar="FILE", help="Write everything measured here.")
def evaluate(quantized, inputs, reference, json_file) -> None:
    """Compare a QUANTIZED checkpoint with the float model, on prompts it was not calibrated on."""
    from edge_hadanorm import files, workflow

    metrics = workflow.evaluate(quantized, inputs, reference)
    if json_file:
        with files.new_file(json_file) as partial:
            files.write_json(partial, metrics)
    click.echo(summary(metrics))
    worst = sorted(metrics["layers"].items(), key=lambda item: item[1])[:5]
    click.echo("lowest layers: " + ", ".join(f"{name} {db:.1f} dB" for name, db in worst))


@cli.command()
@click.argument("paths", type=FOLDER, nargs=-1, required=True, metavar="PATH...")
@click.option("--out", type=FOLDER, required=True, metavar="REPORT.html", help="File to write.")
@inputs_file
@reference
@force
def report(paths, out, inputs, reference, force) -> None:
    """Show a quantized checkpoint or bundle on a page, compared with others of the same float model.

    The page is about the first PATH. It needs neither scripts nor a network.
    """
    from edge_hadanorm.measure.report import run

    click.echo(run(paths, out, inputs, reference, force))


@cli.command()
@click.option("--quick", is_flag=True, help="2 blocks, 256 tokens, 1 thread, ExecuTorch's programs only.")
@click.option("--names", help="Comma-separated names to time.  [default: all]")
@click.option("--blocks", type=click.Choice(["2", "4"]), multiple=True, help="Only this size; may be repeated.")
@click.option("--tokens", type=click.Choice(["256", "1024"]), multiple=True, help="Only this size; may be repeated.")
@click.option("--threads", type=click.IntRange(1, 64), multiple=True, help="May be repeated.  [default: 1 and 2]")
@click.option("--json", "json_file", type=FOLDER, metavar="FILE", help="Write the results here.")
@click.option("--chart", "chart_file", type=FOLDER, metavar="FILE.png", help="Draw the medians as bars.")
@click.option("--cache", type=FOLDER, help="Folder of exported programs.  [default: ~/.cache/edge-hadanorm/bench]")
def bench(quick, names, blocks, tokens, threads, json_file, chart_file, cache) -> None:
    """Time one PixArt-sized model on every runtime that is installed."""
    from edge_hadanorm import bench, files

    chosen = names.split(",") if names else list(bench.BUILDERS)
    if unknown := [name for name in chosen if name not in bench.BUILDERS]:
        raise UserError(f"unknown name {unknown[0]!r}; the names are {', '.join(bench.BUILDERS)}")
    cases = [
        c for c in bench.CASES if str(c.blocks) in (blocks or "24") and str(c.tokens) in (tokens or ("256", "1024"))
    ]
    if quick:
        chosen = [name for name in chosen if name.startswith(("executorch-", "edge-"))]
        cases, threads = list(bench.CASES[:1]), (1,)
    results = []
    for part in bench.run(cases, list(threads or (1, 2)), chosen, cache or bench.CACHE):
        click.echo(bench.as_table(part) + "\n")
        results += part
        if json_file:  # as far as it is, should a long run be interrupted
            with files.new_file(json_file) as partial:
                files.write_json(partial, results)
    if chart_file:
        with files.new_file(chart_file) as partial:
            bench.chart(results).savefig(partial, dpi=120)


@cli.command()
@click.option("--json", "as_json", metavar="NAME", help="Print the recipe of this name as JSON.")
def recipes(as_json: str | None) -> None:
    """List the named recipes."""
    from edge_hadanorm.method import recipe

    if as_json:
        click.echo(json.dumps(recipe.named(as_json).to_json(), indent=2))
        return
    for method, summary in recipe.SUMMARIES.items():
        click.echo(f"{method:18} {summary}")
    click.echo("\nNames are METHOD-wXaY[-gG][-static]: weights of X bits, activations of Y bits, groups of G inputs,")
    click.echo("static: one calibrated activation range a tensor instead of one a token. For example:")
    for method in recipe.METHODS:
        click.echo("  " + "  ".join(f"{method}-{form}" for form in recipe.FORMATS))


@cli.command()
@click.argument("path", type=FOLDER)
def inspect(path: Path) -> None:
    """Show what a checkpoint or a bundle holds: transforms, sizes, what the device runs where."""
    from edge_hadanorm.measure.inspection import describe

    click.echo(describe(path))


def summary(metrics: dict) -> str:
    """What was measured, in a line."""
    from edge_hadanorm.measure.sizes import megabytes

    bits, psnr, retrieval = metrics["bits"], metrics["image_psnr_db"], metrics["caption_retrieval"]
    pictures = "" if psnr is None else f", pictures {psnr:.1f} dB PSNR, {metrics['image_ssim']:.3f} SSIM"
    captioned = "" if retrieval is None else f", {retrieval['quantized']:.0%} as captioned"
    sqnr = metrics["denoiser_sqnr_db"]
    measured = "" if sqnr is None else f", denoiser {sqnr:.2f} dB SQNR{pictures}{captioned}"
    return f"{metrics['recipe']}{measured}, {bits['average']:.3g} bits a weight, {megabytes(bits):.1f} MB"


def main() -> None:
    """Entry point."""
    console.silence_libraries()
    raise SystemExit(console.run(lambda: cli.main(prog_name="edge-hadanorm", standalone_mode=False)))
