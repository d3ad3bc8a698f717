"""The plan of a picture for the runner, see plan.h: what a bundle's manifest says, without JSON and tokenizers."""

from pathlib import Path

import numpy as np
import torch

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.prompts import BundlePrompts
from edge_hadanorm.bundle.schema import DECODER
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.noise import normal
from runtime_tests.device.machine import Machine

PLAN, LATENTS, PICTURE = "plan.tsv", "latents.raw", "picture.raw"
Line = list[object]


def write_plan(folder: Path, bundle: Bundle, prompt: str, steps: int, guidance: float, seed: int) -> Path:
    """Write a plan with its tensors into an existing folder; following it adds latents.raw and, decoded, picture.raw.

    Raises UserError where the bundle has no such prompt or table, and where its pictures are decoded in tiles.
    """
    writer = _Writer(folder, bundle)
    writer.prompt(prompt)
    conditioning = writer.method("denoiser", "prepare")
    table = bundle.table(steps)
    noise = normal(seed, (1, *bundle.latent_shape))
    writer.tensor("noise", torch.from_numpy(noise))
    writer.lines += [["noise_scale", float(table.noise_scale).hex()], ["guidance", float(guidance).hex()]]
    for row in zip(table.timesteps, table.input_scale, table.a, table.b, strict=True):
        numbers = [*row[:3], *row[3]]
        writer.lines.append(["step", *(float(number).hex() for number in numbers)])
    writer.lines.append(["sample", writer.file("denoiser"), "denoise", "noise", "latents", *conditioning])
    writer.lines.append(["write", "latents", LATENTS])
    if DECODER in bundle.programs:
        if bundle.decode_side < max(bundle.latent_shape[1:]):
            raise UserError(f"bundle {bundle.folder} decodes in tiles, which the runner does not; export --tile larger")
        writer.method(DECODER, "decode")
        writer.lines.append(["write", "picture", PICTURE])
    plan = folder / PLAN
    plan.write_text("".join("\t".join(map(str, line)) + "\n" for line in writer.lines))
    return plan


def draw(
    machine: Machine, folder: Path, bundle: Bundle, prompt: str, steps: int, guidance: float, seed: int, **options
) -> tuple[torch.Tensor, dict]:
    """The picture float32 [C, H, W] of a plan in a new folder, and the runner's report. Raises RunnerError, UserError.

    options: see runner.cpp.
    """
    folder.mkdir()
    report, _ = machine.call(["generate", write_plan(folder, bundle, prompt, steps, guidance, seed)], **options)
    width, height = bundle.image_size
    file = folder / (PICTURE if DECODER in bundle.programs else LATENTS)
    return torch.from_numpy(np.fromfile(file, np.float32)).view(-1, height, width), report


class _Writer:
    """Lines of a plan, and the tensors beside it."""

    def __init__(self, folder: Path, bundle: Bundle):
        self.folder, self.bundle = folder, bundle
        self.lines: list[Line] = []

    def file(self, role: str) -> Path:
        return self.bundle.file(self.bundle.programs[role]["file"]).resolve()

    def tensor(self, name: str, tensor: torch.Tensor) -> None:
        file, dtype = f"{len(self.lines)}-{name}.raw", str(tensor.dtype).removeprefix("torch.")
        tensor.contiguous().numpy().tofile(self.folder / file)
        self.lines.append(["tensor", name, dtype, ",".join(map(str, tensor.shape)), file])

    def method(self, role: str, method: str) -> list[str]:
        """A call with the tensors named as its inputs; the names of its outputs."""
        signature = self.bundle.programs[role]["methods"][method]
        inputs, outputs = ([tensor["name"] for tensor in signature[side]] for side in ("inputs", "outputs"))
        self.lines.append(["call", self.file(role), method, len(inputs), *inputs, *outputs])
        return outputs

    def prompt(self, prompt: str) -> None:
        """What `prepare` takes of a prompt: tensors, and calls of the text encoders that make the others."""
        made = set()

        def encode(role: str, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            method = self.bundle.programs[role]["methods"]["encode"]
            for spec, tensor in zip(method["inputs"], inputs, strict=True):
                self.tensor(spec["name"], tensor)
            names = self.method(role, "encode")
            made.update(names)
            return [torch.empty(0) for _ in names]

        for name, tensor in BundlePrompts(self.bundle)(prompt, encode).items():
            if name not in made:
                self.tensor(name, tensor)
