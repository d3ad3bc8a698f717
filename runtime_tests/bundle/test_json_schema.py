"""manifest.schema.json refuses by itself what the reader refuses by type, and the page beside it names every key."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from edge_hadanorm import bundle
from edge_hadanorm.bundle import json_schema
from edge_hadanorm.bundle.schema import DTYPES, ENCODERS, FIELDS, METHODS, NOISE, Value
from edge_hadanorm.pipelines.plans import Plan, Row
from runtime_tests.support.manifests import (
    APART,
    BAD_PLANS,
    LONG_PLANS,
    UNSAFE,
    WRONG,
    edit,
    edit_plan,
    example,
    keep,
    make,
    plan,
    read,
    widen,
)

PAGE = (Path(bundle.__file__).parent / "README.md").read_text(encoding="utf-8")
# JSON has one kind of number: where the reader wants 8, a validator takes 8.0 too.
WHOLE = [("image/height", 8.0), ("files/LICENSE/bytes", 6.0)]


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(json_schema.FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def folder(tmp_path) -> Path:
    return make(tmp_path / "bundle")


def accepted(validator, folder: Path) -> bool:
    """Whether a validator takes the manifest; NaN and infinity are no JSON."""

    def refuse(constant: str):
        raise ValueError(constant)

    try:
        return validator.is_valid(json.loads((folder / "manifest.json").read_text(), parse_constant=refuse))
    except ValueError:
        return False


def test_the_file_is_made_of_the_fields():
    assert json.loads(json_schema.FILE.read_text(encoding="utf-8")) == json_schema.json_schema()


def test_an_example_is_accepted(validator, folder):
    assert accepted(validator, folder)


def test_a_transformer_alone_is_accepted(validator, folder):
    for key in ("prompt", "sampling", "golden", "simulation"):
        edit(folder, key, None)
    assert accepted(validator, folder)


def test_unknown_keys_are_accepted(validator, folder):
    edit(folder, "comment", {"any": ["thing"]})
    edit(folder, "programs/denoiser/notes", ["a line"])
    assert accepted(validator, folder)


def test_a_value_that_the_reader_refuses_by_type_is_refused(validator, folder):
    good = read(folder)
    for place, value in WRONG:
        (folder / "manifest.json").write_text(json.dumps(good))
        edit(folder, place, value)
        assert accepted(validator, folder) == ((place, value) in WHOLE and type(value) is float), (place, value)


@pytest.mark.parametrize("key", [*example(), "files"])
def test_every_key_is_needed(validator, folder, key):
    edit(folder, key, ...)
    assert not accepted(validator, folder)


@pytest.mark.parametrize("schema", [0, -1, "3", True, None, [3], bundle.SCHEMA - 1, bundle.SCHEMA + 1])
def test_an_impossible_or_another_schema_is_refused(validator, folder, schema):
    edit(folder, "schema", schema)
    assert not accepted(validator, folder)


@pytest.mark.parametrize("path", UNSAFE)
@pytest.mark.parametrize("place", ["files", "programs/denoiser/file", "simulation"])
def test_no_path_leaves_the_bundle(validator, folder, place, path):
    value = read(folder)["files"] | {path: {"sha256": "0" * 64, "bytes": 0}} if place == "files" else path
    edit(folder, place, value)
    assert not accepted(validator, folder)


@pytest.mark.parametrize("path", ["a", "a/b.c/d", ".hidden", "..a/...", "a b/ü.png"])
def test_a_plain_path_is_accepted(validator, folder, path):
    edit(folder, "simulation", path)
    assert accepted(validator, folder)


def test_kept_places_and_encoded_prompts_are_accepted(validator, folder):
    keep(folder)
    edit(folder, "prompt/embedded", {"file": "tokenizer.json", "prompts": ["a", ""], "negatives": [""]})
    assert accepted(validator, folder)


def test_further_sizes_are_accepted(validator, folder):
    widen(folder)
    edit(folder, "sizes/24x8/plans", {"8": plan(8)})
    assert accepted(validator, folder)


def test_a_plan_may_begin_in_the_middle(validator, folder):
    edit_plan(folder, "starts", {"3": plan(17)})
    assert accepted(validator, folder)


@pytest.mark.parametrize("name", ["fast", "", "8.0"])
def test_a_plan_may_have_any_name(validator, folder, name):
    edit(folder, "sampling/plans", {name: plan(8, guidance=4.5)})
    assert accepted(validator, folder)


@pytest.mark.parametrize("row", [{}, {"known": None}, {"b": [], "b_text": [1], "b_negative": [-0.5], "c": [0]}])
def test_a_row_may_leave_lists_out(validator, folder, row):
    edit_plan(folder, "rows", [{"timestep": 500, "input_scale": 1.0, "a": 0} | row])
    assert accepted(validator, folder)
    assert bundle.load(folder).plan(20).steps == 1


@pytest.mark.parametrize(("place", "value", "words"), BAD_PLANS)
def test_a_plan_of_the_wrong_types_is_refused(validator, folder, place, value, words):
    edit_plan(folder, place, value)
    assert not accepted(validator, folder)


def test_what_it_cannot_state_is_the_readers(validator, folder):
    """Lengths that depend on a place, and parts that go together."""
    good = read(folder)
    edits = [[(f"sampling/plans/20/{place}", value)] for place, value, _ in LONG_PLANS]
    for changes in edits + [changes for changes, _ in APART.values()]:
        (folder / "manifest.json").write_text(json.dumps(good))
        for place, value in changes:
            edit(folder, place, value)
        assert accepted(validator, folder), changes


@pytest.mark.parametrize(
    ("method", "valid"),
    [
        ({}, True),
        ({"package": "simulation", "function": "main"}, True),
        ({"package": "simulation"}, False),
        ({"package": "../x", "function": "main"}, False),
    ],
)
def test_a_method_of_a_package_has_features(validator, folder, method, valid):
    entry = read(folder)["programs"]["denoiser"]["methods"]["prepare"]
    if method:
        entry |= {way: [tensor | {"feature": "x"} for tensor in entry[way]] for way in ("inputs", "outputs")}
    edit(folder, "programs/denoiser/methods/prepare", entry | method)
    assert accepted(validator, folder) == valid


def test_a_method_of_a_package_without_features_is_refused(validator, folder):
    edit(folder, "programs/denoiser/methods/prepare/package", "simulation")
    edit(folder, "programs/denoiser/methods/prepare/function", "main")
    assert not accepted(validator, folder)


# The page.


def keys(kind) -> set[str]:
    """Every key of the manifest that is a name of its own."""
    if isinstance(kind, list):
        return keys(kind[0])
    if isinstance(kind, Value):
        return set()
    own = {key.rstrip("?") for key in kind if isinstance(key, str)}
    return own.union(*map(keys, kind.values()))


def test_the_page_is_the_schema():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.split("## Programs")[0], re.MULTILINE)
    assert rows == [key.rstrip("?") for key in FIELDS]
    fenced = re.compile(r"^```$(.*?)^```$", re.MULTILINE | re.DOTALL)
    code = set(re.findall(r"\w+", " ".join(fenced.findall(PAGE) + re.findall(r"`([^`]+)`", fenced.sub("", PAGE)))))
    assert {*Plan.from_json(plan(1)).to_json(), *Row.__annotations__} <= code
    assert keys(FIELDS) | {"package", "function", "feature", "notes"} <= code
    assert {*ENCODERS, *METHODS} <= code
    assert f"one of\n{', '.join(DTYPES)}." in PAGE
    assert f"`{NOISE}`" in PAGE
    assert f"Version of this format: {bundle.SCHEMA}." in PAGE


def test_its_links_are_files():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (Path(bundle.__file__).parent / link).is_file(), link
