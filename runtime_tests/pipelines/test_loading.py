"""Loading, tokenizers, encoders and calls: what diffusers and transformers make of the same folder."""

import json
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5EncoderModel

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import write_json
from edge_hadanorm.models import calls as calls_module
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.drawing import TorchRunner, Wish, latents, picture
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.text_encoders import PromptTokenizer
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.reference.pipeline import ReferencePipeline
from runtime_tests.support.helpers import relative_error

WORDS, TEXT_WIDTH = 8, 32  # of the tiny pipeline
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def reference(tiny_pipeline):
    """The same folder, by diffusers."""
    return ReferencePipeline.from_pretrained(tiny_pipeline)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The folder.


def test_the_pipeline_and_its_transformer_alone_give_the_same_denoiser(model, tiny_pipeline):
    alone = loading.load(str(tiny_pipeline / "transformer"))
    assert alone.pipeline is None
    assert model.pipeline is not None
    assert alone.transformer_class == model.transformer_class == "PixArtTransformer2DModel"
    assert alone.config == model.config == alone.denoiser.config
    expected = model.denoiser.state_dict()
    assert alone.denoiser.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in alone.denoiser.state_dict().items())


def test_a_pipeline_comes_with_its_defaults_licence_and_prompts(model, tiny_pipeline):
    about = json.loads((tiny_pipeline / "about.json").read_text())
    assert (model.pipeline.steps, model.pipeline.guidance) == (8, 1.5)
    assert (model.pipeline.licence, model.pipeline.prompts) == (about["licence"], about["prompts"])


def test_a_pipeline_that_says_nothing_about_itself_has_no_prompts(tiny_pipeline, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_pipeline, folder)
    (folder / "about.json").unlink()
    pipeline = loading.load(str(folder)).pipeline
    assert pipeline.prompts == []
    assert pipeline.licence == "that of the source model"


def test_the_denoiser_is_frozen_and_in_float32(model):
    assert not model.denoiser.training
    assert not any(p.requires_grad for p in model.denoiser.parameters())
    assert {tensor.dtype for tensor in model.denoiser.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_taken_as_they_are(tiny_pipeline, tmp_path, dtype):
    folder, rounded = tmp_path / "half", tmp_path / "rounded"
    for target in (folder, rounded):
        shutil.copytree(tiny_pipeline / "transformer", target)
    half = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(half, folder / WEIGHTS)
    save_file({name: tensor.float() for name, tensor in half.items()}, rounded / WEIGHTS)
    states = [loading.load(str(f)).denoiser.state_dict() for f in (folder, rounded)]
    assert all(tensor.dtype == torch.float32 for tensor in states[0].values())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_sharded_weights_give_the_same_denoiser(model, tiny_pipeline, tmp_path):
    shutil.copytree(tiny_pipeline / "transformer", tmp_path / "sharded")
    tensors = load_file(tmp_path / "sharded" / WEIGHTS)
    (tmp_path / "sharded" / WEIGHTS).unlink()
    where = {name: f"part{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for part in set(where.values()):
        save_file({name: t for name, t in tensors.items() if where[name] == part}, tmp_path / "sharded" / part)
    write_json(tmp_path / "sharded" / f"{WEIGHTS}.index.json", {"metadata": {}, "weight_map": where})
    loaded = loading.load(str(tmp_path / "sharded")).denoiser.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.denoiser.state_dict().items())


# Prompts.


def ids_of(model: loading.FloatModel, prompt: str) -> torch.Tensor:
    return model.pipeline.tokenizers["text_encoder"].inputs(prompt)["ids"]


def test_ids_are_padded_to_the_length(model, reference):
    ids = ids_of(model, "red a")
    assert ids.shape == (1, WORDS)
    assert ids.dtype == torch.int64
    assert ids_of(model, "").tolist() == [[reference.tokenizer.pad_token_id] * WORDS]
    assert model.pipeline.tokenizers["text_encoder"]("red a") == ids[0].tolist()
    assert model.pipeline.tokenizers["text_encoder"].inputs("red a")["mask"].tolist() == [[1, 1] + [0] * (WORDS - 2)]


@pytest.mark.parametrize("prompt", ["", "red", "red a", "RED, a!", "a b c d e f g h", "  pale\tb\n"])
def test_ids_are_those_of_transformers(model, tiny_pipeline, prompt):
    tokenizer = AutoTokenizer.from_pretrained(tiny_pipeline / "tokenizer")
    expected = tokenizer([prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids_of(model, prompt), expected)


def test_text_is_that_of_transformers(model, tiny_pipeline):
    encoder = T5EncoderModel.from_pretrained(tiny_pipeline / "text_encoder").eval()
    text = model.pipeline.prompt("red a")["text"]
    assert text.shape == (1, WORDS, TEXT_WIDTH)
    with torch.no_grad():
        assert torch.equal(text, encoder(ids_of(model, "red a")).last_hidden_state)


def test_a_negative_prompt_is_encoded_like_any_other_where_there_is_no_prefix(model):
    prompt, negative = (model.pipeline.prompt("red a", negative)["text"] for negative in (False, True))
    assert torch.equal(prompt, negative)
    assert not torch.equal(prompt, model.pipeline.prompt("blue c")["text"])


def test_case_punctuation_and_space_do_not_matter(model):
    expected = model.pipeline.tokenizers["text_encoder"]("red a")
    for prompt in ("Red A", "RED, a!", " red -- a ", "red\na", "\u201cred\u201d a\u2026"):
        assert model.pipeline.tokenizers["text_encoder"](prompt) == expected
    assert model.pipeline.tokenizers["text_encoder"]("?! ...") == model.pipeline.tokenizers["text_encoder"]("")


@pytest.mark.parametrize(
    ("prompt", "word"), [("red zebra", "zebra"), ("a Purple, b", "Purple"), ("<unk>", "<unk>"), ("redder a", "redder")]
)
def test_an_unknown_word_is_named_as_it_was_written(model, prompt, word):
    with pytest.raises(UserError, match=f"does not know the word '{word}'"):
        model.pipeline.tokenizers["text_encoder"](prompt)


def test_as_many_words_as_fit_and_no_more(model):
    assert len(model.pipeline.tokenizers["text_encoder"]("a b c d e f g h")) == WORDS
    with pytest.raises(UserError, match="9 tokens, the model takes at most 8"):
        model.pipeline.tokenizers["text_encoder"]("a b c d e f g h a")


def test_too_long_a_prompt_is_not_cut_even_where_the_file_says_so(tiny_pipeline, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_pipeline / "tokenizer")
    tokenizer(["red"], padding="max_length", truncation=True)  # which stays in the file
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"]
    with pytest.raises(UserError, match="9 tokens"):
        PromptTokenizer(tmp_path / "tokenizer.json", WORDS)("a b c d e f g h a")


def test_words_are_the_vocabulary_in_order_of_id(model, reference):
    words = model.pipeline.tokenizers["text_encoder"].words()
    assert words == reference.tokenizer.convert_ids_to_tokens(range(len(reference.tokenizer)))
    assert words[:2] == ["<pad>", "<unk>"]
    assert {"red", "green", "a", "h"} <= set(words)


# Pictures.


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5, 4.0])
def test_the_float_denoiser_draws_the_picture_of_the_reference_pipeline(model, reference, guidance):
    noise = torch.from_numpy(normal(3, (1, *model.denoiser.latent_shape())))
    expected = reference(["red a"], noise, num_inference_steps=8, guidance_scale=max(1.0, guidance))[0]
    runner = TorchRunner(model.denoiser, model.pipeline)
    actual = picture(runner, Wish("red a", model.pipeline.plan(8), guidance, 3))
    assert actual.shape == (3, 8, 8)
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 1e-4


def test_pictures_differ_by_prompt_and_seed(model):
    runner, table = TorchRunner(model.denoiser, model.pipeline), model.pipeline.plan(2)
    red, blue, other = (
        picture(runner, Wish(prompt, table, 1.5, seed)) for prompt, seed in (("red a", 0), ("blue c", 0), ("red a", 1))
    )
    assert not torch.equal(red, blue)
    assert not torch.equal(red, other)
    assert torch.equal(red, picture(runner, Wish("red a", table, 1.5, 0)))


@pytest.mark.parametrize("guidance", [-0.1, 100.1, float("nan"), float("inf")])
def test_guidance_has_bounds(model, guidance):
    with pytest.raises(UserError, match="not a number from 0 to 100"):
        picture(TorchRunner(model.denoiser, model.pipeline), Wish("red a", model.pipeline.plan(1), guidance, 0))


def test_recorded_inputs_are_those_of_every_step(model):
    """What both conditionings are given at a step is one call, the negative prompt first; the pictures follow."""
    pipeline, plan = model.pipeline, model.pipeline.plan(3)
    trajectories = Trajectories(pipeline, ["red a", "blue c"], 3, 1.5, seed=5, negative="green b")
    calls = trajectories.record(model.denoiser)
    assert [call.timestep.item() for call in calls] == 2 * [pytest.approx(row.timestep) for row in plan.rows]
    kept = iter(calls)

    class Replay:
        latent_shape = model.denoiser.latent_shape()

        def prepare(self, prompt, negative=False):
            return [pipeline.prompt(prompt, negative)["text"], torch.tensor(negative)]

        def denoise(self, latents, timestep, conditioning):
            text, negative = conditioning
            if not negative:  # the first of the two
                self.call, self.prediction = (call := next(kept)), call.run(model.denoiser)
            row = int(not negative)
            torch.testing.assert_close(latents, self.call.latents[row : row + 1], rtol=1e-4, atol=1e-4)
            assert torch.equal(text, self.call.prompt["text"][row : row + 1])
            return self.prediction[row : row + 1]

    for i, (prompt, draw) in enumerate(zip(trajectories.prompts, trajectories.samples(model.denoiser), strict=True)):
        drawn = latents(Replay(), Wish(prompt, plan, 1.5, 5 + i, "green b"))
        torch.testing.assert_close(drawn, draw(), rtol=1e-4, atol=1e-4)  # of two sequences at once, and one by one
    assert next(kept, None) is None


def test_recorded_inputs_without_guidance_are_of_the_text_alone(model):
    calls = Trajectories(model.pipeline, ["red a"], 3, 1.0, seed=5).record(model.denoiser)
    assert [call.latents.shape[0] for call in calls] == [1, 1, 1]
    assert torch.equal(calls[0].prompt["text"], model.pipeline.prompt("red a")["text"])


# Captured inputs.


def capture(count: int = 3, words: int = 5, mask: bool = True) -> dict[str, torch.Tensor]:
    """Calls with timesteps, and where asked with masks, of their own."""
    tensors = {
        "hidden_states": randn(count, 3, 8, 8),
        "encoder_hidden_states": randn(count, words, TEXT_WIDTH, seed=1),
        "timestep": torch.linspace(10, 990, count),
    }
    kept = torch.arange(words) < torch.arange(1, count + 1)[:, None]
    return tensors | ({"encoder_attention_mask": kept.float()} if mask else {})


def captured(folder, denoiser, tensors) -> list[Inputs]:
    save_file(tensors, folder / "inputs.safetensors")
    return calls_module.read_captured(folder / "inputs.safetensors", denoiser)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_captured_inputs_give_the_output_of_diffusers_transformer(model, tiny_pipeline, tmp_path, mask, dtype):
    transformer = diffusers.PixArtTransformer2DModel.from_pretrained(tiny_pipeline / "transformer").eval()
    tensors = {name: tensor.to(dtype) for name, tensor in capture(mask=mask).items()}
    calls = captured(tmp_path, model.denoiser, tensors)
    assert len(calls) == 3
    assert all(("mask" in call.prompt) == mask for call in calls)
    with torch.no_grad():
        expected = transformer(**{name: t.float() for name, t in tensors.items()}, return_dict=False)[0]
    actual = torch.cat([call.run(model.denoiser) for call in calls])
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_a_mask_may_be_boolean_or_whole(model, tmp_path, dtype):
    tensors = capture()
    expected = [call.run(model.denoiser) for call in captured(tmp_path, model.denoiser, tensors)]
    tensors["encoder_attention_mask"] = tensors["encoder_attention_mask"].to(dtype)
    actual = [call.run(model.denoiser) for call in captured(tmp_path, model.denoiser, tensors)]
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_a_mask_matters(model, tmp_path):
    masked, unmasked = (captured(tmp_path, model.denoiser, capture(mask=mask)) for mask in (True, False))
    assert relative_error(masked[0].run(model.denoiser), unmasked[0].run(model.denoiser)) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep": None}, "tensor 'timestep' is missing"),
        ({"resolution": torch.ones(3, 2)}, "unknown tensor 'resolution'"),
        ({"hidden_states": randn(3, 4, 8, 8)}, "hidden_states has shape"),
        ({"hidden_states": randn(3, 3, 8, 4)}, "hidden_states has shape"),
        ({"hidden_states": torch.tensor(1.0)}, "hidden_states of shape"),
        ({"encoder_hidden_states": randn(3, 5, 31)}, "encoder_hidden_states has shape"),
        ({"encoder_hidden_states": randn(2, 5, 32)}, "encoder_hidden_states has shape"),
        ({"encoder_hidden_states": randn(3, 32)}, "has shape"),
        ({"encoder_hidden_states": randn(3, 0, 32), "encoder_attention_mask": randn(3, 0)}, "has shape"),
        ({"timestep": torch.tensor(500.0)}, "timestep has shape"),
        ({"encoder_attention_mask": torch.ones(3, 4)}, "encoder_attention_mask has shape"),
        ({"hidden_states": randn(3, 3, 8, 8) / 0}, "hidden_states"),
        ({name: tensor[:0] for name, tensor in capture().items()}, "hidden_states of shape"),
    ],
)
def test_a_capture_that_does_not_fit_is_refused_by_name(model, tmp_path, change, message):
    tensors = {name: tensor for name, tensor in (capture() | change).items() if tensor is not None}
    with pytest.raises(UserError, match=message):
        captured(tmp_path, model.denoiser, tensors)
