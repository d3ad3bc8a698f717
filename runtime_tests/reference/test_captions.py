"""captions.py: drawn pictures find the captions of the vendored ones that they are nearest to."""

import pytest
import torch

from edge_hadanorm.reference import data
from edge_hadanorm.reference.captions import caption_retrieval
from runtime_tests.support.helpers import randn


def test_retrieval_is_the_share_whose_nearest_vendored_picture_is_captioned_so():
    known, captions = data.load()
    chosen = [0, 100, 250, 600]
    drawn = (known[chosen].double() + 3 * randn(4, *known.shape[1:])).clamp(0, 255).byte()
    for i, shown in zip(chosen, drawn, strict=True):
        assert min(range(len(known)), key=lambda k: (known[k].double() - shown.double()).square().sum()) == i
    asked = [captions[i] for i in chosen]
    assert data.retrieval(drawn, asked) == 1
    assert data.retrieval(drawn, [*asked[:3], captions[0]]) == 0.75
    assert data.retrieval(drawn, asked[1:] + asked[:1]) == 0


def test_retrieval_is_of_both_models():
    known, captions = data.load()
    mixed = torch.stack([known[3], known[7]])
    assert caption_retrieval([captions[3], captions[4]], known[3:5], mixed) == {"float": 1, "quantized": 0.5}


@pytest.mark.parametrize(
    ("prompts", "side"), [(["red a", "blue c"], 32), (None, 8)], ids=["other prompts", "other pictures"]
)
def test_a_model_of_other_pictures_has_no_retrieval(prompts, side):
    drawn = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    assert caption_retrieval(prompts or data.load()[1][:2], drawn, drawn) is None
