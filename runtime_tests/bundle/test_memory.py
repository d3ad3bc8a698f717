"""bundle/memory.py: what a picture needs of memory; the runner's smaller tiles, where there is less."""

import pytest
import torch

from edge_hadanorm.bundle import DECODER, SMALL, Bundle, memory_of, peak_memory
from edge_hadanorm.bundle.runner import BundleRunner
from edge_hadanorm.errors import UserError
from runtime_tests.support.manifests import example, tensor

MEGABYTE = 1_000_000


def manifest(small: bool = False) -> dict:
    """Of a denoiser and a decoder of 5 MB each, with a conditioning of 1 MB and pictures of 3 MB."""
    latents, made = tensor("latents", "float32", 1, 4, 8, 8), tensor("picture", "float32", 1, 3, 500, 500)
    conditioning = tensor("conditioning", "int8", 1, 1000, 1000)

    def method(activations: int, inputs: list, outputs: list) -> dict:
        return {"inputs": inputs, "outputs": outputs, "activations": activations * MEGABYTE}

    decoder = {"decode": method(90, [latents], [made])} | ({SMALL: method(20, [latents], [made])} if small else {})
    denoiser = {"prepare": method(1, [], [conditioning]), "denoise": method(30, [latents, conditioning], [latents])}
    programs = {"denoiser": {"file": "a", "methods": denoiser}, DECODER: {"file": "b", "methods": decoder}}
    return {"programs": programs, "files": {name: {"bytes": 5 * MEGABYTE} for name in ("a", "b", "c")}}


def test_a_method_needs_the_runtime_its_program_its_activations_and_twice_its_tensors():
    needs = memory_of(manifest())
    assert set(needs) == {("denoiser", "prepare"), ("denoiser", "denoise"), (DECODER, "decode")}
    denoise = needs["denoiser", "denoise"]
    assert denoise.total() == pytest.approx((16 + 5.25 + 30 + 2) * MEGABYTE, rel=1e-3)
    assert denoise.total(packed_in_file=True) == denoise.total() - 5 * MEGABYTE


def test_a_picture_needs_what_its_largest_stage_does():
    assert peak_memory(manifest()) == pytest.approx((16 + 5.25 + 90 + 6) * MEGABYTE, rel=1e-3)
    assert peak_memory(manifest(small=True)) == pytest.approx((16 + 5.25 + 30 + 2) * MEGABYTE, rel=1e-3)
    assert peak_memory(manifest(small=True), packed_in_file=True) == pytest.approx(48.25 * MEGABYTE, rel=1e-3)


def test_what_the_system_plans_is_unknown():
    unknown = manifest()
    unknown["programs"]["denoiser"]["methods"]["denoise"]["activations"] = None
    assert memory_of(unknown) == {}
    assert peak_memory(unknown) is None


# Smaller tiles.


def decoding(folder, **methods) -> tuple[BundleRunner, list]:
    """A runner whose decoder repeats each latent 2 x 2 times, in tiles of 8 and 4, and the shapes that it was given."""
    made, seen = example(), []
    sides = {"decode": 8, SMALL: 4}
    made["programs"][DECODER] = {
        "methods": {name: {"inputs": [tensor("latents", "float32", 1, 3, side, side)]} for name, side in sides.items()}
    }

    def method(name):
        def decode(inputs):
            seen.append((name, inputs[0].shape[-1]))
            if name in methods:
                raise methods[name]
            return [inputs[0].repeat_interleave(2, 2).repeat_interleave(2, 3)]

        return decode

    runner = BundleRunner.__new__(BundleRunner)
    runner.bundle = Bundle(folder, made)
    runner._methods = {(DECODER, name): method(name) for name in sides}
    return runner, seen


@pytest.mark.parametrize("short", [False, True])
def test_smaller_tiles_are_decoded_where_memory_is_short(tmp_path, short):
    failing = {"decode": UserError("not enough memory")} if short else {}
    runner, seen = decoding(tmp_path, **failing)
    latents = torch.rand(3, 8, 12)
    expected = latents.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(runner.decode(latents), expected)
    assert set(seen) == ({("decode", 8), (SMALL, 4)} if short else {("decode", 8)})


def test_a_decoder_that_cannot_at_all_is_an_error(tmp_path):
    runner, _ = decoding(tmp_path, decode=UserError("large"), decode_small=UserError("small"))
    with pytest.raises(UserError, match="small"):
        runner.decode(torch.zeros(3, 8, 12))
