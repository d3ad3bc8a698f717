"""Denoisers of other sizes than their config's, not square too: diffusers' transformers at that size."""

import dataclasses
import json

import pytest
import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.recipe import named
from edge_hadanorm.models.calls import captured_size, read_captured
from edge_hadanorm.models.denoiser import ARGUMENTS
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.loading import Size
from edge_hadanorm.quantization.quantize import quantize
from runtime_tests.support.families import FAMILIES, Family
from runtime_tests.support.helpers import randn, relative_error

# AuraFlow's member has no more than 6 x 6 positions, SD3's 7 x 7; DiT's pictures are square.
SIZES = ((4, 8), (8, 4))
SQUARES = {"dit": {(4, 8): (4, 4), (8, 4): (12, 12)}}
LEARNED = ("auraflow",)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def family(name) -> Family:
    return FAMILIES[name]


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return family.save(tmp_path_factory.mktemp("model") / "transformer")


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: "x".join(map(str, size)))
def size(name, request) -> tuple[int, int]:
    return SQUARES.get(name, {}).get(request.param, request.param)


@pytest.fixture(scope="module")
def denoiser(folder, size):
    """Loaded for the size, in float64."""
    return loading.load(str(folder), Size(latents=size)).denoiser.double()


@torch.no_grad()
def test_the_denoiser_is_diffusers_transformer(family, denoiser, size):
    call = family.call(denoiser)
    assert call.latents.shape[2:] == size
    assert relative_error(call.run(denoiser), family.exact(family.make().double(), call)) < family.error


@torch.no_grad()
def test_a_resized_denoiser_is_the_one_that_was_loaded_so(name, family, folder, denoiser, size):
    native = loading.load(str(folder)).denoiser
    if name in LEARNED:
        with pytest.raises(UserError, match=r"positions of .* are learned: give `size` where it is quantized"):
            native.resized(*size)
        return
    call, resized = family.call(denoiser), native.resized(*size).double()
    assert relative_error(call.run(resized), call.run(denoiser)) < family.error
    assert resized.resized(*native.latent_shape()[1:]).latent_shape() == native.latent_shape()
    shared = dict(native.resized(*size).named_parameters())
    for key, parameter in native.named_parameters():
        assert shared[key].data_ptr() == parameter.data_ptr(), key
    assert native.resized(*native.latent_shape()[1:]) is native


@torch.no_grad()
def test_a_quantized_denoiser_is_resized(name, family, folder, denoiser, size):
    """Its codes and transforms stay: the resized one is as near to the float one as the quantized one was."""
    if name in LEARNED:
        return
    native = loading.load(str(folder)).denoiser
    quantized = quantize(native, named("rtn-w8a8"), None, [], [])
    call = family.call(denoiser)
    resized = quantized.resized(*size)
    codes = {key: tensor for key, tensor in resized.state_dict().items() if key.endswith("codes")}
    assert codes
    for key, tensor in codes.items():
        assert tensor.data_ptr() == quantized.state_dict()[key].data_ptr()
    prompt = {key: tensor.float() for key, tensor in call.prompt.items()}
    single = dataclasses.replace(call, latents=call.latents.float(), timestep=call.timestep.float(), prompt=prompt)
    assert relative_error(single.run(resized).double(), call.run(denoiser)) < 0.1


def test_latents_are_whole_patches(name, folder):
    if name.startswith("sana"):  # whose patches are latent pixels
        return
    with pytest.raises(UserError, match=r"latents of \[7, 8\] \(height, width\) are not whole patches of 2 x 2"):
        loading.load(str(folder), Size(latents=(7, 8)))


def test_a_dit_has_square_pictures(tmp_path):
    with pytest.raises(UserError, match=r"latents of \[4, 8\] \(height, width\) are no square"):
        loading.load(str(FAMILIES["dit"].save(tmp_path / "transformer")), Size(latents=(4, 8)))


def test_a_transformer_alone_has_no_size_in_pixels(folder):
    with pytest.raises(
        UserError, match=r"is a transformer alone, whose pictures have no size in pixels: leave out `size`"
    ):
        loading.load(str(folder), Size(picture=(64, 32)))


def test_a_grid_beyond_the_positions_is_refused(tmp_path):
    folder = FAMILIES["sd3"].save(tmp_path / "transformer")
    with pytest.raises(UserError, match="8 patches a side are more than pos_embed_max_size 7"):
        loading.load(str(folder), Size(latents=(8, 16)))


def test_learned_positions_of_sd3_are_not_made_anew(tmp_path):
    family = FAMILIES["sd3"]
    transformer = family.make()
    transformer.pos_embed.pos_embed += 0.1 * randn(*transformer.pos_embed.pos_embed.shape, dtype=torch.float32)
    transformer.save_pretrained(tmp_path / "transformer")
    loaded = loading.load(str(tmp_path / "transformer"), Size(latents=(4, 8))).denoiser
    assert loaded.latent_shape()[1:] == (4, 8)
    with pytest.raises(UserError, match="are learned"):
        loaded.resized(8, 4)


# Captured inputs say the size.


def test_captured_latents_say_their_size(family, folder, size):
    if "Flux" in family.source_class:
        return  # whose latents are packed, see below
    native = loading.load(str(folder)).denoiser
    call = family.call(loading.load(str(folder), Size(latents=size)).denoiser)
    tensors = {ARGUMENTS[key]: tensor for key, tensor in call.prompt.items()}
    tensors |= {"hidden_states": call.latents, "timestep": call.timestep.expand(len(call.latents))}
    assert captured_size(tensors) == size
    with pytest.raises(UserError, match="hidden_states has shape"):
        read_captured(tensors, native)
    sized = loading.load(str(folder), Size(latents=captured_size(tensors))).denoiser
    assert read_captured(tensors, sized)[0].latents.shape[2:] == size


def test_ids_of_packed_latents_say_their_size(tmp_path):
    """FLUX's config has no size, and published ones none of our own keys."""
    family = FAMILIES["flux"]
    folder = family.save(tmp_path / "transformer")
    config = json.loads((folder / "config.json").read_text())
    config.pop("sample_size", None)
    (folder / "config.json").write_text(json.dumps(config))
    height, width = 6, 10
    row, column = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    ids = torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).float()
    assert captured_size({"hidden_states": torch.zeros(1, len(ids), 16), "img_ids": ids}) == (height, width)
    assert captured_size({"hidden_states": torch.zeros(1, len(ids), 16)}) is None
    assert loading.load(str(folder), Size(latents=(height, width))).denoiser.latent_shape()[1:] == (height, width)
