"""export/memory.py: the bytes of activations are those that a device needs, and a smaller tile costs no weights."""

import dataclasses
from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn

from edge_hadanorm.bundle.components import decoder_signatures
from edge_hadanorm.bundle.schema import SMALL
from edge_hadanorm.exporters import memory
from edge_hadanorm.exporters.xnnpack.program import export
from edge_hadanorm.exporters.xnnpack.target import lower_all
from edge_hadanorm.pipelines.autoencoder import ImageDecoder
from runtime_tests.device.machine import HOST, RunnerError
from runtime_tests.support.helpers import randn

SIDE = 100


class Branches(nn.Module):
    """Products of one input, which are all alive before they are added up."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x):
        made = [torch.mm(x, x) for _ in range(self.count)]
        return torch.mm(sum(made[1:], made[0]), x)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_is_alive_at_once_is_counted(count):
    """An input and an output are not the graph's own, and a sum writes where it reads."""
    graph = torch.export.export(Branches(count), (torch.zeros(SIDE, SIDE),)).run_decompositions().graph
    assert memory.peak_bytes(graph) == count * 4 * SIDE**2


def test_a_view_has_no_memory_of_its_own():
    class Viewed(nn.Module):
        def forward(self, x):
            return torch.mm(torch.mm(x, x).view(SIDE // 2, -1).view(SIDE, SIDE), x)

    graph = torch.export.export(Viewed(), (torch.zeros(SIDE, SIDE),)).run_decompositions().graph
    assert memory.peak_bytes(graph) == 4 * SIDE**2


@pytest.fixture(scope="module")
def decoder() -> ImageDecoder:
    torch.manual_seed(0)
    levels = dict(down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3)
    widths = dict(block_out_channels=[32, 64, 256], layers_per_block=1, norm_num_groups=8)
    made = diffusers.AutoencoderKL(**levels, **widths, latent_channels=4)
    made.encoder = None
    return ImageDecoder(made.eval().requires_grad_(False))


@pytest.fixture(scope="module")
def lowered(decoder):
    signatures = decoder_signatures(decoder, (4, 64, 64), 64, small=True)
    return lower_all({name: export(decoder, tuple(own.inputs.values())) for name, own in signatures.items()})


@pytest.mark.slow
def test_a_decoder_for_smaller_tiles_has_the_same_weights(decoder, lowered):
    size = sum(4 * parameter.numel() for parameter in decoder.parameters())
    assert len(lowered.program.buffer) < 1.1 * size
    assert lowered.activations[SMALL] < 0.26 * lowered.activations["decode"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decode", SMALL])
def test_a_device_needs_the_activations_that_are_said(host, lowered, tmp_path, name):
    """Within 15 % and the 16 MB of a runtime; packed weights lie in a file."""
    file, side = Path(tmp_path / "decoder.pte"), {"decode": 64, SMALL: 32}[name]
    file.write_bytes(lowered.program.buffer)
    latents, needed = randn(1, 4, side, side, dtype=torch.float32).numpy(), lowered.activations[name]
    (tmp_path / "cache").mkdir()

    def run(limit: float) -> None:
        machine = dataclasses.replace(HOST, prefix=("prlimit", f"--data={int(limit)}"))
        machine.run(file, name, [latents], cache=tmp_path / "cache")

    picture = 4 * 3 * (4 * side) ** 2
    run(1.15 * needed + 16e6 + 2 * picture)
    with pytest.raises(RunnerError, match="not enough memory"):
        run(0.85 * needed)


def test_small_tiles_are_not_too_small(decoder):
    assert set(decoder_signatures(decoder, (4, 64, 64), 64)) == {"decode"}
    for side, names in ((16, {"decode"}), (32, {"decode", SMALL})):
        made = decoder_signatures(decoder, (4, side, side), None, small=True)
        assert set(made) == names
