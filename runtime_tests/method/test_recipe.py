"""recipe.py: names are fields, JSON brings them back, and every mistake is one line that names it."""

import dataclasses
import itertools
import json

import pytest

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.recipe import FORMATS, METHODS, SUMMARIES, Recipe, from_json, load, named, set_budget

NAMES = [f"{method}-{format}" for method, format in itertools.product(METHODS, FORMATS)]
FIELDS = dict(name="mine", weight_bits=4, activation_bits=8)


def assert_refused(action, *words: str) -> None:
    """It raises UserError, in one line with these words in it."""
    with pytest.raises(UserError) as raised:
        action()
    message = str(raised.value)
    assert message.isprintable()
    assert all(word in message for word in words), message


# Names.


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("rtn-w8a8", dict(weight_bits=8, activation_bits=8)),
        ("rtn-w4a16", dict(weight_bits=4, activation_bits=16)),
        ("smoothquant-w8a8-static", dict(weight_bits=8, activation_bits=8, scale="smoothquant", activations="tensor")),
        ("quarot-w4a4", dict(weight_bits=4, activation_bits=4, rotation="block")),
        ("vidit-q-w4a8", dict(weight_bits=4, activation_bits=8, scale="smoothquant", rotation="block")),
        ("hadanorm-auto-w4a8", dict(weight_bits=4, activation_bits=8, search=True, rounding="gptq")),
        (
            "hadanorm-auto-r32-w4a4",
            dict(weight_bits=4, activation_bits=4, search=True, rounding="gptq", rank=32),
        ),
        ("svdquant-r32-w4a4", dict(weight_bits=4, activation_bits=4, scale="smoothquant", rank=32)),
        (
            "hadanorm-w4a8-g32",
            dict(weight_bits=4, activation_bits=8, group_size=32, centre="dynamic", scale="std", rotation="block"),
        ),
        (
            "hadanorm-folded-w8a8",
            dict(weight_bits=8, activation_bits=8, centre="static", scale="balanced", rotation="block"),
        ),
        (
            "hadanorm-balanced-w2a16-g128-static",
            dict(
                weight_bits=2,
                activation_bits=16,
                group_size=128,
                activations="tensor",
                centre="dynamic",
                scale="balanced",
                rotation="block",
            ),
        ),
    ],
)
def test_a_name_is_its_fields(name, fields):
    assert named(name) == Recipe(name=name, **fields)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_every_format(name):
    recipe = named(name)
    assert recipe.name == name
    method = METHODS[name[: name.rindex("-w")]]
    assert {field: getattr(recipe, field) for field in method} == method
    assert load(name) == recipe


def test_every_method_has_a_summary():
    assert list(SUMMARIES) == list(METHODS)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("rtn-w4a8", False),
        ("quarot-w4a4", False),
        ("rtn-w8a8-static", True),
        ("smoothquant-w8a8", True),
        ("svdquant-r16-w4a8", True),
        ("hadanorm-w4a8", True),
        ("hadanorm-balanced-w4a8", True),
        ("hadanorm-folded-w4a8", True),
        ("hadanorm-auto-w4a8", True),
        ("hadanorm-auto-w16a16", True),
    ],
)
def test_what_is_measured_on_activations_needs_calibration(name, needed):
    assert named(name).needs_calibration is needed


@pytest.mark.parametrize(
    ("fields", "moments", "calls"),
    [
        (dict(), False, False),
        (dict(rotation="block", rank=16, rounding="clip", activation_clip=0.9), False, False),
        (dict(activations="tensor"), False, False),
        (dict(scale="balanced"), True, False),
        (dict(centre="static"), True, False),
        (dict(rounding="gptq"), False, True),
        (dict(average_bits=5), False, True),
        (dict(search=True), True, True),
    ],
)
def test_a_recipe_needs_moments_for_transforms_and_calls_for_weights(fields, moments, calls):
    recipe = Recipe(**FIELDS, **fields)
    assert (recipe.needs_moments, recipe.needs_calls) == (moments, calls)
    assert recipe.needs_calibration == (moments or calls or recipe.activations == "tensor")


def test_a_budget_is_a_field_and_a_part_of_the_name():
    recipe = named("quarot-w3a8-g32")
    spent = set_budget(recipe, 4.25)
    assert spent == dataclasses.replace(recipe, name="quarot-w3a8-g32-avg4.25", average_bits=4.25)
    assert from_json(json.loads(json.dumps(spent.to_json()))) == spent
    assert set_budget(recipe, 5.0).name == "quarot-w3a8-g32-avg5"


@pytest.mark.parametrize(("name", "bits"), [("rtn-w4a8", 3.9), ("rtn-w4a8", 8.1), ("rtn-w16a8", 8), ("rtn-w5a8", 4)])
def test_a_budget_below_the_weight_bits_or_above_8_is_refused(name, bits):
    least = named(name).weight_bits
    assert_refused(lambda: set_budget(named(name), bits), f"{name}-avg{bits:g}", "average_bits", f"({least}) to 8")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-w8a8",
        "w4a8",
        "rtn",
        "gptq-w4a8",
        "Rtn-w4a8",
        "rtn-w4",
        "rtn-a8",
        "rtn-w4a8-32",
        "rtn-w4a8-g",
        "rtn-w4a8-g-32",
        "rtn-w4a8-static-g32",
        "rtn-w4a8 ",
        "rtn-w4a8\n",
        "rtn\n-w4a8",
        "rtn-w-4a8",
        "hadanorm-balanced",
        "recipe.json.txt",
    ],
)
def test_unknown_names_are_answered_with_the_methods(name):
    assert_refused(lambda: named(name), repr(name), "METHOD-wXaY[-gG][-static]", *METHODS)
    assert_refused(lambda: load(name), repr(name), *METHODS)


@pytest.mark.parametrize("bits", [0, 1, 9, 12, 17, 32])
def test_other_bits_are_refused(bits):
    choices = "2, 3, 4, 5, 6, 7, 8, 16"
    assert_refused(lambda: named(f"rtn-w{bits}a8"), f"weight_bits is {bits}", choices)
    assert_refused(lambda: named(f"rtn-w8a{bits}"), f"activation_bits is {bits}", choices)
    assert_refused(lambda: from_json({**FIELDS, "weight_bits": bits}), f"weight_bits is {bits}", choices)


def test_a_group_of_nothing_is_refused():
    assert_refused(lambda: named("rtn-w4a8-g0"), "group_size is 0")


# JSON.


@pytest.mark.parametrize("name", NAMES)
def test_json_brings_back_every_named_recipe(name, tmp_path):
    recipe = named(name)
    text = json.dumps(recipe.to_json())
    assert from_json(json.loads(text)) == recipe
    file = tmp_path / "recipe.json"
    file.write_text(text)
    assert load(str(file)) == recipe


def test_json_has_every_field():
    assert set(named("hadanorm-w4a8").to_json()) == {field.name for field in dataclasses.fields(Recipe)}


def test_missing_fields_have_their_defaults():
    assert from_json(FIELDS) == Recipe("mine", 4, 8)


@pytest.mark.parametrize("field", FIELDS)
def test_required_fields_are_named_when_missing(field):
    assert_refused(lambda: from_json({k: v for k, v in FIELDS.items() if k != field}), repr(field), "missing")


@pytest.mark.parametrize("field", ["weight_bit", "Centre", "", "a\nb"])
def test_unknown_fields_are_answered_with_the_known_ones(field):
    known = [f.name for f in dataclasses.fields(Recipe)]
    assert_refused(lambda: from_json({**FIELDS, field: 1}), repr(field), *known)


@pytest.mark.parametrize("value", [None, 4, "rtn-w4a8", [], [FIELDS], True])
def test_a_recipe_is_an_object(value):
    assert_refused(lambda: from_json(value), "JSON object")


WRONG = {
    "name": [None, 4, ["mine"], True, "two\nlines"],
    "weight_bits": [True, False, None, "4", 4.0, 4.5, -4, [4], {}],
    "activation_bits": [True, False, None, "8", 8.0, 7.9, -8, [8], {}],
    "group_size": [True, "32", 32.0, 0, -32, [32]],
    "activations": [None, True, 1, "Token", "", ["token"]],
    "centre": [None, True, 0, "mean", ["none"]],
    "scale": [None, False, 1.0, "sigma", {}],
    "rotation": [None, 64, "hadamard", []],
    "rounding": [None, "gptq2", 0, []],
    "alpha": [None, True, "0.5", -0.1, 1.1, float("nan"), float("inf"), [0.5]],
    "block": [None, True, "64", 64.0, 0, -64, 48, [64]],
    "exponent": [None, True, "0.5", -0.1, 1.1, float("nan"), float("inf"), [0.5]],
    "rank": [None, True, "16", 16.0, -1, [16]],
    "activation_clip": [None, True, "0.9", 0, -0.1, 1.1, float("nan"), float("inf"), [0.9]],
    "damping": [None, True, "0.9", 0, -0.1, float("nan"), float("inf"), [0.9]],
    "act_order": [None, 0, 1, "true", []],
    "search": [None, 0, 1, "true", "gptq", []],
    "rest_bits": [None, True, "8", 8.0, 4, 0, [8]],
    "average_bits": [True, "5", 3, 3.999, 8.001, 16, -5, float("nan"), float("inf"), [5]],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_impossible_values_are_named_with_their_field(field, value):
    assert_refused(lambda: from_json({**FIELDS, field: value}), field, repr(value))


def test_every_field_has_impossible_values():
    assert set(WRONG) == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize(
    "fields",
    [
        dict(alpha=0),
        dict(alpha=1),
        dict(group_size=None),
        dict(group_size=1),
        dict(block=1),
        dict(block=4096),
        dict(exponent=0),
        dict(exponent=1.0),
        dict(activation_clip=1),
        dict(activation_clip=1e-3),
        dict(damping=1e-3),
        dict(damping=5),
        dict(act_order=True),
        dict(search=True),
        dict(rank=0),
        dict(rank=1),
        dict(average_bits=4),
        dict(average_bits=4.5),
        dict(average_bits=8),
        dict(average_bits=None),
    ],
)
def test_values_at_the_edge_are_possible(fields):
    assert from_json({**FIELDS, **fields}) == Recipe(**FIELDS, **fields)


# Files.


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for name, reason in (("none.json", "does not exist"), ("folder.json", "cannot be read")):
        assert_refused(lambda file=tmp_path / name: load(str(file)), str(tmp_path / name), reason)


@pytest.mark.parametrize("content", [b"", b"{", b"{'name': 1}", b"\xff\xfe\x00", b"[" * 100_000, b"rtn-w4a8"])
def test_a_file_that_is_not_json_is_named(content, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_bytes(content)
    assert_refused(lambda: load(str(file)), str(file), "is not JSON")


def test_a_file_of_another_object_is_refused(tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text('{"weight_bits": 4}')
    assert_refused(lambda: load(str(file)), "'name'", "missing")
    file.write_text("[]")
    assert_refused(lambda: load(str(file)), "JSON object")
