"""The stress model: the reference model's function and pictures, with inputs that are hard to quantize.

    python -m edge_hadanorm.reference.stress --out DIR [--seed 0]

Large transformers grow channels far larger than the rest (arXiv 2208.07339) and far off zero (arXiv 2402.17762); the
reference model is too small to. Here they are planted along exact symmetries of diffusers' PixArtTransformer2DModel:
where a layer makes x s + c in place of x, the linears that read x take W / s and b - (W / s) c.

name        makes x                      reads x                     s and c
queries     attn*.to_q                   attn*.to_k, as q k^T        s of a head's channels, k takes 1 / s; no c
values      attn*.to_v                   attn*.to_out.0              any: rows of softmax sum to one, so c passes
modulation  adaLN-single, n (1 + t) + u  attn1.to_q, k, v; ff.up     s of all blocks, whose time part is one; any c
text        caption_projection.linear_2  attn2.to_k, v of all        of all blocks, which read one tensor
stream      pos_embed.proj               attn2.to_q of all           no s; c of all channels, which every norm removes

Nothing but a permutation crosses the GELU, so the input of the feed-forward's second linear stays what it is.
"""

import argparse
import math
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

from edge_hadanorm import console
from edge_hadanorm.errors import UserError
from edge_hadanorm.files import new_folder, read_object
from edge_hadanorm.models.pixart import PixArtDenoiser
from edge_hadanorm.pipelines.loading import REFERENCE
from edge_hadanorm.quantization.calibration import calibrate
from edge_hadanorm.tensor_files import read_weights, require_finite, write_tensors

TRANSFORMER = Path("transformer")
WEIGHTS = TRANSFORMER / "diffusion_pytorch_model.safetensors"
CARD = Path("README.md")  # of the reference model, and about its weights

# All scales: the sigma of their log-normal. Outliers: their share of the channels, and a log-uniform factor besides.
SPREAD = 0.3
OUTLIERS, FACTORS = 0.02, (3.0, 30.0)
# Channels off zero: their share, and by how many of their standard deviations, uniform. The stream is off as a whole.
OFF_ZERO, OFFSETS = 0.02, (3.0, 10.0)
STREAM_OFFSET = 4.0

# Rows of a block's scale_shift_table, which are chunks of adaln_single.linear too: shift and scale, by what reads them.
CHUNKS = 6
MODULATIONS = {
    "attn1.qkv": (0, 1, ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
    "ff.up": (3, 4, ("ff.net.0.proj",)),
}
# What deviations are measured on.
PROBE_TIMESTEPS, PROBE_BATCH, PROBE_WORDS = (100.0, 400.0, 700.0, 1000.0), 2, 8

State = dict[str, torch.Tensor]
# By block of the state dict and by linear of PixArtDenoiser's: the standard deviations [d] of its input.
Deviations = dict[str, dict[str, torch.Tensor]]


class Draw:
    """Scales and offsets of channels from one generator; strength 0 gives scales of 1 and offsets of 0."""

    def __init__(self, seed: int, strength: float):
        self.generator, self.strength = torch.Generator().manual_seed(seed), strength

    def spread(self, width: int) -> torch.Tensor:
        """Scales [width] without outliers, float64."""
        normal = torch.randn(width, generator=self.generator, dtype=torch.float64)
        return (self.strength * SPREAD * normal).exp()

    def scale(self, width: int) -> torch.Tensor:
        """Scales [width], outliers among them."""
        low, high = map(math.log, FACTORS)
        outliers = self._some(width, OUTLIERS) * (low + (high - low) * self._uniform(width))
        return self.spread(width) * (self.strength * outliers).exp()

    def offset(self, deviation: torch.Tensor) -> torch.Tensor:
        """Offsets [d], most of them 0, of channels with these standard deviations [d]."""
        width, (low, high) = len(deviation), OFFSETS
        far = self._some(width, OFF_ZERO) * (low + (high - low) * self._uniform(width))
        sign = (self._uniform(width) - 0.5).sign()
        return self.strength * sign * far * deviation

    def _uniform(self, width: int) -> torch.Tensor:
        return torch.rand(width, generator=self.generator, dtype=torch.float64)

    def _some(self, width: int, share: float) -> torch.Tensor:
        """1 in a share of the channels, at least one, and 0 in the others."""
        chosen = torch.zeros(width, dtype=torch.float64)
        chosen[torch.randperm(width, generator=self.generator)[: max(1, round(share * width))]] = 1
        return chosen


def make(state: State, linear: str, scale: torch.Tensor, offset: torch.Tensor | float = 0.0) -> None:
    """Let a linear make x scale + offset where it made x [..., d]."""
    state[f"{linear}.weight"] = state[f"{linear}.weight"] * scale[:, None]
    state[f"{linear}.bias"] = state[f"{linear}.bias"] * scale + offset


def read(state: State, linears: Iterable[str], scale: torch.Tensor | float, offset: torch.Tensor) -> None:
    """Let linears take x scale + offset where they took x [..., d]."""
    for linear in linears:
        weight = state[f"{linear}.weight"] / scale
        state[f"{linear}.weight"] = weight
        state[f"{linear}.bias"] = state[f"{linear}.bias"] - weight @ offset


def queries(state: State, usual: Deviations, draw: Draw) -> None:
    """(q s) (k / s)^T = q k^T: rows of weights become uneven, and columns with them where q, k and v are stacked."""
    for attention in (f"{block}.{name}" for block in usual for name in ("attn1", "attn2")):
        scale = draw.spread(len(state[f"{attention}.to_q.bias"]))
        make(state, f"{attention}.to_q", scale)
        make(state, f"{attention}.to_k", 1 / scale)


def values(state: State, usual: Deviations, draw: Draw) -> None:
    """P (v s + c) = (P v) s + c for the rows of P = softmax(q k^T), which sum to one."""
    for block, deviation in usual.items():
        for attention in ("attn1", "attn2"):
            scale = draw.scale(len(deviation[f"{attention}.out"]))
            offset = draw.offset(deviation[f"{attention}.out"] * scale)
            make(state, f"{block}.{attention}.to_v", scale, offset)
            read(state, [f"{block}.{attention}.to_out.0"], scale, offset)


def modulation(state: State, usual: Deviations, draw: Draw) -> None:
    """n (1 + t) s + u s + c, where t and u are each the sum of a row of the block's and a chunk of the time's."""
    for name, (shift, scale_row, readers) in MODULATIONS.items():
        scale = draw.scale(len(next(iter(usual.values()))[name]))
        rows = torch.ones(CHUNKS, len(scale), dtype=torch.float64)
        rows[[shift, scale_row]] = scale
        make(state, "adaln_single.linear", rows.flatten())
        for block, deviation in usual.items():
            offset = draw.offset(deviation[name] * scale)
            table = state[f"{block}.scale_shift_table"] * rows
            table[shift] += offset
            table[scale_row] += scale - 1  # the 1 of (1 + t) s is added by the block
            state[f"{block}.scale_shift_table"] = table
            read(state, [f"{block}.{reader}" for reader in readers], scale, offset)


def text(state: State, usual: Deviations, draw: Draw) -> None:
    """Scale and offset what all blocks read of the prompt: times s and plus c."""
    deviation = next(iter(usual.values()))["attn2.kv"]
    scale = draw.scale(len(deviation))
    offset = draw.offset(deviation * scale)
    make(state, "caption_projection.linear_2", scale, offset)
    read(state, [f"{block}.attn2.{name}" for block in usual for name in ("to_k", "to_v")], scale, offset)


def stream(state: State, usual: Deviations, draw: Draw) -> None:
    """The residual stream plus one number, which moves no layer norm: those of the blocks and the last have no weight.

    Moderate, as a norm in float32 loses as many bits as the number has more than the deviation.
    """
    deviations = torch.stack([deviation["attn2.q"] for deviation in usual.values()])
    number = draw.strength * STREAM_OFFSET * deviations.square().mean().sqrt()
    state["pos_embed.proj.bias"] = state["pos_embed.proj.bias"] + number
    read(state, [f"{block}.attn2.to_q" for block in usual], 1.0, number.expand(deviations.shape[1]))


SYMMETRIES: dict[str, Callable[[State, Deviations, Draw], None]] = {
    symmetry.__name__: symmetry for symmetry in (queries, values, modulation, text, stream)
}


def input_deviations(denoiser: PixArtDenoiser) -> Deviations:
    """Measure the inputs of a float64 denoiser over a few calls on noise."""
    generator = torch.Generator().manual_seed(0)

    def call(timestep: float) -> torch.Tensor:
        latents, prompt = (
            torch.randn(PROBE_BATCH, *shape, generator=generator, dtype=torch.float64)
            for shape in (denoiser.latent_shape(), (PROBE_WORDS, denoiser.text_width))
        )
        return denoiser.denoise(latents, torch.tensor([timestep], dtype=torch.float64), denoiser.prepare(prompt))

    moments = calibrate(denoiser, [partial(call, timestep) for timestep in PROBE_TIMESTEPS])
    return {
        f"transformer_blocks.{i}": {
            name.removeprefix(f"blocks.{i}."): seen.deviation("static")
            for name, seen in moments.items()
            if name.startswith(f"blocks.{i}.")
        }
        for i in range(len(denoiser.blocks))
    }


def plant_outliers(
    config: dict,
    weights: dict[str, torch.Tensor],
    seed: int = 0,
    strength: float = 1.0,
    symmetries: Iterable[str] = tuple(SYMMETRIES),
) -> State:
    """A state dict of the same function with outliers, float64, from a PixArtTransformer2DModel's config and its own.

    strength: the logarithms of scales and the offsets are times this; 0 changes nothing. symmetries: of SYMMETRIES.
    Raises UserError for an unsupported config, weights that are not of it or not finite, and an impossible seed or
    strength.
    """
    if not 0 <= seed < 1 << 63:
        raise UserError(f"seed: {seed} is not a whole number from 0 to 2^63 - 1")
    if not 0 <= strength < math.inf:
        raise UserError(f"strength: {strength} is not a number from 0 up")
    state = {name: tensor.double() for name, tensor in weights.items()}
    usual = input_deviations(PixArtDenoiser.from_diffusers(config, state))
    draw = Draw(seed, strength)
    for name in symmetries:
        SYMMETRIES[name](state, usual, draw)
    require_finite(state, f"stressed weights at strength {strength}")
    return state


def write(out: Path, seed: int = 0) -> None:
    """The stress model of the reference model as the diffusers pipeline folder `out`, whole or not at all.

    Raises UserError where `out` exists or cannot be written.
    """
    if os.path.lexists(out):
        raise UserError(f"{out} exists; remove it or give another `out`")
    with new_folder(out) as folder:
        config = read_object(REFERENCE / TRANSFORMER / "config.json", "transformer config")
        state = plant_outliers(config, read_weights(REFERENCE / TRANSFORMER), seed)
        for file in (file.relative_to(REFERENCE) for file in REFERENCE.rglob("*") if file.is_file()):
            if file not in (CARD, WEIGHTS):
                (folder / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(REFERENCE / file, folder / file)
        write_tensors(folder / WEIGHTS, {name: tensor.float() for name, tensor in state.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="which channels, and how far")
    args = parser.parse_args()
    console.silence_libraries()
    raise SystemExit(console.run(lambda: write(args.out, args.seed)))


if __name__ == "__main__":
    main()
