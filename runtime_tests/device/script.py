"""The script of a picture for the runner, see script.h: what a bundle's manifest says, without JSON and tokenizers."""

from pathlib import Path

import numpy as np
import torch

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.prompts import BundlePrompts
from edge_hadanorm.bundle.schema import DECODER, IMAGE_ENCODER
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.drawing import Wish, mask_of
from edge_hadanorm.pipelines.plans import NEGATIVE, TEXT
from runtime_tests.device.machine import Machine

SCRIPT, LATENTS, PICTURE = "script.tsv", "latents.raw", "picture.raw"
Line = list[object]


def write_script(folder: Path, bundle: Bundle, wish: Wish, text: dict[str, torch.Tensor] | None = None) -> Path:
    """Write a script with its tensors into an existing folder; following it adds latents.raw and, decoded, picture.raw.

    text: what `prepare` of a transformer alone is given, for either prompt. Programs are in memory one at a time.
    Raises UserError where the bundle has no such prompt, and where its pictures are decoded in tiles.
    """
    writer, steps = _Writer(folder, bundle), wish.plan.at(wish.guidance)
    predicted = {name for step in steps for name in step.predicted}
    prompts = {TEXT: (wish.prompt, False), NEGATIVE: (wish.negative, True)}
    asked = {name: prompts[name] for name in (TEXT, NEGATIVE) if name in predicted}
    known = writer.known(wish)
    if text is None:
        given = {name: writer.prompt(*prompt, name) for name, prompt in asked.items()}
    else:
        given = {name: writer.tensors(text, name) for name in asked}
    for role in writer.encoders:
        writer.lines.append(["close", writer.file(role)])
    conditionings = {name: writer.method("denoiser", "prepare", name) for name in asked}
    writer.lines.append(["unload", writer.file("denoiser"), writer.own("denoiser", "prepare")])
    writer.lines += [["forget", *names] for names in given.values()]
    writer.lines.append(["noise", wish.seed, float(wish.plan.noise_scale).hex()])
    writer.lines += known
    scales = [row.known or (0.0, 0.0) for row in wish.plan.rows[1:]] + [(1.0, 0.0)]
    for step, after in zip(steps, scales, strict=True):
        lists = [field for row in (step.text, step.negative, step.noise) for field in (len(row), *map(float.hex, row))]
        writer.lines.append(["step", *map(float.hex, (step.timestep, step.input_scale, step.a, *after)), *lists])
    text, negative = (conditionings.get(name, []) for name in (TEXT, NEGATIVE))
    shape = ",".join(map(str, (1, *bundle.latent_shape)))
    denoiser, denoise = writer.file("denoiser"), writer.own("denoiser", "denoise")
    writer.lines.append(["sample", denoiser, denoise, shape, "latents", len(text), *text, *negative])
    writer.lines += [["close", denoiser], ["write", "latents", LATENTS]]
    if conditionings:
        writer.lines.append(["forget", *text, *negative])
    if DECODER in bundle.programs:
        if bundle.decode_window != bundle.latent_shape[1:]:
            raise UserError(f"bundle {bundle.folder} decodes in tiles, which the runner does not")
        writer.method(DECODER, "decode")
        writer.lines.append(["write", "picture", PICTURE])
    script = folder / SCRIPT
    script.write_text("".join("\t".join(map(str, line)) + "\n" for line in writer.lines))
    return script


def draw(machine: Machine, folder: Path, bundle: Bundle, wish: Wish, **options) -> tuple[torch.Tensor, dict]:
    """The picture float32 [C, H, W] of a script in a new folder, and the runner's report.

    options: see runner.cpp. Raises RunnerError and UserError.
    """
    folder.mkdir()
    report, _ = machine.call(["generate", write_script(folder, bundle, wish)], **options)
    width, height = bundle.image_size
    file = folder / (PICTURE if DECODER in bundle.programs else LATENTS)
    return torch.from_numpy(np.fromfile(file, np.float32)).view(-1, height, width), report


class _Writer:
    """Lines of a script, and the tensors beside it. encoders: roles of those that are called."""

    def __init__(self, folder: Path, bundle: Bundle):
        self.folder, self.bundle = folder, bundle
        self.lines: list[Line] = []
        self.encoders: dict[str, None] = {}

    def file(self, role: str) -> Path:
        return self.bundle.file(self.bundle.programs[role]["file"]).resolve()

    def own(self, role: str, method: str) -> str:
        """Name of a method in its program, another one of a size that is not the default."""
        return self.bundle.programs[role]["methods"][method].get("name", method)

    def tensor(self, name: str, tensor: torch.Tensor) -> None:
        file, dtype = f"{len(self.lines)}.raw", str(tensor.dtype).removeprefix("torch.")
        tensor.contiguous().numpy().tofile(self.folder / file)
        self.lines.append(["tensor", name, dtype, ",".join(map(str, tensor.shape)), file])

    def tensors(self, tensors: dict[str, torch.Tensor], prefix: str) -> list[str]:
        """Tensors under names that begin with a prefix, which are returned."""
        for name, tensor in tensors.items():
            self.tensor(f"{prefix}.{name}", tensor)
        return [f"{prefix}.{name}" for name in tensors]

    def method(self, role: str, method: str, prefix: str = "") -> list[str]:
        """A call with the tensors named as its inputs, after a prefix; the names of its outputs, with it too."""
        signature = self.bundle.programs[role]["methods"][method]
        inputs, outputs = (
            [f"{prefix}.{tensor['name']}" if prefix else tensor["name"] for tensor in signature[side]]
            for side in ("inputs", "outputs")
        )
        self.lines.append(["call", self.file(role), self.own(role, method), len(inputs), *inputs, *outputs])
        return outputs

    def known(self, wish: Wish) -> list[Line]:
        """Lines for what a picture begins with, which come after those that are written here: of its encoder."""
        if wish.original is None:
            return []
        bundle, picture = self.bundle, wish.original.picture
        name = "latents" if DECODER not in bundle.programs else "picture"
        self.tensor(f"known.{name}", picture[None])
        if DECODER in bundle.programs:
            if bundle.encode_window != picture.shape[1:]:
                raise UserError(f"bundle {bundle.folder} encodes in tiles, which the runner does not")
            self.method(IMAGE_ENCODER, "encode", "known")
            self.lines += [["close", self.file(IMAGE_ENCODER)], ["forget", "known.picture"]]
        mask = mask_of(wish.original, bundle.latent_shape)
        if mask is not None:
            self.tensor("known.mask", mask)
        scales = wish.plan.rows[0].known or (0.0, 0.0)
        return [["known", "known.latents", *map(float.hex, scales), *([] if mask is None else ["known.mask"])]]

    def prompt(self, prompt: str, negative: bool, prefix: str) -> list[str]:
        """What `prepare` takes of a prompt, under names that begin with the prefix; returns them.

        Tensors, and calls of the text encoders that make the others.
        """
        made: set[str] = set()

        def encode(role: str, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            method = self.bundle.programs[role]["methods"]["encode"]
            for spec, tensor in zip(method["inputs"], inputs, strict=True):
                self.tensor(f"{prefix}.{spec['name']}", tensor)
            names = self.method(role, "encode", prefix)
            self.encoders[role] = None
            made.update(names)
            return [torch.empty(0) for _ in names]

        for name, tensor in BundlePrompts(self.bundle)(prompt, negative, encode).items():
            if f"{prefix}.{name}" not in made:
                self.tensor(f"{prefix}.{name}", tensor)
                made.add(f"{prefix}.{name}")
        return sorted(made)
