"""Core ML packages of the reference model: size, operators, and how near they are to what was simulated.

    python -m runtime_tests.benchmarks.coreml [RECIPE ...] [--work FOLDER] [--prompts 8] [--steps 20]

The packages, with floats of float16, draw held-out prompts in simulation, operator by operator; texts are encoded in
PyTorch. Their pictures and those of the quantized denoiser in PyTorch are compared with the float model's, and one
prediction of the packages, with floats of float16 and of float32, with the quantized denoiser's. Conversion is timed in
seconds of a core. Checkpoints are kept in the folder, and results go to results.json there; a recipe takes two to ten
minutes. Prints a table as Markdown.
"""

import dataclasses
import tempfile
import time
from pathlib import Path

from edge_hadanorm import console
from edge_hadanorm.pipelines.trajectories import EVALUATION_PROMPTS, evaluation_trajectories

if __name__ == "__main__":
    console.silence_libraries()  # before they are imported

import click
import torch

from edge_hadanorm import checkpoint, files, workflow
from edge_hadanorm.checkpoint import Checkpoint
from edge_hadanorm.exporters.component import denoiser_component
from edge_hadanorm.exporters.coreml import package
from edge_hadanorm.exporters.coreml.simulation.interpreter import load
from edge_hadanorm.exporters.coreml.simulation.runner import Simulated
from edge_hadanorm.measure.evaluation import mean_psnr_db
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.drawing import Runner, TorchRunner
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.trajectories import Trajectories

MODEL = "reference"
RECIPES = tuple(f"hadanorm-{method}-{form}-static" for form in ("w8a8", "w4a8") for method in ("folded", "auto"))
COLUMNS = {
    "recipe": lambda row: f"`{row['recipe']}`",
    "for": lambda row: row["target"],
    "MB": lambda row: f"{row['bytes'] / 1e6:.1f}",
    "operators of `denoise`": lambda row: str(row["operators"]),
    "s to convert": lambda row: f"{row['seconds']:.0f}",
    "PSNR simulated": lambda row: f"{row['simulated_psnr_db']:.2f}",
    "PSNR package": lambda row: f"{row['package_psnr_db']:.2f}",
    "step, fp32": lambda row: f"{row['step_error']['fp32']:.1e}",
    "step, fp16": lambda row: f"{row['step_error']['fp16']:.1e}",
}


class PackageRunner(TorchRunner):
    """A quantized pipeline with its denoiser's packages, which lie in `folder`, in place of the denoiser."""

    def __init__(self, saved: Checkpoint, folder: Path, entry: dict):
        super().__init__(saved.denoiser, saved.pipeline)
        self.wanted = [tensor["name"] for tensor in entry["methods"]["prepare"]["inputs"]]
        self.methods = {}
        for name, method in entry["methods"].items():
            names = (tuple(tensor["feature"] for tensor in method[way]) for way in ("inputs", "outputs"))
            self.methods[name] = Simulated(load(folder / method["package"])[method["function"]], *names)

    def prepare(self, prompt: str, negative: bool = False) -> list[torch.Tensor]:
        given = self.pipeline.encode(prompt, negative)
        return self.methods["prepare"]([given[name] for name in self.wanted])

    def denoise_together(self, latents, timestep, conditionings):
        """One after the other: a program takes one sequence."""
        return [self.denoise(latents, timestep, conditioning) for conditioning in conditionings]

    def denoise(self, latents, timestep, conditioning):
        return self.methods["denoise"]([latents, timestep, *conditioning])[0]


def pictures(runner: Runner, trajectories: Trajectories) -> torch.Tensor:
    """uint8 [N, C, H, W], one a prompt."""
    return to_pixels(torch.stack([draw() for draw in trajectories.pictures(runner)]))


def step_error(found: Runner, exact: Runner, trajectories: Trajectories) -> float:
    """Relative L2 distance of the first step's prediction for the first prompt."""
    latents = torch.randn(1, *exact.latent_shape, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([trajectories.pipeline.plan(trajectories.steps).rows[0].timestep])
    a, b = (runner.denoise(latents, timestep, runner.prepare(trajectories.prompts[0])) for runner in (found, exact))
    return ((a - b).norm() / b.norm()).item()


def size(folder: Path) -> int:
    """Bytes of everything in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measured(saved: Checkpoint, exact: torch.Tensor, trajectories: Trajectories) -> dict:
    """A row of the table. exact: the float model's pictures."""
    row, component = {"recipe": saved.recipe.name, "step_error": {}}, denoiser_component(saved)
    simulated = TorchRunner(saved.denoiser, saved.pipeline)
    for precision in package.PRECISIONS:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "packages"
            folder.mkdir()
            start = time.process_time()
            entry = package.write(folder, component, precision)
            seconds = time.process_time() - start
            runner = PackageRunner(saved, folder, entry)
            row["step_error"][precision] = step_error(runner, simulated, trajectories)
            if precision == "fp16":
                row |= {
                    "target": entry["minimum_deployment_target"],
                    "bytes": size(folder),
                    "operators": sum(entry["methods"]["denoise"]["delegation"]["operators"].values()),
                    "seconds": seconds,
                    "package_psnr_db": mean_psnr_db(exact, pictures(runner, trajectories)),
                }
    return row | {"simulated_psnr_db": mean_psnr_db(exact, pictures(simulated, trajectories))}


def table(rows: list[dict]) -> str:
    """As Markdown."""
    lines = [list(COLUMNS), ["---", "---", *["---:"] * (len(COLUMNS) - 2)]]
    lines += [[cell(row) for cell in COLUMNS.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@click.command(help=__doc__.split("\n")[0])
@click.argument("recipes", nargs=-1)
@click.option("--work", type=click.Path(path_type=Path), default=Path("coreml-work"), show_default=True)
@click.option("--prompts", default=EVALUATION_PROMPTS, show_default=True)
@click.option("--steps", type=int, help="[default: the model's own]")
def main(recipes: tuple[str, ...], work: Path, prompts: int, steps: int | None) -> None:
    work.mkdir(parents=True, exist_ok=True)
    model, rows, exact = loading.load(MODEL), [], None
    trajectories = evaluation_trajectories(model, prompts)
    trajectories = dataclasses.replace(trajectories, steps=steps or trajectories.steps)
    for name in recipes or RECIPES:
        if not (work / name).exists():
            workflow.quantize(MODEL, name, work / name)
        if exact is None:
            exact = pictures(TorchRunner(model.denoiser, model.pipeline), trajectories)
        rows.append(measured(checkpoint.load(work / name), exact, trajectories))
        with files.new_file(work / "results.json") as partial:
            files.write_json(partial, rows)
    print(table(rows))


if __name__ == "__main__":
    raise SystemExit(console.run(lambda: main(standalone_mode=False)))
