"""manifest.py: a bundle says what it holds, and every way to spoil one is answered in one line that names the file."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_hadanorm import bundle
from edge_hadanorm.bundle import Bundle, load, manifest, write_manifest
from edge_hadanorm.bundle.schema import DTYPES, SCHEMA
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.plans import Plan
from runtime_tests.support.manifests import (
    APART,
    BAD_PLANS,
    ENCODED,
    ENCODER,
    FILES,
    INPUT,
    LONG_PLANS,
    UNSAFE,
    WIDE,
    WRONG,
    edit,
    edit_plan,
    example,
    keep,
    make,
    plan,
    read,
    tensor,
    widen,
    write,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return make(tmp_path / "bundle")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


# A good bundle


def test_a_bundle_says_what_it_holds(folder):
    loaded = load(folder)
    assert loaded.folder == folder
    assert loaded.manifest == read(folder)
    assert loaded.recipe == "hadanorm-w4a8"
    assert loaded.image_size == (12, 8)
    assert loaded.latent_shape == (3, 8, 12)
    assert loaded.token_length == 16
    assert loaded.golden["prompt"] == "a red circle"
    assert list(loaded.programs) == ["text_encoder", "denoiser"]
    assert [t["name"] for t in loaded.programs["denoiser"]["methods"]["denoise"]["inputs"]] == [
        "latents",
        "timestep",
        "conditioning",
    ]
    assert loaded.sampling == loaded.manifest["sampling"]
    assert loaded.plans == {name: Plan.from_json(plan(int(name))) for name in ("8", "20", "4")}


def test_the_manifest_lists_size_and_sha256_of_every_other_file(folder):
    expected = {n: {"sha256": hashlib.sha256(b).hexdigest(), "bytes": len(b)} for n, b in FILES.items()}
    assert read(folder)["files"] == expected


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("denoiser", "denoiser.pte"),
        ("text_encoder", "text.pte"),
        ("tokenizer", "tokenizer.json"),
        ("golden", "golden/golden.png"),
        ("simulation", "simulation"),
        ("simulation/config.json", "simulation/config.json"),
        ("LICENSE", "LICENSE"),
    ],
)
def test_files_are_found_by_role_and_by_path(folder, name, path):
    assert load(folder).file(name) == folder / path


@pytest.mark.parametrize("name", ["decoder", "../x", "", "manifest.json", "golden/"])
def test_a_file_that_is_not_there_is_a_user_error(folder, name):
    with pytest.raises(UserError, match=r"has no .*; ask for one of text_encoder, denoiser, tokenizer, golden"):
        load(folder).file(name)


@pytest.mark.parametrize("steps", [4, 8, 20])
def test_a_plan_is_that_of_its_steps(folder, steps):
    assert load(folder).plan(steps) == load(folder).plan(str(steps)) == Plan.from_json(plan(steps))


@pytest.mark.parametrize("steps", [5, 0, -1, 80, "fast", "08", ""])
def test_a_missing_plan_is_answered_with_those_that_there_are(folder, steps):
    with pytest.raises(UserError, match=rf"has no plan for {steps} steps; take one of 8, 20, 4$"):
        load(folder).plan(steps)


def alone() -> dict:
    """The manifest of a transformer alone."""
    manifest = example() | {"prompt": None, "sampling": None, "golden": None, "simulation": None}
    del manifest["programs"]["text_encoder"]
    return manifest


def test_a_transformer_alone_is_a_bundle(tmp_path):
    loaded = load(make(tmp_path / "bundle", alone()))
    assert loaded.token_length is None
    assert loaded.golden is None
    assert loaded.plans == {}
    for ask in (lambda: loaded.plan(8), lambda: loaded.sampling):
        with pytest.raises(UserError, match="holds a transformer alone: it cannot draw prompts"):
            ask()
    with pytest.raises(UserError, match="has no 'golden'"):
        loaded.file("golden")


def test_a_program_may_be_a_folder_as_core_ml_has_it(tmp_path):
    manifest = example() | {"target": "coreml"}
    manifest["programs"]["denoiser"]["file"] = "simulation"
    folder = make(tmp_path / "bundle", manifest)
    assert load(folder).file("denoiser") == folder / "simulation"


def test_a_plan_may_have_more_rows_than_steps_were_asked_for(folder):
    """A scheduler that calls the model more than once a step."""
    edit(folder, "sampling/plans/20", plan(39))
    assert load(folder).plan(20).steps == 39


@pytest.mark.parametrize("name", ["fast", "", "8.0", "٨", "eight steps"])
def test_a_plan_may_have_any_name(folder, name):
    edit(folder, "sampling/plans", read(folder)["sampling"]["plans"] | {name: plan(3)})
    edit(folder, "sampling/plan", name)
    assert load(folder).plan(load(folder).sampling["plan"]) == Plan.from_json(plan(3))


def test_what_a_row_leaves_out_is_nothing(folder):
    edit_plan(folder, "rows", [{"timestep": 500, "input_scale": 1, "a": 0}] * 2)
    assert [(row.b, row.b_text, row.b_negative, row.c, row.known) for row in load(folder).plan(20).rows] == [
        ((), (), (), (), None)
    ] * 2


def test_a_plan_may_begin_in_the_middle(folder):
    edit_plan(folder, "starts", {"3": plan(17)})
    assert load(folder).plan(20).starts == {3: Plan.from_json(plan(17))}
    assert load(folder).plan(20).begun(0.85) == Plan.from_json(plan(17))


def test_a_bundle_may_have_further_sizes(folder):
    widen(folder)
    loaded = load(folder)
    assert loaded.sizes == [(12, 8), (24, 8)]
    assert loaded.at((12, 8)) is loaded
    wide = loaded.at((24, 8))
    assert (wide.image_size, wide.latent_shape, wide.golden) == ((24, 8), (3, 8, 24), None)
    assert wide.programs["denoiser"]["methods"]["denoise"]["name"] == "denoise_24x8"
    assert wide.programs["denoiser"]["methods"]["prepare"] == loaded.programs["denoiser"]["methods"]["prepare"]
    assert wide.plans == loaded.plans
    assert loaded.programs == load(folder).programs  # which is as it was
    with pytest.raises(UserError, match=r"has no pictures of 8x24 pixels; take one of 12x8, 24x8$"):
        loaded.at((8, 24))
    widen(folder, WIDE | {"plans": {"8": plan(7)}})
    assert load(folder).at((24, 8)).plans == {"8": Plan.from_json(plan(7))}


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("24x9", WIDE, r"\.sizes\['24x9'\] is not named by its width and height"),
        ("24 x 8", WIDE, r"\.sizes\['24 x 8'\] is not named by its width and height"),
        ("12x8", WIDE | {"image": {"width": 12, "height": 8, "channels": 3}}, "others than the default's"),
        ("24x8", WIDE | {"methods": {}}, r"denoise\.inputs do not begin with .*\(\.sizes\['24x8'\]\)"),
        ("24x8", WIDE | {"methods": {"denoiser": {"denoise": "other"}}}, "'other', which the program does not have"),
        ("24x8", WIDE | {"methods": {"painter": {"paint": "paint"}}}, "'paint', which the program does not have"),
        ("24x8", WIDE | {"plans": {}}, "which is not among the plans"),
        ("24x8", WIDE | {"plans": {"8": {}}}, "noise_scale, guidance, rows missing"),
    ],
)
def test_a_size_that_does_not_go_with_the_rest_is_refused(folder, name, size, words):
    widen(folder)
    edit(folder, "sizes", {name: size})
    assert re.search(words, refusal(folder))


def test_an_image_encoder_takes_a_picture_or_a_tile_of_it(folder):
    with pytest.raises(UserError, match="has no image encoder: export with `with_encoder`"):
        _ = load(folder).encode_window
    picture, latents = tensor("picture", "float32", 1, 3, 32, 48), tensor("latents", "float32", 1, 3, 4, 6)
    method = {"inputs": [picture], "outputs": [latents], "activations": None}
    edit(folder, "programs/image_encoder", {"file": "denoiser.pte", "methods": {"encode": method}})
    assert load(folder).encode_window == (32, 48)
    assert load(folder).decode_window is None


def test_a_plan_may_be_for_one_guidance(folder):
    edit_plan(folder, "guidance", 4.5)
    assert load(folder).plan(20).guidance == 4.5
    assert load(folder).plan(8).guidance is None


def test_a_text_encoder_may_take_ids_alone(folder):
    edit(folder, ENCODED, read(folder)["programs"]["text_encoder"]["methods"]["encode"]["inputs"][:1])
    assert load(folder).token_length == 16


def test_a_text_encoder_may_give_the_states_of_some_places(folder):
    keep(folder)
    assert load(folder).manifest["prompt"]["encoders"]["text_encoder"]["kept"]["prompt"] == [0, 13, 14, 15]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (f"{ENCODED}/2/shape", [5]),
        (f"{ENCODED}/2/shape", [1, 4]),
        (f"{ENCODED}/2/name", "places"),
        (f"{ENCODER}/kept", {"prompt": [0], "negative": [0]}),
    ],
)
def test_places_go_with_the_input_that_takes_them(folder, place, value):
    keep(folder)
    edit(folder, place, value)
    assert "encode.inputs are not ids, mask, kept of their lengths" in refusal(folder)


def test_a_tokenizer_may_know_every_word(folder):
    edit(folder, f"{ENCODER}/unknown_id", None)
    assert load(folder).manifest["prompt"]["encoders"]["text_encoder"]["unknown_id"] is None


def test_unknown_keys_are_ignored(folder):
    edit(folder, "comment", {"any": ["thing"]})
    edit(folder, "image/colour", "sRGB")
    assert load(folder).image_size == (12, 8)


def test_a_bundle_may_be_reached_and_linked_inside(folder, tmp_path):
    (tmp_path / "link").symlink_to("bundle")
    (folder / "COPYING").symlink_to("LICENSE")
    write_manifest(folder, example())
    assert load(tmp_path / "link").file("COPYING").read_bytes() == b"Apache"


def test_a_relative_folder_with_a_dot_loads(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load(".").recipe == "hadanorm-w4a8"


# Files


def test_a_missing_file_is_named(folder):
    (folder / "golden" / "golden.png").unlink()
    assert "'golden/golden.png' is missing; copy the bundle again" in refusal(folder)


@pytest.mark.parametrize("size", [0, 100, 2303, 2305])
def test_a_truncated_file_is_named_with_its_sizes(folder, size):
    (folder / "denoiser.pte").write_bytes((FILES["denoiser.pte"] + b"x")[:size])
    assert f"'denoiser.pte' is truncated or of the wrong size, {size} bytes instead of 2304" in refusal(folder)


@pytest.mark.parametrize("position", [0, 1000, 2303])
def test_one_altered_bit_is_found(folder, position):
    content = bytearray(FILES["denoiser.pte"])
    content[position] ^= 1
    (folder / "denoiser.pte").write_bytes(content)
    assert "'denoiser.pte' was altered" in refusal(folder)


@pytest.mark.parametrize("name", ["evil.so", ".hidden", "golden/other.png", "new/deep/file", "manifest.json.bak"])
def test_a_foreign_file_is_named(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("x")
    assert f"{name!r} is foreign" in refusal(folder)


def test_an_unreadable_file_is_named(folder, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(manifest, "_sha256", fail)
    assert "'LICENSE' cannot be read: Permission denied" in refusal(folder)


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "../bundle-2/LICENSE", "..", "/"])
def test_a_link_out_of_the_bundle_is_refused(folder, tmp_path, target):
    (tmp_path / "outside").write_bytes(FILES["LICENSE"])
    (tmp_path / "bundle-2").mkdir()
    (tmp_path / "bundle-2" / "LICENSE").write_bytes(FILES["LICENSE"])
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").symlink_to(target)
    assert "'LICENSE' is a link out of the bundle" in refusal(folder)


def test_a_linked_folder_out_of_the_bundle_is_refused(folder, tmp_path):
    shutil.move(folder / "simulation", tmp_path / "elsewhere")
    (folder / "simulation").symlink_to(tmp_path / "elsewhere")
    assert "'simulation' is a link out of the bundle" in refusal(folder)


def test_what_is_no_regular_file_is_refused(folder):
    (folder / "LICENSE").unlink()
    os.mkfifo(folder / "LICENSE")
    assert "'LICENSE' is not a regular file" in refusal(folder)


@pytest.mark.parametrize("target", ["loop", "nowhere", "golden"])
def test_links_to_nothing_to_themselves_and_to_folders_are_refused(folder, target):
    (folder / "loop").symlink_to(target)
    assert "'loop' is not a regular file" in refusal(folder)


def test_what_is_no_bundle_is_said_so(tmp_path, folder):
    (folder / "manifest.json").unlink()
    assert "is not a bundle: it has no manifest.json" in refusal(folder)
    assert "is not a bundle" in refusal(tmp_path / "missing")
    assert "is not a bundle" in refusal(folder / "LICENSE")


# The manifest


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1', "\x00"])
def test_a_manifest_that_is_not_json_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    assert "is not JSON" in refusal(folder)


@pytest.mark.parametrize("value", [None, [], {}, "x", 1, [{"schema": 3}]])
def test_a_manifest_of_another_shape_is_refused(folder, value):
    write(folder, value)
    assert "is not a valid manifest" in refusal(folder)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99])
def test_a_newer_schema_asks_for_an_update(folder, schema):
    write(folder, {"schema": schema, "all": "new"})
    message = refusal(folder)
    assert f"made by a newer edge-hadanorm (schema {schema}, this one reads {SCHEMA}); update" in message


@pytest.mark.parametrize("schema", range(1, SCHEMA))
def test_an_older_schema_asks_for_another_export(folder, schema):
    write(folder, {"schema": schema, "all": "old"})
    message = refusal(folder)
    assert f"made by an older edge-hadanorm (schema {schema}, this one reads {SCHEMA}); export the check" in message


@pytest.mark.parametrize("schema", [0, -1, "1", 1.0, True, None, [1]])
def test_an_impossible_schema_is_refused(folder, schema):
    edit(folder, "schema", schema)
    assert ".schema is" in refusal(folder)


@pytest.mark.parametrize("key", [*example(), "files"])
def test_every_key_is_needed(folder, key):
    edit(folder, key, ...)
    assert f".{key} is missing" in refusal(folder)


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_a_value_of_the_wrong_type_is_named_by_its_place(folder, place, value):
    edit(folder, place, value)
    message = refusal(folder)
    assert re.search(r"is not a valid manifest: (a key of )?\.", message)
    assert place.split("/")[-1] in message


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_the_schema_is_read(folder, dtype):
    edit(folder, f"{INPUT}/0/dtype", dtype)
    load(folder)


@pytest.mark.parametrize("guidance", [0, 1, 4.5, -1.5])
def test_guidance_is_any_finite_number(folder, guidance):
    edit(folder, "sampling/guidance", guidance)
    assert load(folder).manifest["sampling"]["guidance"] == guidance


@pytest.mark.parametrize("path", UNSAFE)
@pytest.mark.parametrize(
    "place", ["files", "programs/denoiser/file", f"{ENCODER}/tokenizer", "golden/file", "simulation"]
)
def test_no_path_leaves_the_bundle(folder, place, path):
    if place == "files":
        edit(folder, "files", read(folder)["files"] | {path: {"sha256": "0" * 64, "bytes": 0}})
    else:
        edit(folder, place, path)
    assert "not a plain relative path" in refusal(folder)


@pytest.mark.parametrize("place", ["programs/denoiser/file", f"{ENCODER}/tokenizer", "golden/file", "simulation"])
@pytest.mark.parametrize("path", ["missing", "manifest.json", "LICENSE/x"])
def test_what_the_manifest_speaks_of_is_listed(folder, place, path):
    edit(folder, place, path)
    role = "tokenizer" if "tokenizer" in place else place.split("/")[-2] if "/" in place else place
    assert f"{path!r}, the {role}, is not in .files" in refusal(folder)


@pytest.mark.parametrize("part", [f"{ENCODER}/tokenizer", "golden/file"])
def test_only_programs_and_the_simulation_may_be_folders(folder, part):
    edit(folder, part, "simulation")
    assert "is not in .files" in refusal(folder)


def test_the_manifest_does_not_list_itself(folder):
    edit(folder, "files", read(folder)["files"] | {"manifest.json": {"sha256": "0" * 64, "bytes": 0}})
    assert ".files lists manifest.json itself" in refusal(folder)


@pytest.mark.parametrize(
    ("place", "missing"),
    [
        ("programs/denoiser", ".programs.denoiser"),
        ("programs/denoiser/methods/prepare", ".programs.denoiser.methods.prepare"),
        ("programs/denoiser/methods/denoise", ".programs.denoiser.methods.denoise"),
        ("programs/text_encoder/methods/encode", ".programs.text_encoder.methods.encode"),
        ("image/channels", ".image.channels"),
        (f"{INPUT}/2/shape", ".programs['denoiser'].methods['denoise'].inputs[2].shape"),
        ("golden/seed", ".golden.seed"),
        ("files/LICENSE/bytes", ".files['LICENSE'].bytes"),
    ],
)
def test_a_missing_part_is_named(folder, place, missing):
    edit(folder, place, ...)
    assert missing in refusal(folder)


@pytest.mark.parametrize(("place", "value", "words"), BAD_PLANS + LONG_PLANS)
def test_a_plan_that_the_loop_could_not_run_is_refused(folder, place, value, words):
    edit_plan(folder, place, value)
    message = refusal(folder)
    assert f"plan: {words}" in message
    assert ".sampling.plans['20']" in message


@pytest.mark.parametrize(("edits", "words"), APART.values(), ids=APART)
def test_parts_that_do_not_go_together_are_refused(folder, edits, words):
    for place, value in edits:
        edit(folder, place, value)
    assert re.search(words, refusal(folder))


# Writing


def test_writing_returns_what_loading_does(folder):
    assert write_manifest(folder, example()) == load(folder) == Bundle(folder, read(folder))


def test_numbers_of_steps_may_be_numbers_when_written(tmp_path):
    manifest = example()
    manifest["sampling"]["plans"] = {4: plan(4), 8: plan(8)}
    manifest["latents"]["shape"] = (3, 8, 12)
    assert list(load(make(tmp_path / "bundle", manifest)).plans) == ["4", "8"]


def test_a_bundle_is_written_again_after_a_change(folder):
    (folder / "LICENSE").write_text("MIT")
    (folder / "golden" / "second.png").write_text("x")
    write_manifest(folder, example() | {"files": "of before"})
    assert load(folder).manifest["files"]["LICENSE"]["bytes"] == 3


@pytest.mark.parametrize(
    "change",
    [
        {"schema": SCHEMA - 1},
        {"schema": SCHEMA + 1},
        {"noise": "other"},
        {"simulation": "../x"},
        {"latents": {"shape": [float("nan")] * 3}},
    ],
)
def test_a_wrong_manifest_is_not_written(folder, change):
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json"):
        write_manifest(folder, example() | change)
    assert not (folder / "manifest.json").exists()


def test_files_that_a_manifest_cannot_name_are_not_packed(folder, tmp_path):
    (folder / "a:b").touch()
    with pytest.raises(UserError, match="'a:b', not a plain relative path"):
        write_manifest(folder, example())
    (folder / "a:b").unlink()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="'link' is a link out of the bundle"):
        write_manifest(folder, example())


def test_a_host_without_diffusers_and_executorch_can_load(folder):
    script = (
        "import sys\nfor name in ('diffusers', 'executorch', 'transformers', 'torchao'): sys.modules[name] = None\n"
        "from edge_hadanorm.bundle import load\nprint(load(sys.argv[1]).recipe)"
    )
    root = Path(bundle.__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", script, folder], cwd=root, capture_output=True, text=True, check=True
    )
    assert output.stdout == "hadanorm-w4a8\n"
