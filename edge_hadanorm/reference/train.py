"""Train the reference model: a PixArt transformer that draws the vendored emoji from their names.

    python -m edge_hadanorm.reference.train --out DIR [--samples 400000]

Flow matching: x_s = (1 - s) x0 + s eps, target eps - x0, s from a logit-normal shifted as the sampler shifts it
(Esser et al., arXiv 2403.03206). A checkpoint every few minutes; started again, it resumes from the last one and
gives the same model, since every step draws from a generator seeded by its number.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from edge_hadanorm.reference import data
from edge_hadanorm.reference.model import FLOW_SHIFT, make_pipeline

BATCH = 32
LEARNING_RATE = 8e-4
EMA_DECAY = 0.999
CAPTION_DROPOUT = 0.1
CHECKPOINT_SECONDS = 180
LICENCE = "Apache-2.0, as the Noto emoji pictures that the model was trained on"


def learning_rate(progress: float) -> float:
    """Short warm-up, constant to half the run, then linear to 2 %."""
    return LEARNING_RATE * min(1.0, progress / 0.005) * min(1.0, max(0.02, 2 * (1 - progress)))


def draw_sigmas(n: int, generator: torch.Generator) -> torch.Tensor:
    """n noise levels in (0, 1): stratified logit-normal, shifted."""
    strata = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    sigmas = torch.special.ndtri(strata.clamp(1e-4, 1 - 1e-4)).sigmoid()
    return FLOW_SHIFT * sigmas / (1 + (FLOW_SHIFT - 1) * sigmas)


class Trainer:
    """The weights, their moving average and the optimizer, as one thing to step, save and resume."""

    def __init__(self, pipeline, pictures: torch.Tensor, ids: torch.Tensor, device: str, seed: int):
        self.pictures, self.ids, self.device, self.seed = pictures, ids, device, seed
        self.transformer = pipeline.transformer.to(device).train()
        self.text_encoder = pipeline.text_encoder.to(device).train()
        named = [
            (f"{prefix}.{name}", p)
            for prefix, module in (("transformer", self.transformer), ("text_encoder", self.text_encoder))
            for name, p in module.named_parameters()
        ]
        self.names, self.parameters = [n for n, _ in named], [p for _, p in named]
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
        self.step_number = 0

    def batch(self) -> tuple[torch.Tensor, ...]:
        """Pictures, token ids, noise levels and noise of this step; an epoch is a permutation of the pictures."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step_number)
        n, first = len(self.pictures), self.step_number * BATCH
        index = torch.empty(BATCH, dtype=torch.long)
        for epoch in range(first // n, (first + BATCH - 1) // n + 1):
            order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed * 7919 + epoch))
            span = range(max(first, epoch * n), min(first + BATCH, (epoch + 1) * n))
            index[span.start - first : span.stop - first] = order[span.start - epoch * n : span.stop - epoch * n]
        ids = self.ids[index].clone()
        ids[torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT] = 0
        noise = torch.randn(self.pictures[index].shape, generator=generator)
        sigmas = draw_sigmas(BATCH, generator)
        return tuple(t.to(self.device) for t in (self.pictures[index], ids, sigmas, noise))

    def step(self, progress: float) -> float:
        """One AdamW step; returns the mean squared velocity error."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        x, ids, sigmas, noise = self.batch()
        s = sigmas.view(-1, 1, 1, 1)
        with torch.autocast(self.device, torch.bfloat16):
            text = self.text_encoder(ids).last_hidden_state
            velocity = self.transformer(
                (1 - s) * x + s * noise, encoder_hidden_states=text, timestep=1000 * sigmas, return_dict=False
            )[0]
        loss = (velocity.float() - (noise - x)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step_number += 1
        decay = min(EMA_DECAY, self.step_number / (self.step_number + 10))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return loss.item()

    def save(self, file: Path) -> None:
        """Whole or not at all."""
        tensors = {f"ema.{n}": t for n, t in zip(self.names, self.ema, strict=True)}
        for name, p in zip(self.names, self.parameters, strict=True):
            tensors[f"weight.{name}"] = p.detach()
            tensors |= {f"adam.{key}.{name}": t for key, t in self.optimizer.state[p].items()}
        save_file(tensors, file.with_suffix(".partial"), metadata={"step": str(self.step_number)})
        os.replace(file.with_suffix(".partial"), file)

    def resume(self, file: Path) -> None:
        """Continue from a checkpoint that `save` wrote."""
        tensors = load_file(file, device=self.device)
        for name, p, average in zip(self.names, self.parameters, self.ema, strict=True):
            p.data.copy_(tensors[f"weight.{name}"])
            average.copy_(tensors[f"ema.{name}"])
            self.optimizer.state[p] = {key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        first = next(iter(self.optimizer.state.values()))
        self.step_number = int(first["step"].item())

    def use_average(self) -> None:
        """Put the moving average into the modules."""
        for p, average in zip(self.parameters, self.ema, strict=True):
            p.data.copy_(average)


def train(out: Path, samples: int, seed: int, device: str) -> None:
    """Train to `samples` pictures seen, then write the pipeline folder `out`/pipeline with fp16 weights."""
    out.mkdir(parents=True, exist_ok=True)
    pictures, captions = data.load()
    torch.manual_seed(seed)
    pipeline: Any = make_pipeline(captions)
    ids = pipeline.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    trainer = Trainer(pipeline, pictures / 127.5 - 1, ids, device, seed)
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists():
        trainer.resume(checkpoint)
    total = samples // BATCH
    saved, average = time.monotonic(), None
    with tqdm(total=total, initial=trainer.step_number, unit="step", mininterval=10) as bar:
        while trainer.step_number < total:
            loss = trainer.step(trainer.step_number / total)
            average = loss if average is None else average + 0.01 * (loss - average)
            bar.set_postfix(loss=f"{average:.4f}", refresh=False)
            bar.update()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                trainer.save(checkpoint)
                saved = time.monotonic()
    trainer.save(checkpoint)
    trainer.use_average()
    save_pipeline(pipeline.to("cpu", torch.float16), captions, out / "pipeline")
    (out / "training.json").write_text(json.dumps({"samples": samples, "seed": seed, "loss": average}))


def save_pipeline(pipeline, captions: list[str], folder: Path) -> None:
    """A diffusers pipeline folder, and in its about.json the licence and the prompts it was made for."""
    pipeline.save_pretrained(folder)
    (folder / "about.json").write_text(json.dumps({"licence": LICENCE, "prompts": captions}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the finished pipeline")
    parser.add_argument("--samples", type=int, default=400_000, help="pictures seen in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    train(args.out, args.samples, args.seed, args.device)


if __name__ == "__main__":
    main()
