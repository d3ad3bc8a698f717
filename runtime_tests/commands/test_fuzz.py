"""Whatever is in a file that is parsed: it is read, or refused in a line, in little memory and time."""

import json
import resource
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from edge_hadanorm import checkpoint, workflow
from edge_hadanorm.bundle import Bundle, load
from edge_hadanorm.bundle.prompts import BundlePrompts
from edge_hadanorm.bundle.schema import MANIFEST
from edge_hadanorm.errors import UserError
from edge_hadanorm.method import recipe
from edge_hadanorm.models.calls import read_captured
from edge_hadanorm.pipelines.drawing import Wish
from edge_hadanorm.pipelines.plans import Plan
from edge_hadanorm.pipelines.sampling import sample
from edge_hadanorm.pipelines.schedulers import given_scheduler
from edge_hadanorm.pipelines.text_encoders import PromptTokenizer
from edge_hadanorm.tensor_files import read_shapes, read_tensors, write_tensors
from runtime_tests.device.machine import RunnerError
from runtime_tests.device.script import write_script
from runtime_tests.support.mutations import document, safetensors
from runtime_tests.support.tiny_pipelines import tokenizer

pytestmark = pytest.mark.slow

MEMORY = 1 << 30


def fuzz(examples: int) -> settings:
    """The same examples in every run; one that takes as long as the deadline hangs."""
    return settings(
        max_examples=examples,
        deadline=timedelta(seconds=60),
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    """No file here is larger than a few megabytes, and reading one takes no gigabyte."""
    status = Path("/proc/self/status")
    if not status.exists():
        yield
        return
    used = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmData:")) << 10
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def answered(read: Callable[..., object], *arguments: object) -> None:
    """That it returns or raises UserError with a line."""
    try:
        read(*arguments)
    except UserError as error:
        message = str(error)
    else:
        return
    assert "\n" not in message, message


# The model and what is made of it, once: mutations go into copies.


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    """Captured inputs of the tiny transformer."""
    return {
        "hidden_states": torch.zeros(2, 3, 8, 8),
        "encoder_hidden_states": torch.ones(2, 8, 32),
        "timestep": torch.tensor([500.0, 100.0]),
        "encoder_attention_mask": torch.ones(2, 8),
    }


@pytest.fixture(scope="module")
def alone(tiny_pipeline, inputs, place) -> Path:
    """The checkpoint of a transformer alone."""
    write_tensors(place / "captured.safetensors", inputs)
    model, given = str(tiny_pipeline / "transformer"), place / "captured.safetensors"
    workflow.quantize(model, "hadanorm-w4a8", place / "alone", inputs=given)
    return place / "alone"


@pytest.fixture(scope="module")
def folder(tiny_bundle, place) -> Path:
    return Path(shutil.copytree(tiny_bundle("rtn-w8a8").folder, place / "bundle"))


@pytest.fixture(scope="module")
def manifest(tiny_bundle) -> dict:
    return tiny_bundle("rtn-w8a8").manifest


@pytest.fixture(scope="module")
def tokenizers(tiny_pipeline, place) -> dict[str, PromptTokenizer]:
    """One that knows some words, and one that knows every byte."""
    tokenizer("$A <eos>", 16).backend_tokenizer.save(str(place / "bytes.json"))
    return {
        "words": PromptTokenizer(tiny_pipeline / "tokenizer/tokenizer.json", 8),
        "bytes": PromptTokenizer(place / "bytes.json", 16, kept=([0, *range(8, 16)], [*range(9)])),
    }


# JSON and text.


@fuzz(60)
@given(data=st.data())
def test_a_manifest(folder, manifest, data):
    (folder / MANIFEST).write_bytes(data.draw(document(manifest)))

    def read() -> None:
        loaded = load(folder)
        assert all(loaded.file(role).exists() for role in loaded.programs)
        assert all(plan.steps for plan in loaded.plans.values())
        assert all(plan.at(plan.guidance or 1.5) for plan in loaded.plans.values())
        for negative in (False, True):
            BundlePrompts(loaded)("red a", negative, lambda role, given: [torch.zeros(1, 8, 32)])

    answered(read)


@fuzz(200)
@given(text=document(recipe.named("hadanorm-auto-w4a8-g32").to_json()))
@example(text=b"[" * 100_000)
@example(text=b'{"name": "x", "weight_bits": ' + b"9" * 5000 + b"}")
@example(text=b'\xff{"name": "x"}')
def test_a_recipe(place, text):
    (place / "recipe.json").write_bytes(text)
    answered(recipe.load, str(place / "recipe.json"))


@fuzz(60)
@given(data=st.data())
@pytest.mark.parametrize("name", ["config.json", "recipe.json"])
def test_what_a_checkpoint_says_of_itself(alone, place, name, data):
    broken = place / "checkpoint"
    shutil.copytree(alone, broken, dirs_exist_ok=True)
    (broken / name).write_bytes(data.draw(document(json.loads((alone / name).read_text()))))
    answered(checkpoint.load, broken)


@fuzz(150)
@given(data=st.data())
def test_a_tokenizer(tiny_pipeline, place, data):
    content = json.loads((tiny_pipeline / "tokenizer/tokenizer.json").read_text())
    (place / "tokenizer.json").write_bytes(data.draw(document(content)))
    answered(lambda: PromptTokenizer(place / "tokenizer.json", 8).inputs("red a"))


@fuzz(300)
@given(
    prompt=st.text(max_size=40) | st.lists(st.sampled_from(["red", "a", "\n", "\0", "\udcff", "<pad>"])).map(" ".join),
    negative=st.booleans(),
)
@example(prompt="\udcff", negative=False)
@example(prompt="\udcff", negative=True)
@pytest.mark.parametrize("name", ["words", "bytes"])
def test_a_prompt(tokenizers, name, prompt, negative):
    answered(tokenizers[name].inputs, prompt, negative)


@fuzz(80)
@given(data=st.data())
@pytest.mark.parametrize("steps", [1, 3])
def test_a_scheduler(model, place, steps, data):
    own, file = model.pipeline.scheduler, place / "scheduler.json"
    file.write_bytes(data.draw(document({name: own[name] for name in own if name != "_file"})))
    answered(lambda: model.pipeline.with_defaults(steps=steps, scheduler=given_scheduler(file, own)))


@fuzz(200)
@given(data=st.data())
def test_a_plan(manifest, data):
    text = data.draw(document(manifest["sampling"]["plans"]["4"]))

    def read() -> None:
        try:
            changed = json.loads(text)
        except (ValueError, RecursionError):
            return
        x = torch.zeros(1, 1, 2, 2)
        sample(lambda latents, timestep, names: [latents] * len(names), Plan.from_json(changed), 1.5, lambda number: x)

    answered(read)


@pytest.mark.parametrize("count", [10**7, 2**63, 10**400], ids=["millions", "64 bits", "more"])
def test_layers_without_tensors_are_not_made(alone, place, count):
    """Found by putting every number in every place of config.json."""
    broken = place / "layers"
    shutil.copytree(alone, broken, dirs_exist_ok=True)
    config = json.loads((alone / "config.json").read_text())
    config["transformer"]["num_layers"] = count
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"num_layers is .*, of which model"):
        checkpoint.load(broken)


# safetensors.


@fuzz(150)
@given(data=st.data())
@pytest.mark.parametrize("read", [read_tensors, read_shapes], ids=lambda read: read.__name__)
def test_tensors(inputs, place, read, data):
    (place / "x.safetensors").write_bytes(data.draw(safetensors(save(inputs))))
    answered(read, place / "x.safetensors")


@fuzz(200)
@given(data=st.data())
def test_captured_inputs(model, inputs, place, data):
    (place / "x.safetensors").write_bytes(data.draw(safetensors(save(inputs))))
    answered(read_captured, place / "x.safetensors", model.denoiser)


@fuzz(60)
@given(data=st.data())
def test_the_tensors_of_a_checkpoint(alone, place, data):
    broken = place / "checkpoint"
    shutil.copytree(alone, broken, dirs_exist_ok=True)
    (broken / "model.safetensors").write_bytes(data.draw(safetensors((alone / "model.safetensors").read_bytes())))
    answered(checkpoint.load, broken)


@fuzz(150)
@given(data=st.data())
def test_embedded_prompts(manifest, place, data):
    prompts = {"file": "prompts.safetensors", "prompts": ["red a", "blue c"], "negatives": [""]}
    manifest = manifest | {"prompt": manifest["prompt"] | {"encoders": {}, "embedded": prompts}}
    manifest["files"] = {"prompts.safetensors": {"sha256": "0" * 64, "bytes": 0}}
    content = save({"text": torch.zeros(3, 8, 32), "mask": torch.ones(3, 8)})
    (place / "prompts.safetensors").write_bytes(data.draw(safetensors(content)))
    for prompt, negative in (("blue c", False), ("", True)):
        answered(lambda: BundlePrompts(Bundle(place, manifest))(prompt, negative, None))  # noqa: B023 (called at once)


# The native runner's script.

FIELDS = [
    "",
    "x",
    "y",
    "0",
    "1",
    "2",
    "-1",
    "1,2",
    "99999999999",
    "4294967296,4294967296",
    "1.5",
    "nan",
    "float32",
    "int64",
]
KINDS = ["tensor", "call", "load", "unload", "close", "forget", "noise", "step", "sample", "write"]


@st.composite
def script(draw, right: list[list[str]]) -> str:
    """Lines of a script, with a few fields changed, added or left out."""
    lines = [list(line) for line in right]
    for _ in range(draw(st.integers(1, 3))):
        line = draw(st.sampled_from(lines))
        place = draw(st.integers(0, len(line) - 1))
        mutation = draw(st.sampled_from(["replace", "replace", "delete", "insert", "kind"]))
        if mutation == "kind":
            line[0] = draw(st.sampled_from(KINDS))
        elif mutation == "delete" and len(line) > 1:
            del line[place]
        elif mutation == "insert":
            line.insert(place, draw(st.sampled_from(FIELDS)))
        else:
            line[place] = draw(st.sampled_from(FIELDS))
    return "".join("\t".join(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def right(host, tiny_bundle, place) -> list[list[str]]:
    """The script of a picture in two steps."""
    (place / "script").mkdir()
    made = tiny_bundle("rtn-w8a8")
    file = write_script(place / "script", made, Wish("red a", made.plan(2), 1.5, 3))
    host.call(["generate", file])
    return [line.split("\t") for line in file.read_text().splitlines()]


@fuzz(120)
@given(data=st.data())
def test_a_script_of_the_native_runner(host, right, place, data):
    file = place / "script" / "broken.tsv"
    file.write_text(data.draw(script(right)))
    try:
        host.call(["generate", file])
    except RunnerError as error:
        ended = error
    else:
        return
    assert 2 <= ended.status <= 8, ended  # 9 would be a crash
    assert ended.line.startswith("runner: ")
