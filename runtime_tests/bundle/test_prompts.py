"""prompts.py and runner.py: what a bundle makes of a prompt and of a negative one, in each of its ways."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.prompts import BundlePrompts
from edge_hadanorm.bundle.runner import BundleRunner
from edge_hadanorm.errors import UserError
from edge_hadanorm.tensor_files import write_tensors
from runtime_tests.support.manifests import example, tensor

WORDS = ["<pad>", "<unk>", "draw", ":", "red", "blue", "cat", "dog", "blurry"]
PAD, DRAW, COLON, RED, BLUE, CAT, DOG, BLURRY = (WORDS.index(word) for word in WORDS if word != "<unk>")
LENGTH = 6
# Of Sana's kind: of the text before a prompt the first token alone, and then what follows it.
KEPT = {"prompt": [0, 3, 4, 5], "negative": [0, 1, 2, 3]}
MASKED = ("ids", "mask")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Path:
    """A folder with a tokenizer of words."""
    folder = tmp_path_factory.mktemp("words")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    return folder


def encoder(prefix: str = "", kept: dict | None = None) -> dict:
    return {
        "tokenizer": "tokenizer.json",
        "length": LENGTH,
        "pad_id": PAD,
        "unknown_id": 1,
        "prefix": prefix,
        "kept": kept,
    }


def program(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> dict:
    named = {"inputs": inputs, "outputs": outputs}
    method = {way: [tensor(name, "float32", 1) for name in names] for way, names in named.items()}
    return {"file": "text.pte", "methods": {"encode": method}}


def bundle_of(folder: Path, prompt: dict, prepare: tuple[str, ...] = ("text",), **programs: dict) -> Bundle:
    """A bundle of which prompts alone are looked at."""
    manifest = example()
    manifest["programs"] = {"denoiser": manifest["programs"]["denoiser"]} | programs
    manifest["programs"]["denoiser"]["methods"]["prepare"]["inputs"] = [tensor(name, "float32", 1) for name in prepare]
    manifest["prompt"] = {"encoders": {}, "lower": False, "labels": None, "embedded": None} | prompt
    manifest["files"] = {path.name: {} for path in folder.iterdir()}
    return Bundle(folder, manifest)


class Encode:
    """Stands in for text encoders: keeps what they are given, and gives one tensor for each output."""

    def __init__(self, **outputs: int):
        self.outputs, self.given = outputs, []

    def __call__(self, role: str, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        self.given.append((role, [value.tolist() for value in inputs]))
        return [torch.full((1, 2), float(len(self.given))) for _ in range(self.outputs[role])]


# Encoded by the bundle.


@pytest.fixture
def single(vocabulary) -> Bundle:
    return bundle_of(
        vocabulary,
        {"encoders": {"text_encoder": encoder("draw : ")}, "lower": True},
        ("mask", "text"),
        text_encoder=program(MASKED, ("text",)),
    )


def test_the_prefix_stands_before_a_prompt_and_not_before_a_negative_one(single):
    encode = Encode(text_encoder=1)
    prompts = BundlePrompts(single)
    made, unwanted = prompts("red cat", False, encode), prompts("red cat", True, encode)
    assert encode.given == [
        ("text_encoder", [[[DRAW, COLON, RED, CAT, PAD, PAD]], [[1, 1, 1, 1, 0, 0]]]),
        ("text_encoder", [[[RED, CAT, PAD, PAD, PAD, PAD]], [[1, 1, 0, 0, 0, 0]]]),
    ]
    assert made.keys() == unwanted.keys() == {"mask", "text"}
    assert made["mask"].tolist() == [[1, 1, 1, 1, 0, 0]]
    assert unwanted["mask"].tolist() == [[1, 1, 0, 0, 0, 0]]
    assert made["text"].tolist() == [[1, 1]]
    assert unwanted["text"].tolist() == [[2, 2]]


def test_both_kinds_of_prompts_are_lower_cased(single):
    encode, prompts = Encode(text_encoder=1), BundlePrompts(single)
    for negative in (False, True):
        prompts("  Red CAT ", negative, encode)
        prompts("red cat", negative, encode)
    assert encode.given[0] == encode.given[1]
    assert encode.given[2] == encode.given[3]


def test_an_empty_negative_prompt_is_padding(single):
    encode = Encode(text_encoder=1)
    BundlePrompts(single)("", True, encode)
    assert encode.given == [("text_encoder", [[[PAD] * LENGTH], [[0] * LENGTH]])]


@pytest.mark.parametrize("negative", [False, True])
def test_an_unknown_word_is_refused_in_either(single, negative):
    with pytest.raises(UserError, match="the model does not know the word 'mauve'"):
        BundlePrompts(single)("mauve cat", negative, Encode())


def test_what_an_encoder_gives_is_kept_though_its_memory_is_written_again(single):
    memory = torch.zeros(1, 2)
    prompts = BundlePrompts(single)
    first = prompts("red cat", False, lambda role, inputs: [memory.add_(1)])
    prompts("blue dog", False, lambda role, inputs: [memory.add_(1)])
    assert first["text"].tolist() == [[1, 1]]


@pytest.fixture
def sana(vocabulary) -> Bundle:
    return bundle_of(
        vocabulary,
        {"encoders": {"text_encoder": encoder("draw : ", KEPT)}},
        ("mask", "text"),
        text_encoder=program((*MASKED, "kept"), ("text", "mask")),
    )


def test_the_places_of_states_are_given_for_either_prompt(sana):
    encode, prompts = Encode(text_encoder=2), BundlePrompts(sana)
    made = prompts("red cat", False, encode)
    prompts("blurry", True, encode)
    assert encode.given == [
        ("text_encoder", [[[DRAW, COLON, RED, CAT, PAD, PAD]], [[1, 1, 1, 1, 0, 0]], KEPT["prompt"]]),
        ("text_encoder", [[[BLURRY, PAD, PAD, PAD, PAD, PAD]], [[1, 0, 0, 0, 0, 0]], KEPT["negative"]]),
    ]
    assert made["mask"].tolist() == [[1, 1]]  # the encoder's, which is that of the states it gives


def test_a_negative_prompt_has_at_most_as_many_ids_as_are_kept(sana):
    encode, prompts = Encode(text_encoder=2), BundlePrompts(sana)
    prompts("red red red red", False, encode)
    prompts("red red red red", True, encode)
    for prompt, negative, most in (("red " * 5, False, 6), ("red " * 5, True, 4)):
        with pytest.raises(UserError, match=f"tokens, the model takes at most {most}; shorten it"):
            prompts(prompt, negative, encode)


def test_inputs_are_given_in_the_order_of_the_program(vocabulary):
    inputs = program(("ids", "kept", "mask"), ("text", "mask"))
    given = bundle_of(vocabulary, {"encoders": {"text_encoder": encoder(kept=KEPT)}}, text_encoder=inputs)
    encode = Encode(text_encoder=2)
    BundlePrompts(given)("red", False, encode)
    assert encode.given == [("text_encoder", [[[RED, *[PAD] * 5]], KEPT["prompt"], [[1, 0, 0, 0, 0, 0]]])]


def test_several_encoders_are_told_apart_by_their_names(vocabulary):
    given = bundle_of(
        vocabulary,
        {"encoders": {"text_encoder": encoder(), "text_encoder_2": encoder("draw ")}},
        text_encoder=program(("ids",), ("text", "pooled")),
        text_encoder_2=program(MASKED, ("text_2",)),
    )
    encode = Encode(text_encoder=2, text_encoder_2=1)
    made = BundlePrompts(given)("blue dog", False, encode)
    assert encode.given == [
        ("text_encoder", [[[BLUE, DOG, PAD, PAD, PAD, PAD]]]),
        ("text_encoder_2", [[[DRAW, BLUE, DOG, PAD, PAD, PAD]], [[1, 1, 1, 0, 0, 0]]]),
    ]
    assert list(made) == ["text", "pooled", "mask_2", "text_2"]


# Classes.


def test_a_class_is_drawn_and_another_may_be_unwanted(tmp_path):
    given = bundle_of(tmp_path, {"labels": {"cat": 0, "dog": 1, "two words": 2}}, ("label",))
    prompts = BundlePrompts(given)
    for negative in (False, True):
        for name, number in (("cat", 0), ("two words", 2), ("", 3)):
            made = prompts(name, negative, Encode())
            assert {key: value.tolist() for key, value in made.items()} == {"label": [number]}
        with pytest.raises(UserError, match="'bird' is no class of the model; classes: cat, dog, two words"):
            prompts("bird", negative, Encode())


# Encoded beforehand.

PROMPTS, NEGATIVES = ["red cat", "both"], ["", "both", "blurry"]


def carried(folder: Path, rows: int = 5, prompts: list[str] = PROMPTS, negatives: list[str] = NEGATIVES) -> Bundle:
    """A bundle whose tensors have the number of their row everywhere."""
    number = torch.arange(float(rows))
    write_tensors(
        folder / "prompts.safetensors",
        {"text": number.view(-1, 1, 1).expand(-1, 3, 4).contiguous(), "mask": number.view(-1, 1).expand(-1, 3) + 0.5},
    )
    embedded = {"file": "prompts.safetensors", "prompts": prompts, "negatives": negatives}
    return bundle_of(folder, {"embedded": embedded}, ("mask", "text"))


@pytest.mark.parametrize(
    ("prompt", "negative", "row"),
    [
        ("red cat", False, 0),
        ("both", False, 1),
        ("", True, 2),
        ("both", True, 3),
        ("blurry", True, 4),
    ],
)
def test_a_row_is_that_of_the_prompt_and_negatives_follow(tmp_path, prompt, negative, row):
    made = BundlePrompts(carried(tmp_path))(prompt, negative, Encode())
    assert {name: (list(value.shape), value.unique().tolist()) for name, value in made.items()} == {
        "text": ([1, 3, 4], [row]),
        "mask": ([1, 3], [row + 0.5]),
    }


@pytest.mark.parametrize(
    ("prompt", "negative", "answer"),
    [
        ("blue", False, "prompt 'blue' is not among those that the bundle carries; take red cat, both"),
        ("", False, "prompt '' is not among those that the bundle carries; take red cat, both"),
        ("Red cat", False, "prompt 'Red cat' is not among those that the bundle carries; take red cat, both"),
        ("red cat", True, "negative prompt 'red cat' is not among .*; take the empty one, both, blurry"),
    ],
)
def test_an_unknown_one_is_answered_with_those_that_there_are(tmp_path, prompt, negative, answer):
    with pytest.raises(UserError, match=f"^{answer}$"):
        BundlePrompts(carried(tmp_path))(prompt, negative, Encode())


def test_of_many_the_first_are_named(tmp_path):
    many = [f"p{i}" for i in range(30)]
    prompts = BundlePrompts(carried(tmp_path, 31, many, [""]))
    assert prompts("p29", False, Encode())["text"].unique().item() == 29
    with pytest.raises(UserError, match=r"take p0, .*, p11 or one of 18 more$"):
        prompts("x", False, Encode())


@pytest.mark.parametrize("rows", [0, 2, 4, 6])
def test_a_file_of_another_number_of_rows_is_refused(tmp_path, rows):
    with pytest.raises(UserError, match=rf"prompts\.safetensors: .* has {rows} rows, not one for each of 5 prompts"):
        BundlePrompts(carried(tmp_path, rows))


def test_a_file_of_a_number_is_refused(tmp_path):
    given = carried(tmp_path)
    write_tensors(tmp_path / "prompts.safetensors", {"text": torch.tensor(1.0)})
    with pytest.raises(UserError, match="'text' has 0 rows"):
        BundlePrompts(given)


# The runner.


def test_a_runner_gives_prepare_what_it_names_in_its_order(sana):
    given = []

    def prepare(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        given.append([value.tolist() for value in inputs])
        return inputs

    def encode(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        ids, mask, kept = inputs
        return [ids[:, kept].float(), mask[:, kept]]

    runner = BundleRunner(sana, {("text_encoder", "encode"): encode, ("denoiser", "prepare"): prepare})
    first, second = runner.prepare("red cat"), runner.prepare("blurry", negative=True)
    assert given == [
        [[[1, 1, 0, 0]], [[DRAW, CAT, PAD, PAD]]],
        [[[1, 0, 0, 0]], [[BLURRY, PAD, PAD, PAD]]],
    ]
    assert [value.tolist() for value in first] == given[0]
    assert [value.tolist() for value in second] == given[1]


def test_what_nothing_gives_is_named(tmp_path):
    given = carried(tmp_path)
    given.manifest["programs"]["denoiser"]["methods"]["prepare"]["inputs"].append(tensor("pooled", "float32", 1))
    with pytest.raises(UserError, match=r"nothing gives 'pooled', which `prepare` takes; export it again"):
        BundleRunner(given, {}).prepare("red cat")
