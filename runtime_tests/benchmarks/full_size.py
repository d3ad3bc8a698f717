"""PixArt-Sigma-XL/2, all 28 blocks: time and memory of every command, the program's size, its steps and its pictures.

    python -m runtime_tests.benchmarks.full_size --work DIR [--blocks 28] [--recipe hadanorm-auto-w4a8]
        [--size 512] [--stock]

Weights are random, with outliers planted, and so are the captured inputs. It is quantized at 512 pixels and exported at
--size. Each command runs in a process of its own, whose peak memory is that of its resident pages. A picture is drawn
by the runner without Python: a step with guidance, of which the least private memory is searched for that it takes,
with the program read, mapped, and its packed weights in a file; no text encoder, no image decoder. --stock also exports
diffusers' transformer as it is, 8da4w in groups of 32. What a folder has already is not made again. Prints Markdown.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edge_hadanorm import console

if __name__ == "__main__":
    console.silence_libraries()  # before they are imported

import click
import torch
from safetensors.torch import save_file

from edge_hadanorm import bundle as bundles
from edge_hadanorm.bundle import Bundle, peak_memory
from edge_hadanorm.pipelines.drawing import Wish
from edge_hadanorm.pipelines.plans import Plan

SIDE, WORDS, TEXT, CALLS, STEPS = 64, 300, 4096, 4, 3
PIXELS = 8  # a latent's side
SHARD = "400MB"


def transformer(blocks: int) -> torch.nn.Module:
    """diffusers' transformer, with outliers in what attention and feed-forward read."""
    import diffusers

    torch.manual_seed(0)
    made = diffusers.PixArtTransformer2DModel(
        sample_size=SIDE, num_layers=blocks, caption_channels=TEXT, use_additional_conditions=False
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
            if "scale_shift_table" in name or "to_v.weight" in name or "net.0.proj.weight" in name:
                parameter[..., ::97] *= 8
    return made.eval().requires_grad_(False)


def make(folder: Path, blocks: int) -> None:
    """The transformer's folder in shards of half precision, and captured inputs beside it."""
    transformer(blocks).half().save_pretrained(folder / "transformer", max_shard_size=SHARD)
    generator = torch.Generator().manual_seed(1)
    kept = torch.randint(8, WORDS, (CALLS, 1), generator=generator)
    inputs = {
        "hidden_states": torch.randn(CALLS, 4, SIDE, SIDE, generator=generator),
        "encoder_hidden_states": torch.randn(CALLS, WORDS, TEXT, generator=generator),
        "encoder_attention_mask": (torch.arange(WORDS) < kept).float(),
        "timestep": torch.linspace(950, 50, CALLS),
    }
    save_file(inputs, folder / "inputs.safetensors")


def measured(*command: str) -> tuple[float, float, str]:
    """Seconds, peak resident gigabytes and output of a command. Raises RuntimeError where it fails."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.monotonic() - start, usage.ru_maxrss / 1e6, output


def own(*arguments: str) -> list[str]:
    """A command of edge-hadanorm."""
    return [sys.executable, "-c", "from edge_hadanorm.cli import main; main()", *arguments]


STEP = """
import json, sys, time
from executorch.runtime import Runtime
import torch
file, shapes, repeats = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
program = Runtime.get().load_program(file)
start = time.perf_counter()
methods = {name: program.load_method(name) for name in shapes}
load, given, seconds = time.perf_counter() - start, None, {}
for name, inputs in shapes.items():
    tensors = [torch.ones(shape) for shape in inputs]
    if name == "denoise":
        tensors += [tensor.clone() for tensor in given]
    for _ in range(repeats):
        start = time.perf_counter()
        given = methods[name].execute(tensors)
        seconds.setdefault(name, []).append(time.perf_counter() - start)
print(json.dumps({"load": load, **{name: min(times) for name, times in seconds.items()}}))
"""


def run(program: Path, shapes: dict[str, list]) -> tuple[dict, float]:
    """Seconds of loading and of the fastest call of each method, and peak memory, in a process that does only this."""
    _, peak, output = measured(sys.executable, "-c", STEP, str(program), json.dumps(shapes), str(STEPS))
    return json.loads(output.splitlines()[-1]), peak


def stock(file: Path, folder: Path) -> None:
    """The stock route to a program of the same batch."""
    import diffusers
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    model = diffusers.PixArtTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32))
    quantize_(model, config, lambda m, name: isinstance(m, torch.nn.Linear) and "transformer_blocks" in name)

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, latents, text, timestep, mask):
            return self.model(latents, text, timestep, encoder_attention_mask=mask, return_dict=False)[0]

    inputs = [torch.ones(shape) for shape in stock_shapes()]
    program = torch.export.export(Plain(), tuple(inputs))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    file.write_bytes(lowered.to_executorch().buffer)


def stock_shapes() -> list[list[int]]:
    return [[1, 4, SIDE, SIDE], [1, WORDS, TEXT], [1], [1, WORDS]]


EXPORT = """
import sys
from dataclasses import replace
from pathlib import Path
from edge_hadanorm import checkpoint
from edge_hadanorm.workflow import export
folder, out, side = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
saved = checkpoint.load(folder)
resized = saved.denoiser.resized(side, side)
export(folder if resized is saved.denoiser else replace(saved, denoiser=resized), out, force=True)
"""


def picture_memory(loaded: Bundle) -> dict[str, int]:
    """Least megabytes of a picture of one step with guidance, by how the program is loaded."""
    from runtime_tests.device.least import least_megabytes
    from runtime_tests.device.script import write_script

    step = {"timestep": 500.0, "input_scale": 1.0, "a": 1.0, "b": [-0.1]}
    plan = Plan.from_json({"noise_scale": 1.0, "guidance": None, "rows": [step]})
    text = {"text": torch.randn(1, WORDS, TEXT), "mask": (torch.arange(WORDS) < WORDS // 2).float()[None]}
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = write_script(folder, loaded, Wish("", plan, 4.5, 0), text)
        (folder / "packed").mkdir()
        ways = {"read": {"load": "file"}, "mapped": {"load": "mmap"}, "packed in a file": {"cache": folder / "packed"}}
        for way, options in ways.items():
            found[way] = least_megabytes(lambda machine, options=options: machine.call(["generate", script], **options))
    return found


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for everything that is made.")
@click.option("--blocks", default=28, show_default=True)
@click.option("--recipe", default="hadanorm-auto-w4a8", show_default=True)
@click.option("--size", default=PIXELS * SIDE, show_default=True, help="Width and height of pictures in pixels.")
@click.option("--stock", "with_stock", is_flag=True, help="Also the stock export.")
@click.option("--export-stock", is_flag=True, hidden=True)
def main(work: Path, blocks: int, recipe: str, size: int, with_stock: bool, export_stock: bool) -> None:
    """Measure every command on the whole model."""
    folder = work / f"pixart-{blocks}"
    source, captured, stock_file = folder / "transformer", folder / "inputs.safetensors", folder / "stock.pte"
    if export_stock:
        stock(stock_file, source)
        return
    if not captured.exists():
        make(folder, blocks)
    side = size // PIXELS
    checkpoint, bundle = folder / recipe, folder / f"{recipe}-bundle-{size}"
    program = bundle / "denoiser.pte"
    rows = Rows(folder / "results.json")
    quantize = ["quantize", source, "--recipe", recipe, "--inputs", captured, "--out", checkpoint, "--force"]
    rows.make(f"quantize, {recipe}", checkpoint / "metrics.json", own(*map(str, quantize)))
    lower = [sys.executable, "-c", EXPORT, str(checkpoint), str(bundle), str(side)]
    rows.make(f"export, {recipe}, {size} pixels", program, lower)
    shapes = {"prepare": [[1, WORDS, TEXT], [1, WORDS]], "denoise": [[1, 4, side, side], [1]]}
    steps = {f"step of a sequence, {size} pixels": (program, shapes)}
    if with_stock:
        again = [sys.executable, __file__, "--work", str(work), "--blocks", str(blocks), "--export-stock"]
        rows.make("stock 8da4w export", stock_file, again)
        steps["stock step of a sequence"] = stock_file, {"forward": stock_shapes()}
    print("| | seconds | peak memory, GB | makes, MB |\n|---|---:|---:|---:|")
    for name, (seconds, peak, written) in rows.made.items():
        print(f"| {name} | {seconds:.0f} | {peak:.1f} | {written / 1e6:.0f} |")
    for name, (file, methods) in steps.items():
        times, peak = run(file, methods)
        others = ", ".join(f"{method} {seconds:.2f} s" for method, seconds in list(times.items())[:-1])
        print(f"| {name} | {list(times.values())[-1]:.2f} | {peak:.1f} | ({others}) |", flush=True)
    loaded = bundles.load(bundle)
    said = [peak_memory(loaded.manifest, packed_in_file=packed) for packed in (False, True)]
    print("\n| a picture with guidance | MB of private memory | said before |\n|---|---:|---:|")
    for way, megabytes in picture_memory(loaded).items():
        print(f"| {way} | {megabytes} | {(said[way == 'packed in a file'] or 0) / 1e6:.0f} |", flush=True)


class Rows:
    """Seconds, peak gigabytes and bytes of what each command made, kept in a file."""

    def __init__(self, file: Path):
        self.file, self.made = file, json.loads(file.read_text()) if file.exists() else {}

    def make(self, name: str, made: Path, command: list[str]) -> None:
        """Run a command, where it has not been run; `made` is what it leaves, in a folder of it or alone."""
        if name in self.made and made.exists():
            return
        seconds, peak, _ = measured(*command)
        weights = made.with_name("model.safetensors")
        self.made[name] = seconds, peak, (weights if weights.exists() else made).stat().st_size
        self.file.write_text(json.dumps(self.made))
        print(f"{name}: {seconds:.0f} s, {peak:.1f} GB", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(console.run(lambda: main.main(standalone_mode=False)))
