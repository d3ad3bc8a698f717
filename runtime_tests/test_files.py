"""files.py: what is read is right or answered in one line; what is written appears whole or not at all."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import MARKERS, new_file, new_folder, read_json, write_json
from edge_hadanorm.tensor_files import read_tensors, read_weights, require_finite

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int8)}
STEM = "diffusion_pytorch_model"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def assert_same(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def save_shards(folder: Path, weight_map: object, **shards: dict) -> None:
    for name, tensors in shards.items():
        save_file(tensors, folder / f"{name}.safetensors")
    write_json(folder / f"{STEM}.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


# JSON


def test_json_comes_back_as_it_was_written(tmp_path):
    value = {"z": [1, 2.5, None, True], "a": {"prompt": "ein Kürbis 南瓜 \ud800"}}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text("utf-8")
    assert text.endswith("}\n")
    assert text.index('"z"') < text.index('"a"')
    assert text.splitlines()[1].startswith(' "z"')
    assert read_json(tmp_path / "x.json", "file") == value


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_json_does_not_have_is_written_as_null(tmp_path, number):
    write_json(tmp_path / "x.json", {"sqnr_db": number, "layers": [{"a": (number, 1.5)}]})
    assert read_json(tmp_path / "x.json", "metrics") == {"sqnr_db": None, "layers": [{"a": [None, 1.5]}]}


def test_the_infinity_of_diffusers_configs_is_read(tmp_path):
    (tmp_path / "scheduler_config.json").write_text('{"lambda_min_clipped": -Infinity}')
    assert read_json(tmp_path / "scheduler_config.json", "config") == {"lambda_min_clipped": -float("inf")}


def test_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "x.json").write_text("[1]", encoding="utf-8-sig")
    assert read_json(tmp_path / "x.json", "file") == [1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"\xff\xfe\x00",
        b'{"a": 1} x',
        b"[" * 200_000,
        b"9" * 5000,
    ],
    ids=["empty", "cut", "quotes", "utf-16", "trailing", "nested", "digits"],
)
def test_what_is_not_json_is_a_user_error_that_names_the_file(tmp_path, content):
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^recipe file .*recipe\.json is not JSON.*copy it again$") as caught:
        read_json(tmp_path / "recipe.json", "recipe file")
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_json_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"^config .*x\.json does not exist"):
        read_json(tmp_path / "x.json", "config")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_json(tmp_path, "config")


def test_json_that_cannot_be_written_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*x\.json"):
        write_json(tmp_path / "missing" / "x.json", {})


# safetensors


def test_tensors_come_back_as_they_were_saved(tmp_path):
    save_file(WEIGHTS, tmp_path / "x.safetensors")
    assert_same(read_tensors(tmp_path / "x.safetensors"), WEIGHTS)


@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_a_truncated_file_is_a_user_error(tmp_path, keep):
    save_file(WEIGHTS, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:keep])
    with pytest.raises(UserError, match=r"x\.safetensors is truncated or not a safetensors file; copy it again"):
        read_tensors(tmp_path / "x.safetensors")


def test_a_pickle_a_folder_and_nothing_are_user_errors(tmp_path):
    torch.save(WEIGHTS, tmp_path / "x.bin")
    with pytest.raises(UserError, match="not a safetensors file"):
        read_tensors(tmp_path / "x.bin")
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_tensors(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("name", [STEM, "model", "my-lora", f"{STEM}.fp16"])
def test_weights_in_one_file_are_found(tmp_path, name):
    save_file(WEIGHTS, tmp_path / f"{name}.safetensors")
    (tmp_path / f"._{name}.safetensors").write_bytes(b"what macOS leaves on a stick")
    assert_same(read_weights(tmp_path), WEIGHTS)


def test_the_stem_comes_before_others(tmp_path):
    save_file(WEIGHTS, tmp_path / f"{STEM}.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    save_file({"third": torch.zeros(1)}, tmp_path / "third.safetensors")
    assert_same(read_weights(tmp_path), WEIGHTS)
    assert list(read_weights(tmp_path, "third")) == ["third"]
    assert list(read_weights(tmp_path, "model")) == ["other"]


def test_shards_are_put_together_in_the_order_of_the_index(tmp_path):
    save_shards(
        tmp_path,
        {"b": "two.safetensors", "a": "one.safetensors"},
        one={"a": WEIGHTS["a"], "spare": torch.zeros(1)},
        two={"b": WEIGHTS["b"]},
    )
    assert_same(read_weights(tmp_path), WEIGHTS)
    assert list(read_weights(tmp_path)) == ["b", "a"]


def test_shards_may_be_links_as_in_the_hub_cache(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file(WEIGHTS, tmp_path / "blobs" / "0123")
    (tmp_path / "snapshot" / "one.safetensors").symlink_to("../blobs/0123")
    save_shards(tmp_path / "snapshot", {"a": "one.safetensors", "b": "one.safetensors"})
    assert_same(read_weights(tmp_path / "snapshot"), WEIGHTS)


@pytest.mark.parametrize(
    "file",
    ["../x.safetensors", "/etc/x", "sub/x.safetensors", "a\\x", "C:x", "", ".", "..", "x\0", "x\n", 3, None, ["x"]],
)
def test_an_index_can_name_no_file_outside_its_folder(tmp_path, file):
    save_file(WEIGHTS, tmp_path / "x.safetensors")
    (tmp_path / "model").mkdir()
    save_shards(tmp_path / "model", {"a": file})
    with pytest.raises(UserError, match="not a file name in its folder"):
        read_weights(tmp_path / "model")


@pytest.mark.parametrize("weight_map", [None, {}, [], "x", 1])
def test_an_index_without_a_map_is_a_user_error(tmp_path, weight_map):
    save_shards(tmp_path, weight_map)
    with pytest.raises(UserError, match="has no weight_map"):
        read_weights(tmp_path)


def test_an_index_that_is_no_object_is_a_user_error(tmp_path):
    write_json(tmp_path / f"{STEM}.safetensors.index.json", ["weight_map"])
    with pytest.raises(UserError, match="has no weight_map"):
        read_weights(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    save_shards(tmp_path, {"a": "one.safetensors", "lost": "one.safetensors"}, one=WEIGHTS)
    with pytest.raises(UserError, match=r"one\.safetensors lacks 'lost', which .*index\.json places there"):
        read_weights(tmp_path)


def test_a_shard_that_is_missing_is_named(tmp_path):
    save_shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one=WEIGHTS)
    with pytest.raises(UserError, match=r"two\.safetensors does not exist"):
        read_weights(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only safetensors are read, never \.bin pickles"):
        read_weights(tmp_path)


def test_several_files_without_an_index_are_ambiguous(tmp_path):
    for name in ("one", "two"):
        save_file(WEIGHTS, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"2 safetensors files \(one\.safetensors, two\.safetensors"):
        read_weights(tmp_path)


def test_a_missing_folder_of_weights_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="missing is not a folder of weights"):
        read_weights(tmp_path / "missing")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_the_first_tensor_that_is_not_finite_is_named(dtype):
    good, bad = torch.zeros(2, 3).to(dtype), torch.tensor([0.0, float("nan"), 1.0]).to(dtype)
    require_finite({"ids": torch.ones(2, dtype=torch.int64), "empty": torch.zeros(0), "good": good}, "inputs")
    with pytest.raises(UserError, match=r"^inputs x\.safetensors: 1 of 3 values of 'bad' are NaN or infinite"):
        require_finite({"good": good, "bad": bad, "worse": bad}, "inputs x.safetensors")


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_infinities_are_not_finite(value):
    with pytest.raises(UserError, match="'x'"):
        require_finite({"x": torch.tensor(value)}, "inputs")


# new_folder


def fill(folder: Path, content: str = "new") -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "data").write_text(content)
    (folder / "recipe.json").write_text("{}")


def content(out: Path) -> str:
    return (out / "sub" / "data").read_text()


def make(out: Path, force: bool = False, then=lambda: None) -> None:
    with new_folder(out, force) as folder:
        fill(folder)
        then()


def write(out: Path, then=lambda: None) -> None:
    with new_file(out) as path:
        path.write_text("new")
        then()


def raising(error: type[BaseException]):
    def then():
        raise error("boom")

    return then


def test_a_folder_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "out"
    with new_folder(out) as folder:
        fill(folder)
        assert folder == tmp_path / ".out.partial"
        assert not out.exists()
    assert names(tmp_path) == ["out", "out/recipe.json", "out/sub", "out/sub/data"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, UserError, OSError])
@pytest.mark.parametrize("path", ["out", "new/parents/out"])
def test_a_failed_folder_leaves_nothing(tmp_path, path, error):
    with pytest.raises(error, match="boom"):
        make(tmp_path / path, then=raising(error))
    assert names(tmp_path) == []


def test_missing_parents_are_created_and_those_of_others_kept(tmp_path):
    def fail():
        (tmp_path / "a" / "c" / "of another").touch()
        raise RuntimeError

    make(tmp_path / "a" / "b" / "out")
    assert content(tmp_path / "a" / "b" / "out") == "new"
    with pytest.raises(RuntimeError):
        make(tmp_path / "a" / "c" / "out", then=fail)
    assert names(tmp_path / "a" / "c") == ["of another"]


@pytest.mark.parametrize("empty", [True, False])
def test_an_existing_folder_is_refused_before_any_work(tmp_path, empty):
    (tmp_path / "out").mkdir()
    if not empty:
        fill(tmp_path / "out", "old")
    before = names(tmp_path)
    with pytest.raises(UserError, match="out exists; use `force` to replace it or give another `out`"):
        new_folder(tmp_path / "out").__enter__()
    assert names(tmp_path) == before


def test_force_replaces_only_after_success(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")
    (out / "extra").touch()
    with pytest.raises(RuntimeError):
        make(out, force=True, then=raising(RuntimeError))
    assert content(out) == "old"
    with new_folder(out, force=True) as folder:
        fill(folder)
        assert content(out) == "old"
    assert names(tmp_path) == ["out", "out/recipe.json", "out/sub", "out/sub/data"]
    assert content(out) == "new"


@pytest.mark.parametrize("marker", [None, *MARKERS])
def test_force_replaces_what_is_empty_or_ours(tmp_path, marker):
    (tmp_path / "out").mkdir()
    if marker:
        (tmp_path / "out" / marker).touch()
        (tmp_path / "out" / "other").touch()
    make(tmp_path / "out", force=True)
    assert content(tmp_path / "out") == "new"


def test_force_does_not_replace_a_home_directory(tmp_path):
    (tmp_path / "home" / "photos").mkdir(parents=True)
    with pytest.raises(UserError, match="holds files that edge-hadanorm did not write"):
        new_folder(tmp_path / "home", force=True).__enter__()
    assert names(tmp_path) == ["home", "home/photos"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_the_way_is_a_user_error(tmp_path, force):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out is a file"):
        new_folder(tmp_path / "out", force=force).__enter__()
    with pytest.raises(UserError, match=r"cannot write .*: Not a directory"):
        new_folder(tmp_path / "out" / "sub" / "out", force=force).__enter__()
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("out", ["/", "/proc/x", "/proc/self/x/y", "/dev/null/x", "x" * 300, "loop/out"])
def test_an_impossible_place_is_a_user_error_at_entry(tmp_path, monkeypatch, out, force):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="`out`") as caught:
        new_folder(out, force=force).__enter__()
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["loop"]


@pytest.mark.parametrize("action", ["mkdir", "rename"])
def test_errors_of_the_file_system_are_user_errors_and_leave_nothing(tmp_path, monkeypatch, action):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, action, fail)
    with pytest.raises(UserError, match=r"cannot write .*out: No space left on device"):
        make(tmp_path / "out")
    assert names(tmp_path) == []


def test_the_old_folder_comes_back_when_the_last_move_fails(tmp_path, monkeypatch):
    out, rename = tmp_path / "out", Path.rename
    out.mkdir()
    fill(out, "old")

    def fail(self, target):
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="Input/output error"):
        make(out, force=True)
    assert content(out) == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_run_killed_between_the_two_moves_loses_nothing(tmp_path):
    (tmp_path / ".out.replaced").mkdir()
    fill(tmp_path / ".out.replaced", "old")
    with pytest.raises(UserError, match="exists"):
        make(tmp_path / "out")
    assert content(tmp_path / "out") == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    def interfere():
        (tmp_path / "out").mkdir()
        fill(tmp_path / "out", "of another")

    with pytest.raises(UserError, match="exists"):
        make(tmp_path / "out", then=interfere)
    assert content(tmp_path / "out") == "of another"
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_keeps_pointing_where_it_did(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk/out")
    make(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert content(tmp_path / "disk" / "out") == "new"


def test_a_relative_folder_ends_where_it_began(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    make("out", then=lambda: monkeypatch.chdir("elsewhere"))
    assert content(tmp_path / "out") == "new"


def test_a_killed_run_leaves_no_output_and_the_next_one_works(tmp_path):
    out = tmp_path / "out"
    if (child := os.fork()) == 0:
        try:
            with new_folder(out) as folder:
                (folder / "half").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".out.partial" / "half").exists()
    with new_folder(out) as folder:
        assert names(folder) == []
        fill(folder)
    assert os.listdir(tmp_path) == ["out"]


# new_file


@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_appears_when_it_is_complete(tmp_path, old):
    out = tmp_path / "image.v1.png"
    if old:
        out.write_text(old)
    with new_file(out) as path:
        assert path.parent == tmp_path
        assert path.suffix == ".png"
        path.write_text("new")
        assert out.exists() == bool(old)
    assert out.read_text() == "new"
    assert names(tmp_path) == ["image.v1.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_file_leaves_the_old_one_and_nothing_else(tmp_path, error):
    (tmp_path / "x.json").write_text("old")
    for name in ("x.json", "y.json"):
        with pytest.raises(error):
            write(tmp_path / name, then=raising(error))
    assert names(tmp_path) == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "old"


@pytest.mark.parametrize("out", [".", "/", "missing/x.png", "/proc/x.png", "/dev/null", "/dev/null/x", "x" * 300])
def test_a_file_that_cannot_be_written_is_a_user_error_at_entry(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="`out`") as caught:
        new_file(out).__enter__()
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []
    assert Path("/dev/null").is_char_device()


def test_a_stale_partial_file_is_replaced(tmp_path):
    (tmp_path / ".x.partial.png").write_text("of a killed run")
    with new_file(tmp_path / "x.png") as path:
        assert path.read_text() == ""
        path.write_text("new")
    assert names(tmp_path) == ["x.png"]


def test_a_file_that_cannot_be_moved_into_place_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*x\.png"):
        write(tmp_path / "x.png", then=(tmp_path / "x.png").mkdir)
    assert names(tmp_path) == ["x.png"]
