"""patches.py: positions are diffusers' to the bit, without diffusers."""

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed

from edge_hadanorm.models.patches import sincos_positions


@pytest.mark.parametrize("scale", [1, 0.5, 2.0, 1 / 3])
@pytest.mark.parametrize(("side", "patch"), [(5, 1), (8, 2), (32, 4), (128, 2)])
@pytest.mark.parametrize(("heads", "head"), [(1, 8), (3, 20), (16, 72)])
def test_positions_are_those_of_diffusers_to_the_bit(heads, head, side, patch, scale):
    config = dict(num_attention_heads=heads, attention_head_dim=head, sample_size=side, patch_size=patch)
    grid = side // patch
    expected = get_2d_sincos_pos_embed(heads * head, grid, base_size=grid, interpolation_scale=scale, output_type="pt")
    actual = sincos_positions(config, scale)
    assert actual.dtype == torch.float64
    assert torch.equal(actual, expected[None])
