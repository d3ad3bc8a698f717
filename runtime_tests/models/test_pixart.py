"""pixart.py: the denoiser is diffusers' transformer, what it does not cover is named, every block linear is listed."""

import diffusers
import pytest
import torch
from torch.nn import functional as F

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.linear import QuantizedLinear, equal_parts
from edge_hadanorm.method.operators import layer_norm
from edge_hadanorm.method.recipe import named
from edge_hadanorm.method.rounding import nearest
from edge_hadanorm.method.transform import FeatureTransform, rotation_factors
from edge_hadanorm.models import layers, pixart
from edge_hadanorm.models.layers import attention
from edge_hadanorm.models.pixart import PixArtDenoiser
from runtime_tests.support.helpers import randn, relative_error


def small(**fields) -> dict:
    """A PixArt config; the rest are diffusers' defaults."""
    heads, head = fields.setdefault("num_attention_heads", 2), fields.setdefault("attention_head_dim", 8)
    defaults = dict(in_channels=4, out_channels=8, patch_size=2, sample_size=8, num_layers=2, caption_channels=12)
    return defaults | dict(cross_attention_dim=heads * head, use_additional_conditions=False) | fields


CONFIGS = {
    "learned variance": small(),
    "no variance, no additional conditions by default": small(
        in_channels=3, out_channels=None, patch_size=4, sample_size=16, use_additional_conditions=None
    ),
    "one head, one block, one pixel a patch": small(
        num_attention_heads=1, num_layers=1, patch_size=1, sample_size=5, interpolation_scale=2
    ),
    "128 px, so that positions are interpolated": small(patch_size=16, sample_size=128, num_attention_heads=3),
}
TEXT, BATCH = 6, 2
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).double()


def random_transformer(config: dict) -> diffusers.PixArtTransformer2DModel:
    """Float64, every parameter random: a tensor put in another's place changes the output."""
    model = diffusers.PixArtTransformer2DModel(**config).double().eval()
    for seed, parameter in enumerate(model.parameters()):
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 10
        parameter.data = randn(*parameter.shape, seed=seed) * fan_in**-0.5
    return model


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def pair(request):
    """diffusers' transformer and ours, of one config and one state dict."""
    model = random_transformer(request.param)
    return model, PixArtDenoiser.from_diffusers(dict(model.config), model.state_dict())


@pytest.fixture(scope="module")
def transformer():
    model = random_transformer(CONFIGS["learned variance"])
    return dict(model.config), model.state_dict()


def inputs(denoiser: PixArtDenoiser) -> tuple[torch.Tensor, torch.Tensor]:
    return randn(BATCH, *denoiser.latent_shape(), seed=1), randn(BATCH, TEXT, denoiser.text_width, seed=2)


# The same function.


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
def test_keys_and_values_made_anew_are_those_that_are_kept(pair, mask, monkeypatch):
    """To the bit, of a conditioning that is the text and the mask's bias."""
    _, denoiser = pair
    (latents, text), time = inputs(denoiser), torch.tensor([412.5], dtype=torch.float64)
    kept = denoiser.prepare(text, mask)
    expected = denoiser.denoise(latents, time, kept)
    monkeypatch.setattr(pixart, "KEPT_BYTES", 0)
    monkeypatch.setattr(pixart, "SHORT_TEXT", 1.0)
    made = denoiser.prepare(text, mask)
    assert len(kept) - len(made) == 2 * len(denoiser.blocks) - 1
    assert torch.equal(denoiser.denoise(latents, time, made), expected)


@torch.no_grad()
def test_a_mean_over_real_words_knows_the_mask_by_its_bias(transformer, monkeypatch):
    denoiser = PixArtDenoiser.from_diffusers(*transformer)
    for block in denoiser.blocks:
        kv = block.attn2.kv
        codes = nearest(kv.weight, 8, None)
        block.attn2.kv = QuantizedLinear(named("rtn-w8a8"), FeatureTransform(dynamic=True), *codes, kv.bias)
    (latents, text), time = inputs(denoiser), torch.tensor([412.5], dtype=torch.float64)
    expected = denoiser.denoise(latents, time, denoiser.prepare(text, MASK))
    monkeypatch.setattr(pixart, "KEPT_BYTES", 0)
    monkeypatch.setattr(pixart, "SHORT_TEXT", 1.0)
    assert torch.equal(denoiser.denoise(latents, time, denoiser.prepare(text, MASK)), expected)


@pytest.mark.parametrize(("blocks", "size", "kept"), [(28, 64, False), (28, 32, True), (2, 64, True)])
def test_much_is_not_kept_where_the_text_is_short(blocks, size, kept):
    """300 words against 1024 and 256 tokens."""
    with torch.device("meta"):
        heads = {"num_attention_heads": 16, "attention_head_dim": 72}
        denoiser = PixArtDenoiser(small(num_layers=blocks, sample_size=size, **heads))
        assert len(denoiser.prepare(torch.zeros(1, 300, 12))) == (2 * blocks if kept else 1)


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
@pytest.mark.parametrize(("timestep", "error"), [(0, 1e-6), (1, 1e-6), (412.5, 1e-5), (999, 1e-5)])
def test_the_denoiser_is_diffusers_transformer(pair, mask, timestep, error):
    """In float64, but for diffusers' positions and time embedding, which are float32 (exact at timestep 0)."""
    model, denoiser = pair
    latents, text = inputs(denoiser)
    time = torch.tensor([timestep], dtype=torch.float64)
    expected = model(latents, text, time.expand(BATCH), encoder_attention_mask=mask, return_dict=False)[0]
    actual = denoiser.denoise(latents, time, denoiser.prepare(text, mask))
    assert actual.shape == latents.shape
    assert actual.dtype == torch.float64
    assert relative_error(actual, expected[:, : denoiser.channels]) < error


@torch.no_grad()
def test_masked_text_does_not_reach_the_prediction(pair):
    _, denoiser = pair
    latents, text = inputs(denoiser)
    other = torch.where(MASK[..., None] == 1, text, randn(*text.shape, seed=3))
    time = torch.tensor([300.0]).double()
    expected, actual = (denoiser.denoise(latents, time, denoiser.prepare(t, MASK)) for t in (text, other))
    assert relative_error(actual, expected) < 1e-12
    assert relative_error(denoiser.denoise(latents, time, denoiser.prepare(other)), expected) > 1e-3


@torch.no_grad()
def test_a_mask_of_ones_is_no_mask(pair):
    _, denoiser = pair
    latents, text = inputs(denoiser)
    time = torch.tensor([300.0]).double()
    masked = denoiser.denoise(latents, time, denoiser.prepare(text, torch.ones(BATCH, TEXT).double()))
    assert relative_error(masked, denoiser.denoise(latents, time, denoiser.prepare(text))) < 1e-12


@torch.no_grad()
def test_pictures_of_a_batch_do_not_depend_on_each_other(pair):
    _, denoiser = pair
    latents, text = inputs(denoiser)
    time = torch.tensor([300.0]).double()
    together = denoiser.denoise(latents, time, denoiser.prepare(text, MASK))
    for i in range(BATCH):
        one = slice(i, i + 1)
        alone = denoiser.denoise(latents[one], time, denoiser.prepare(text[one], MASK[one]))
        assert relative_error(alone, together[one]) < 1e-12


@torch.no_grad()
def test_float32_weights_make_a_float32_denoiser(pair):
    model, double = pair
    weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
    denoiser = PixArtDenoiser.from_diffusers(dict(model.config), weights)
    assert {tensor.dtype for tensor in denoiser.state_dict().values()} == {torch.float32}
    latents, text = inputs(double)
    time = torch.tensor([500.0])
    actual = denoiser.denoise(latents.float(), time, denoiser.prepare(text.float(), MASK.float()))
    assert relative_error(actual.double(), double.denoise(latents, time.double(), double.prepare(text, MASK))) < 1e-3


@pytest.mark.parametrize("scores_bytes", [1 << 20, 2 * 7 * 8 * 2, 1])
def test_attention_is_scaled_dot_product_attention_in_any_number_of_parts(monkeypatch, scores_bytes):
    """All queries at once, two at a time with one left over, and one at a time."""
    monkeypatch.setattr(layers, "SCORES_BYTES", scores_bytes)
    q, k, v = randn(2, 5, 24), randn(2, 7, 24, seed=1), randn(2, 7, 24, seed=2)
    for bias in (None, randn(2, 1, 7, seed=3)):
        actual = attention(*(equal_parts(t, 3) for t in (q * 8**-0.5, k, v)), bias)
        heads = [t.unflatten(-1, (3, 8)).transpose(1, 2) for t in (q, k, v)]
        mask = None if bias is None else bias.unsqueeze(1).expand(2, 3, 5, 7)
        expected = F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


def test_layer_norm_is_layer_norm():
    x = 5 * randn(2, 7, 24) + randn(24, seed=1)
    torch.testing.assert_close(layer_norm(x), F.layer_norm(x, (24,), eps=1e-6), rtol=0, atol=1e-13)


# What is quantized.


def test_quantizable_lists_every_linear_of_the_blocks_once(pair):
    _, denoiser = pair
    linears = [name for name, module in denoiser.blocks.named_modules() if isinstance(module, torch.nn.Linear)]
    assert sorted(denoiser.quantizable()) == sorted(f"blocks.{name}" for name in linears)
    assert len(denoiser.quantizable()) == 7 * denoiser.config["num_layers"]


@torch.no_grad()
def test_quantizable_linears_run_block_by_block_once_a_prediction(pair):
    _, denoiser = pair
    ran = []
    hooks = [
        denoiser.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
        for name in denoiser.quantizable()
    ]
    latents, text = inputs(denoiser)
    conditioning = denoiser.prepare(text)
    prepared = len(ran)
    denoiser.denoise(latents, torch.tensor([1.0]).double(), conditioning)
    for hook in hooks:
        hook.remove()
    assert ran[:prepared] == [name for name in denoiser.quantizable() if name.endswith("attn2.kv")]
    assert ran[prepared:] == [name for name in denoiser.quantizable() if not name.endswith("attn2.kv")]


@torch.no_grad()
def test_quantized_linears_take_the_place_of_the_float_ones(transformer):
    """With a dynamic centre in the text's keys and values too, whose mean is over the tokens the mask keeps."""
    config, weights = transformer
    denoiser = PixArtDenoiser.from_diffusers(config, weights)
    latents, text = inputs(denoiser)
    time = torch.tensor([300.0]).double()
    expected = denoiser.denoise(latents, time, denoiser.prepare(text, MASK))
    recipe = named("hadanorm-w8a8")
    for name in denoiser.quantizable():
        linear = denoiser.get_submodule(name)
        transform = FeatureTransform(dynamic=True, rotation=rotation_factors(linear.in_features, "block", 64))
        folded, bias = transform.fold(linear.weight, linear.bias)
        denoiser.set_submodule(name, QuantizedLinear(recipe, transform, *nearest(folded, 8, None), bias))
    assert relative_error(denoiser.denoise(latents, time, denoiser.prepare(text, MASK)), expected) < 0.03
    other = torch.where(MASK[..., None] == 1, text, randn(*text.shape, seed=3))
    actual = denoiser.denoise(latents, time, denoiser.prepare(other, MASK))
    assert relative_error(actual, denoiser.denoise(latents, time, denoiser.prepare(text, MASK))) < 1e-12


# What is refused.


def assert_refused(config: dict, weights: dict, *words: str) -> None:
    """It raises UserError, in one line with these words in it."""
    with pytest.raises(UserError) as raised:
        PixArtDenoiser.from_diffusers(config, weights)
    message = str(raised.value)
    assert message.isprintable()
    assert all(word in message for word in words), message


def test_every_tensor_is_needed_and_named_when_missing(transformer):
    config, weights = transformer
    for name in weights:
        assert_refused(config, {k: v for k, v in weights.items() if k != name}, repr(name), "missing")


def test_every_tensor_has_its_shape_and_is_named_with_another(transformer):
    config, weights = transformer
    for name, tensor in weights.items():
        longer = torch.cat([tensor, tensor[:1]])
        assert_refused(config, {**weights, name: longer}, repr(name), str([*longer.shape]), str([*tensor.shape]))


@pytest.mark.parametrize("name", ["lora.up.weight", "transformer_blocks.2.attn1.to_q.weight", "proj_out.scale"])
def test_a_foreign_tensor_is_named(transformer, name):
    config, weights = transformer
    assert_refused(config, {**weights, name: torch.zeros(1)}, repr(name), "unknown tensor")


def test_more_blocks_than_the_config_has_are_foreign(transformer):
    config, weights = transformer
    assert_refused({**config, "num_layers": 1}, weights, "transformer_blocks.1.", "unknown tensor")


def test_the_stored_positions_of_old_checkpoints_are_known(transformer):
    config, weights = transformer
    PixArtDenoiser.from_diffusers(config, {**weights, "pos_embed.pos_embed": torch.zeros(1, 16, 16)})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(use_additional_conditions=True), ["use_additional_conditions"]),
        (dict(use_additional_conditions=None, sample_size=128), ["use_additional_conditions"]),
        (dict(norm_type="layer_norm"), ["norm_type", "'layer_norm'", "'ada_norm_single'"]),
        (dict(activation_fn="geglu"), ["activation_fn", "'geglu'", "'gelu-approximate'"]),
        (dict(norm_elementwise_affine=True), ["norm_elementwise_affine", "True"]),
        (dict(norm_eps=1e-5), ["norm_eps", "1e-05", "1e-06"]),
        (dict(attention_bias=False), ["attention_bias", "False"]),
        (dict(sample_size=9), ["patch_size 2", "sample_size 9"]),
        (dict(out_channels=3), ["out_channels 3", "in_channels 4"]),
        (dict(caption_channels=None), ["'caption_channels'", "None"]),
        (dict(sample_size=[8, 8]), ["'sample_size'", "[8, 8]"]),
        (dict(num_layers=2.0), ["'num_layers'", "2.0"]),
        (dict(num_layers=-1), ["'num_layers'", "-1"]),
        (dict(patch_size=0), ["'patch_size'", "0"]),
        (dict(num_attention_heads=True), ["'num_attention_heads'", "True"]),
        (dict(attention_head_dim="8"), ["'attention_head_dim'", "'8'"]),
    ],
)
def test_an_unsupported_config_is_refused_by_its_key(transformer, fields, words):
    config, weights = transformer
    assert_refused({**config, **fields}, weights, "transformer config", *words)


@pytest.mark.parametrize("key", ["num_attention_heads", "in_channels", "sample_size", "caption_channels"])
def test_a_config_without_a_size_is_refused(transformer, key):
    config, weights = transformer
    assert_refused({k: v for k, v in config.items() if k != key}, weights, "transformer config", repr(key))
