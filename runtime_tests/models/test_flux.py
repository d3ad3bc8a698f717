"""FLUX: packed tokens, sizes of pictures, and which of its transformers are supported."""

import dataclasses

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from edge_hadanorm.errors import UserError
from edge_hadanorm.models import calls as calls_module
from edge_hadanorm.models.flux import FluxDenoiser
from edge_hadanorm.pipelines import loading
from runtime_tests.support.families import FAMILIES
from runtime_tests.support.helpers import randn, relative_error

FLUX = FAMILIES["flux"]
# The widths of FLUX.1 dev, with few blocks.
DEV = dict(FLUX.config, num_attention_heads=24, attention_head_dim=128, in_channels=64, axes_dims_rope=[16, 56, 56])


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return loading.load(str(FLUX.save(tmp_path_factory.mktemp("flux") / "transformer"))).denoiser


def pack(latents: torch.Tensor) -> torch.Tensor:
    return diffusers.FluxPipeline._pack_latents(latents, *latents.shape)


def image_ids(grid: int) -> torch.Tensor:
    return diffusers.FluxPipeline._prepare_latent_image_ids(1, grid, grid, "cpu", torch.float32)


def capture(**change: torch.Tensor) -> dict[str, torch.Tensor]:
    """Three calls of FLUX's pipeline as a user would capture them."""
    return {
        "hidden_states": pack(randn(3, 4, 8, 8).float()),
        "timestep": torch.tensor([1.0, 0.5, 0.1]),
        "encoder_hidden_states": randn(3, 6, 48).float(),
        "pooled_projections": randn(3, 40).float(),
        "guidance": torch.full((3,), 3.5),
        "img_ids": image_ids(4),
        "txt_ids": torch.zeros(6, 3),
    } | change


def captured(folder, denoiser, tensors):
    save_file(tensors, folder / "inputs.safetensors")
    return calls_module.read_captured(folder / "inputs.safetensors", denoiser)


@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_packed_inputs_give_the_output_of_diffusers_transformer(denoiser, tmp_path, shared):
    tensors = capture()
    expected = FLUX.make()(**tensors, return_dict=False)[0]
    if not shared:
        tensors |= {name: tensors[name].repeat(3, 1, 1) for name in ("img_ids", "txt_ids")}
    calls = captured(tmp_path, denoiser, tensors)
    assert torch.equal(torch.cat([call.latents for call in calls]), randn(3, 4, 8, 8).float())
    actual = torch.cat([call.run(denoiser) for call in calls])
    assert relative_error(pack(actual), expected) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hidden_states": pack(randn(3, 4, 16, 16)), "img_ids": image_ids(8)},
            "img_ids are not those of latents of 8 x 8",
        ),
        ({"img_ids": image_ids(4).flip(0)}, "img_ids"),
        ({"img_ids": torch.tensor(0.0)}, "img_ids"),
        ({"txt_ids": torch.ones(6, 3)}, "txt_ids"),
        ({"hidden_states": pack(randn(3, 4, 16, 16))}, "hidden_states has shape"),
        ({"hidden_states": torch.tensor(0.0)}, "hidden_states of shape"),
        ({"encoder_attention_mask": torch.ones(3, 6)}, "unknown tensor 'encoder_attention_mask'"),
    ],
)
def test_a_capture_of_other_pictures_is_refused(denoiser, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        captured(tmp_path, denoiser, capture(**change))


@torch.no_grad()
def test_schnell_takes_no_guidance(tmp_path):
    schnell = dataclasses.replace(FLUX, config=FLUX.config | {"guidance_embeds": False})
    denoiser = loading.load(str(schnell.save(tmp_path / "transformer"))).denoiser.double()
    call = schnell.call(denoiser)
    assert set(call.prompt) == {"text", "pooled"}
    assert relative_error(call.run(denoiser), schnell.exact(schnell.make().double(), call)) < 1e-5


@pytest.mark.parametrize("given", [{}, {"sample_size": 64}])
def test_a_picture_has_1024_pixels_a_side_by_default(given):
    with torch.device("meta"):
        transformer = diffusers.FluxTransformer2DModel(**DEV)
    denoiser = FluxDenoiser.from_diffusers(DEV | given, transformer.state_dict())
    side = given.get("sample_size", 128)
    assert denoiser.latent_shape() == (16, side, side)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 384, "out_channels": 64}, "Fill"),
        ({"sample_size": 129}, "sample_size 129"),
        ({"sample_size": "128"}, "'sample_size' is '128'"),
        ({"patch_size": 2}, "patch_size is 2"),
        ({"axes_dims_rope": [16, 56, 58]}, "axes_dims_rope"),
        ({"axes_dims_rope": [64, 64]}, "axes_dims_rope"),
        ({"axes_dims_rope": [17, 55, 56]}, "axes_dims_rope"),
        ({"axes_dims_rope": 128}, "axes_dims_rope"),
    ],
)
def test_what_the_form_does_not_cover_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        FluxDenoiser(DEV | change)
