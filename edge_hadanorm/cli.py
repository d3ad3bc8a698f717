"""The command `edge-hadanorm`."""

import json
import re
from pathlib import Path

import click

from edge_hadanorm import __version__, console
from edge_hadanorm.exporters import targets
from edge_hadanorm.method import recipe as named_recipes

FOLDER = click.Path(path_type=Path)
THREADS = click.IntRange(1, 64)


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


class Shares(click.ParamType):
    """Two shares of the steps, such as 0.0-0.6."""

    name = "FROM-TO"

    def convert(self, value, param, context):
        """Make a pair of numbers of text."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9.]+)-([0-9.]+)", value)
        try:
            first, last = map(float, found.groups() if found else ())
        except ValueError:
            self.fail(f"{value!r} is no pair of shares of the steps such as 0.0-0.6", param, context)
        return first, last


def sampled(command):
    """Options of how pictures are sampled, by default as the pipeline or the checkpoint has it."""
    options = (
        click.option("--steps", type=int, help="Sampler steps."),
        click.option("--guidance", type=float, help="Classifier-free guidance; 1 is none."),
        click.option("--negative", metavar="TEXT", help="Negative prompt."),
        click.option("--eta", type=float, help="Share of noise, of schedulers that take one."),
        click.option("--scheduler", metavar="FILE|CLASS", help="A scheduler_config.json, or a scheduler of diffusers."),
    )
    for option in reversed(options):
        command = option(command)
    return command


class Pixels(click.ParamType):
    """Width and height, such as 768x512."""

    name = "WxH"

    def convert(self, value, param, context):
        """Make a pair of whole numbers of text."""
        if isinstance(value, tuple):
            return value
        if not (found := re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)):
            self.fail(f"{value!r} is no width and height in pixels such as 768x512", param, context)
        return int(found[1]), int(found[2])


size = click.option("--size", type=Pixels(), help="Width and height of pictures in pixels: 768x512.")
guidance_steps = click.option("--guidance-steps", type=Shares(), help="Shares of the steps with guidance: 0.0-0.6.")


@cli.command()
@click.option("--out", type=FOLDER, default=Path("demo-output"), show_default=True, help="Folder to write.")
@force
def demo(out: Path, force: bool) -> None:
    """Quantize the reference model by every method, export it, and draw the pictures side by side."""
    from edge_hadanorm.extras import needed

    with needed("dev", "the demo"):
        from edge_hadanorm.demo import demo

    click.echo(demo(out, force=force, progress=console.progress, status=console.status))


@cli.command()
@click.argument("model")
@click.option(
    "--recipe",
    default=named_recipes.DEFAULT,
    show_default=True,
    metavar="NAME|FILE.json",
    help="See `edge-hadanorm recipes`.",
)
@click.option("--average-bits", type=float, help="Weight bits on average, more where it matters: 4.5, for example.")
@click.option("--out", type=FOLDER, help="Folder to write; appears whole or not at all.")
@click.option("--dry-run", is_flag=True, help="Show what would be made of which shapes, and write nothing.")
@click.option("--prompts", type=FOLDER, help="Text file of calibration prompts, one a line.")
@click.option("--inputs", type=FOLDER, help="Captured transformer inputs (.safetensors) to calibrate on instead.")
@sampled
@size
@click.option("--seed", type=int, default=0, show_default=True, help="Noise seed of the first calibration picture.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps: where calibration runs.")
@force
def quantize(model, out, dry_run, device, force, **settings) -> None:
    """Quantize MODEL (`reference`, a diffusers folder or a hub id) into a checkpoint."""
    from edge_hadanorm import workflow

    if out is None and not dry_run:
        raise click.MissingParameter(param_type="option", param_hint="'--out'")
    if dry_run:
        click.echo(console.as_options(workflow.dry_run(model, status=console.note, **settings)))
        return
    settings |= {"device": device, "force": force, "progress": console.progress, "status": console.note}
    quantized = workflow.quantize(model, out=out, **settings)
    click.echo(f"{out}: {summary(quantized.metrics)}")


@cli.command()
@click.argument("quantized", type=FOLDER)
@click.option("--target", required=True, help=f"{targets.summary()}.")
@out_folder
@click.option(
    "--prompts-embedded",
    "prompts",
    type=FOLDER,
    metavar="FILE",
    help="Encode these prompts here, one a line, and leave the text encoders out.",
)
@click.option(
    "--decode-tile", type=click.IntRange(1, 4096), help="Side of the latents to decode at once, if more.  [default: 64]"
)
@sampled
@guidance_steps
@click.option(
    "--size", type=Pixels(), multiple=True, help="Width and height of pictures in pixels: 768x512; may be repeated."
)
@click.option("--with-encoder", is_flag=True, help="Add the image encoder, for pictures that begin with another.")
@click.option("--precision", help="Of Core ML's floats: fp16, but for what would lose by it, or fp32.  [default: fp16]")
@force
def export(quantized, out, prompts, **settings) -> None:
    """Export a QUANTIZED checkpoint to a bundle that a phone runs."""
    from edge_hadanorm import bundle, workflow

    made = workflow.export(quantized, out, prompts=prompts or (), status=console.status, **settings)
    size = bundle.program_bytes(made.manifest)
    click.echo(f"{out}: {made.recipe} for {made.target}, programs of {size / 1e6:.1f} MB")
    for note in made.programs["denoiser"]["notes"]:
        click.echo(note)


@cli.command()
@click.argument("bundle", type=FOLDER)
@click.argument("prompt")
@click.option("--out", type=FOLDER, required=True, metavar="IMAGE.png", help="Picture to write.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise.")
@click.option("--steps", type=int, help="Sampler steps.  [default: the bundle's]")
@click.option("--guidance", type=float, help="Classifier-free guidance; 1 is none.  [default: the bundle's]")
@click.option("--negative", metavar="TEXT", help="Negative prompt.  [default: the bundle's]")
@guidance_steps
@click.option("--size", type=Pixels(), help="Width and height in pixels, one of the bundle's.  [default: its first]")
@click.option("--init", type=FOLDER, metavar="FILE", help="Picture to begin with, cut to the bundle's proportions.")
@click.option("--strength", type=float, help="Share of the steps that are taken then; 1 keeps nothing.  [default: 0.6]")
@click.option("--mask", type=FOLDER, metavar="FILE", help="What to draw anew of it, white, and what to keep, black.")
@click.option("--backend", type=click.Choice(["auto", "executorch", "simulation"]), default="auto", show_default=True)
@click.option("--threads", type=THREADS, help="Threads of the runtime.  [default: the runtime's]")
def generate(bundle, prompt, out, **settings) -> None:
    """Draw PROMPT with a BUNDLE, as a phone would."""
    from edge_hadanorm import workflow

    drawn = workflow.generate(bundle, prompt, out, status=console.note, **settings)
    each = f", {drawn.milliseconds:.1f} ms a step" if drawn.milliseconds else ""
    click.echo(f"{out}: drawn on {drawn.backend}{each}")


@cli.command()
@click.argument("quantized", type=FOLDER)
@inputs_file
@reference
@click.option("--json", "json_file", type=FOLDER, metavar="FILE", help="Write everything measured here.")
def evaluate(quantized, inputs, reference, json_file) -> None:
    """Compare a QUANTIZED checkpoint with the float model, on prompts it was not calibrated on."""
    from edge_hadanorm import files, workflow

    metrics = workflow.evaluate(
        quantized, inputs=inputs, reference=reference, progress=console.progress, status=console.note
    )
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
def report(paths, out, **settings) -> None:
    """Show a quantized checkpoint or bundle on a page, compared with others of the same float model.

    The page is about the first PATH. It needs neither scripts nor a network.
    """
    from edge_hadanorm import workflow

    click.echo(workflow.report(paths, out, progress=console.progress, **settings))


@cli.command()
@click.option("--quick", is_flag=True, help="2 blocks, 256 tokens, 1 thread, ExecuTorch's programs only.")
@click.option("--names", help="Comma-separated names to time.  [default: all]")
@click.option("--blocks", type=click.Choice([2, 4]), multiple=True, help="Only this size; may be repeated.")
@click.option("--tokens", type=click.Choice([256, 1024]), multiple=True, help="Only this size; may be repeated.")
@click.option("--threads", type=THREADS, multiple=True, help="May be repeated.  [default: 1 and 2]")
@click.option("--json", "json_file", type=FOLDER, metavar="FILE", help="Write the results here.")
@click.option("--chart", "chart_file", type=FOLDER, metavar="FILE.png", help="Draw the medians as bars.")
@click.option("--cache", type=FOLDER, help="Folder of exported programs.  [default: ~/.cache/edge-hadanorm/bench]")
def bench(names, **settings) -> None:
    """Time one PixArt-sized model on every runtime that is installed."""
    from edge_hadanorm import workflow
    from edge_hadanorm.extras import needed

    with needed("bench", "the benchmark"):
        from edge_hadanorm import bench

    chosen = names.split(",") if names else ()
    for results in workflow.bench(names=chosen, progress=console.progress, status=console.say, **settings):
        click.echo(bench.as_table(results) + "\n")


@cli.command()
@click.option("--json", "as_json", metavar="NAME", help="Print the recipe of this name as JSON.")
def recipes(as_json: str | None) -> None:
    """List the named recipes."""
    if as_json:
        click.echo(json.dumps(named_recipes.named(as_json).to_json(), indent=2))
        return
    for method, summary in named_recipes.SUMMARIES.items():
        click.echo(f"{method:18} {summary}")
    click.echo("\nNames are METHOD-wXaY[-gG][-static]: weights of X bits, activations of Y bits, groups of G inputs,")
    click.echo("static: one calibrated activation range a tensor instead of one a token. For example:")
    for method in named_recipes.METHODS:
        click.echo("  " + "  ".join(f"{method}-{form}" for form in named_recipes.FORMATS))


@cli.command()
@click.argument("path", type=FOLDER)
def inspect(path: Path) -> None:
    """Show what a checkpoint or a bundle holds: transforms, sizes, what the device runs where."""
    from edge_hadanorm import workflow

    click.echo(workflow.inspect(path))


def summary(metrics: dict) -> str:
    """Sum up what was measured in a line."""
    from edge_hadanorm.measure.sizes import megabytes

    bits, psnr = metrics["bits"], metrics["image_psnr_db"]
    pictures = "" if psnr is None else f", pictures {psnr:.1f} dB PSNR, {metrics['image_ssim']:.3f} SSIM"
    sqnr = metrics["denoiser_sqnr_db"]
    measured = "" if sqnr is None else f", denoiser {sqnr:.2f} dB SQNR{pictures}"
    return f"{metrics['recipe']}{measured}, {bits['average']:.3g} bits a weight, {megabytes(bits):.1f} MB"


def main() -> None:
    """Entry point."""
    console.silence_libraries()
    raise SystemExit(console.run(lambda: cli.main(prog_name="edge-hadanorm", standalone_mode=False)))
