"""checkpoint.py: what was saved is what is loaded, to the bit, from one folder of safetensors and JSON."""

import dataclasses
import json
import math
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_hadanorm import checkpoint, workflow
from edge_hadanorm.checkpoint import Checkpoint, Text
from edge_hadanorm.errors import UserError
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import Recipe, from_json, named
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.pixart import PixArtDenoiser
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.drawing import TorchRunner, Wish, picture
from edge_hadanorm.pipelines.schedulers import given_scheduler
from edge_hadanorm.pipelines.trajectories import Trajectories
from edge_hadanorm.quantization.calibration import calibrate
from edge_hadanorm.quantization.quantize import quantize
from edge_hadanorm.reference.model import TRANSFORMER, make_transformer
from runtime_tests.support.helpers import prompt_of

PROMPTS = ["red a", "green b"]
RECIPES = [
    "rtn-w3a8",
    "smoothquant-w5a16",
    "quarot-w16a4",
    "quarot-w2a8",
    "svdquant-r16-w4a4",
    "svdquant-r32-w16a8",
    "hadanorm-w4a4",
    "hadanorm-w6a8-static",
    "hadanorm-balanced-w4a8-g32",
    "hadanorm-balanced-w8a8-static",
    "hadanorm-folded-w4a8",
]
PLAIN = "hadanorm-balanced-w4a8-g32"

on_every_recipe = pytest.mark.parametrize("name", RECIPES)


@pytest.fixture(scope="module")
def trajectories(model):
    return Trajectories(model.pipeline, PROMPTS, 3, model.pipeline.guidance, seed=0)


@pytest.fixture(scope="module")
def saved(model, trajectories, tmp_path_factory):
    """saved(recipe) -> what was saved, and its folder."""
    samples = trajectories.samples(model.denoiser)
    moments, made = calibrate(model.denoiser, samples), {}

    def make(name: str):
        if name not in made:
            quantized = quantize(model.denoiser, named(name), moments, samples)
            content = Checkpoint(model.name, named(name), quantized, Text(8), model.pipeline)
            folder = tmp_path_factory.mktemp(name)
            checkpoint.save(folder, content)
            made[name] = content, folder
        return made[name]

    return make


@pytest.fixture(scope="module")
def wide():
    """A random denoiser of the reference's width, one block, and calls of it."""
    torch.manual_seed(0)
    transformer = make_transformer(TRANSFORMER | {"num_layers": 1})
    config = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
    denoiser = PixArtDenoiser.from_diffusers(config, transformer.state_dict()).requires_grad_(False)
    shape, width = denoiser.latent_shape(), denoiser.text_width
    return denoiser, [
        Inputs(torch.randn(1, *shape), torch.tensor([500.0]), prompt_of(torch.randn(1, 8, width))) for _ in "ab"
    ]


def header(file) -> dict[str, dict]:
    """The tensors of a safetensors file by name: dtype, shape, data_offsets."""
    with open(file, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        tensors = json.loads(stream.read(size))
    tensors.pop("__metadata__", None)
    return tensors


def file_bytes(folder, part: str) -> int:
    """Bytes in the file of `all` tensors, of those of quantized `linears`, or of what the layers before `absorbed`."""
    linears = tuple(f"{name}." for name in json.loads((folder / "config.json").read_text())["linears"])
    counts = {"all": lambda key: True, "linears": lambda key: key.startswith(linears), "absorbed": is_absorbed}[part]
    spans = {key: t["data_offsets"] for key, t in header(folder / "model.safetensors").items()}
    return sum(end - begin for key, (begin, end) in spans.items() if counts(key))


def is_absorbed(key: str) -> bool:
    return ".absorbed." in key


def contents(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# To the bit.


@on_every_recipe
def test_loaded_predictions_are_bit_equal(saved, calls, name):
    content, folder = saved(name)
    loaded = checkpoint.load(folder)
    for call in calls:
        assert torch.equal(call.run(loaded.denoiser), call.run(content.denoiser))


@on_every_recipe
def test_loaded_codes_scales_transforms_and_rest_are_bit_equal(saved, name):
    content, folder = saved(name)
    expected, loaded = content.denoiser.state_dict(), checkpoint.load(folder).denoiser.state_dict()
    assert list(loaded) == list(expected)
    for key, tensor in expected.items():
        assert loaded[key].dtype == tensor.dtype, key
        assert torch.equal(loaded[key], tensor), key


@on_every_recipe
def test_the_rest_is_loaded_as_it_was(saved, name):
    content, folder = saved(name)
    loaded = checkpoint.load(folder)
    assert (loaded.source, loaded.recipe, loaded.text) == (content.source, content.recipe, content.text)
    assert loaded.denoiser.config == content.denoiser.config
    assert not loaded.denoiser.training
    assert not any(p.requires_grad for p in loaded.denoiser.parameters())
    for key in loaded.denoiser.quantizable():
        ours, theirs = loaded.denoiser.get_submodule(key), content.denoiser.get_submodule(key)
        assert isinstance(ours, QuantizedLinear)
        assert ours.recipe == theirs.recipe
        assert ours.absorbed.layout() == theirs.absorbed.layout()
        assert ours.transform.layout() == theirs.transform.layout()


def test_the_float_rest_is_kept_exactly(saved, model):
    content, folder = saved(PLAIN)
    tensors, names = load_file(folder / "model.safetensors"), model.denoiser.quantizable()
    rest = {key for key in model.denoiser.state_dict() if key.rpartition(".")[0] not in names}
    assert {key for key in tensors if not key.startswith(tuple(f"{n}." for n in names))} == rest
    for key in rest:
        assert tensors[key].dtype == torch.float32
        assert torch.equal(tensors[key], content.denoiser.state_dict()[key]), key


def test_saving_what_was_loaded_gives_the_same_file(saved, tmp_path):
    _, folder = saved(PLAIN)
    checkpoint.save(tmp_path, checkpoint.load(folder))
    assert contents(tmp_path) == contents(folder)
    for name in contents(folder):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_loaded_checkpoint_draws_the_same_picture(saved):
    content, folder = saved(PLAIN)
    loaded = checkpoint.load(folder)
    expected, actual = (
        picture(TorchRunner(c.denoiser, c.pipeline), Wish("red a", c.pipeline.plan(4), 1.5, 7))
        for c in (content, loaded)
    )
    assert torch.equal(actual, expected)


def test_layers_of_different_recipes_are_kept(wide, tmp_path):
    """The file says it of every linear, so that mixed precision needs no new format."""
    denoiser, calls = wide
    four, eight = (quantize(denoiser, named(f"quarot-w{bits}a8"), None) for bits in (4, 8))
    four.set_submodule("blocks.0.ff.down", eight.get_submodule("blocks.0.ff.down"))
    checkpoint.save(tmp_path, Checkpoint("wide", named("quarot-w4a8"), four, Text(8), None))
    loaded = checkpoint.load(tmp_path).denoiser
    assert loaded.get_submodule("blocks.0.ff.down").recipe.weight_bits == 8
    assert torch.equal(calls[0].run(loaded), calls[0].run(four))


# On its own.


def test_a_checkpoint_loads_and_draws_without_the_model_it_was_made_of(tiny_pipeline, tmp_path):
    original, folder = tmp_path / "original", tmp_path / "quantized"
    shutil.copytree(tiny_pipeline, original)
    workflow.quantize(str(original), "hadanorm-w4a8", folder, PROMPTS, steps=2)
    draw = [folder, "red a", 2, 1.5, 3]

    def drawn(folder, prompt, steps, guidance, seed):
        loaded = checkpoint.load(folder)
        return picture(
            TorchRunner(loaded.denoiser, loaded.pipeline), Wish(prompt, loaded.pipeline.plan(steps), guidance, seed)
        )

    before = drawn(*draw)
    shutil.rmtree(original)
    moved = folder.rename(tmp_path / "moved")
    assert torch.equal(drawn(moved, *draw[1:]), before)


def test_a_checkpoint_holds_safetensors_and_json_alone(saved):
    _, folder = saved(PLAIN)
    assert {name.rpartition(".")[2] for name in contents(folder)} == {"json", "safetensors"}
    assert contents(folder) >= {
        "config.json",
        "recipe.json",
        "model.safetensors",
        "about.json",
        "tokenizer/tokenizer.json",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    }


def test_pickles_and_strays_of_the_pipeline_stay_behind(model, saved, tiny_pipeline, tmp_path):
    content, _ = saved(PLAIN)
    source_folder, folder = tmp_path / "pipeline", tmp_path / "quantized"
    shutil.copytree(tiny_pipeline, source_folder)
    for stray in ("pytorch_model.bin", "spiece.model", ".DS_Store"):
        (source_folder / "text_encoder" / stray).write_bytes(b"stray")
    (source_folder / "tokenizer" / ".cache").mkdir()
    folder.mkdir()
    pipeline = loading.load(str(source_folder)).pipeline
    checkpoint.save(folder, dataclasses.replace(content, pipeline=pipeline))
    assert {name.rpartition(".")[2] for name in contents(folder)} == {"json", "safetensors"}


def test_a_transformer_alone_has_three_files(wide, tmp_path):
    denoiser, calls = wide
    quantized = quantize(denoiser, named("quarot-w4a4"), None)
    checkpoint.save(tmp_path, Checkpoint("wide", named("quarot-w4a4"), quantized, Text(120, masked=True), None))
    assert contents(tmp_path) == {"config.json", "recipe.json", "model.safetensors"}
    loaded = checkpoint.load(tmp_path)
    assert loaded.pipeline is None
    assert loaded.text == Text(120, masked=True)
    assert torch.equal(calls[0].run(loaded.denoiser), calls[0].run(quantized))


# What the files say.


@on_every_recipe
def test_recipe_json_is_the_recipe(saved, name):
    _, folder = saved(name)
    fields = json.loads((folder / "recipe.json").read_text())
    assert fields == named(name).to_json()
    assert from_json(fields) == named(name)


def layout(*parts: str) -> dict:
    """As config.json says it: centre, dynamic, scale, and a rotation of one factor by its order, `H32`."""
    has = {part: part in parts for part in ("centre", "dynamic", "scale")}
    orders = [int(part.removeprefix("H")) for part in parts if part.startswith("H")]
    return has | {"rotation": [[order, 1] for order in orders]}


BLOCK = f"H{Recipe.block}"
# Of a dynamic centre, a scale and a rotation: who absorbs, what, and what is left online.
FOLDING = {
    "attn1.qkv": ("modulation", ("centre", "scale"), ("dynamic", BLOCK)),
    "attn1.out": ("values", ("centre", "scale", "H32"), ()),
    "attn2.q": (None, (), ("centre", "scale", BLOCK)),
    "attn2.kv": (None, (), ("centre", "dynamic", "scale", BLOCK)),
    "attn2.out": ("values", ("centre", "scale", "H32"), ()),
    "ff.up": ("modulation", ("centre", "scale"), ("dynamic", BLOCK)),
    "ff.down": (None, (), ("centre", "scale", BLOCK)),
}


def test_config_json_says_how_to_read_the_tensors(saved, model):
    content, folder = saved(PLAIN)
    config = json.loads((folder / "config.json").read_text())
    assert list(config) == ["format", "source", "transformer_class", "transformer", "text", "sampling", "linears"]
    assert config["format"] == checkpoint.FORMAT
    assert config["source"] == model.name
    assert config["transformer_class"] == "PixArtTransformer2DModel"
    assert config["transformer"] == model.config
    assert config["text"] == {"tokens": 8, "masked": False}
    assert config["sampling"] == {
        "kind": "ReferencePipeline",
        "steps": 8,
        "guidance": 1.5,
        "prefix": "",
        "negative": "",
        "eta": None,
    }
    assert list(config["linears"]) == model.denoiser.quantizable()
    for name, linear in config["linears"].items():
        producer, absorbed, transform = FOLDING[name.split(".", 2)[2]]
        assert linear == {
            "producer": producer,
            "absorbed": layout(*absorbed),
            "transform": layout(*transform),
            "recipe": content.recipe.to_json(),
        }


@on_every_recipe
def test_codes_take_their_bits_in_the_file(saved, name):
    content, folder = saved(name)
    tensors = header(folder / "model.safetensors")
    for linear in content.denoiser.quantizable():
        shape = list(content.denoiser.get_submodule(linear).weight.shape)
        if content.recipe.weight_bits == 16:
            assert tensors[f"{linear}.float_weight"]["shape"] == shape
            assert f"{linear}.packed" not in tensors
            continue
        packed = tensors[f"{linear}.packed"]
        assert packed["dtype"] == "U8"
        assert packed["shape"] == [math.ceil(math.prod(shape) * content.recipe.weight_bits / 8)]
        assert f"{linear}.codes" not in tensors
        assert f"{linear}.float_weight" not in tensors


@pytest.mark.parametrize("method", ["rtn", "hadanorm", "hadanorm-balanced"])
def test_4_bit_linears_take_less_than_0_60_bytes_a_parameter(wide, tmp_path, method):
    denoiser, calls = wide
    samples = [lambda call=call: call.run(denoiser) for call in calls]
    recipe = named(f"{method}-w4a4")
    quantized = quantize(denoiser, recipe, calibrate(denoiser, samples))
    checkpoint.save(tmp_path, Checkpoint("wide", recipe, quantized, Text(8), None))
    parameters = sum(denoiser.get_submodule(name).weight.numel() for name in denoiser.quantizable())
    assert 0.5 < file_bytes(tmp_path, "linears") / parameters < 0.60


@on_every_recipe
def test_bits_summary_counts_the_bytes_of_the_file_but_for_what_was_absorbed(saved, name):
    """That is in the weights of the layers before already; the file keeps it for comparisons, a device needs none."""
    content, folder = saved(name)
    summary = bits_summary(content.denoiser)
    everything, linears, absorbed = (file_bytes(folder, part) for part in ("all", "linears", "absorbed"))
    assert summary["quantized_bytes"] == linears - absorbed
    assert summary["rest_bytes"] == everything - linears
    # Of centre and scale, absorbed for four of a block's seven inputs of 64 features.
    recipe = content.recipe
    assert absorbed == 2 * 4 * 64 * 4 * ((recipe.centre != "none") + (recipe.scale != "none"))


# How it samples.


def resampled(content: Checkpoint, folder, **defaults):
    """Save it with other defaults of sampling; returns what is loaded, and the config."""
    folder.mkdir()
    pipeline = content.pipeline.with_defaults(**defaults)
    checkpoint.save(folder, dataclasses.replace(content, pipeline=pipeline))
    return checkpoint.load(folder), json.loads((folder / "config.json").read_text())


def test_defaults_of_sampling_are_kept(saved, tmp_path):
    loaded, config = resampled(saved(PLAIN)[0], tmp_path / "own", steps=3, guidance=4.5, negative="green b", eta=0.25)
    expected = {"kind": "ReferencePipeline", "steps": 3, "guidance": 4.5, "prefix": "", "negative": "green b"}
    assert config["sampling"] == loaded.pipeline.settings == expected | {"eta": 0.25}


def test_a_negative_prompt_that_is_kept_is_drawn_with(saved, tmp_path):
    content = saved(PLAIN)[0]
    loaded, _ = resampled(content, tmp_path / "own", negative="green b")

    def drawn(pipeline, negative: str) -> torch.Tensor:
        return picture(TorchRunner(loaded.denoiser, pipeline), Wish("red a", pipeline.plan(3), 3, 7, negative))

    assert torch.equal(drawn(loaded.pipeline, loaded.pipeline.negative), drawn(content.pipeline, "green b"))
    assert not torch.equal(drawn(loaded.pipeline, loaded.pipeline.negative), drawn(content.pipeline, ""))


def test_another_scheduler_is_kept_and_the_pipelines_own_stays_as_it_is(saved, tiny_pipeline, tmp_path):
    content, file = saved(PLAIN)[0], "scheduler/scheduler_config.json"
    before = (tiny_pipeline / file).read_bytes()
    other = given_scheduler("UniPCMultistepScheduler", content.pipeline.scheduler)
    loaded, config = resampled(content, tmp_path / "own", scheduler=other)
    assert json.loads((tmp_path / "own" / file).read_text())["_class_name"] == "UniPCMultistepScheduler"
    assert "scheduler" not in config["sampling"]  # it has a folder of its own, as in diffusers
    assert loaded.pipeline.plan(5) == content.pipeline.with_defaults(scheduler=other).plan(5)
    assert loaded.pipeline.plan(5) != content.pipeline.plan(5)
    assert (tiny_pipeline / file).read_bytes() == before
    again, _ = resampled(loaded, tmp_path / "again", steps=5)
    assert again.pipeline.plan(5) == loaded.pipeline.plan(5)


def test_a_scheduler_that_nothing_takes_the_place_of_is_the_same_file(saved, tiny_pipeline):
    name = "scheduler/scheduler_config.json"
    assert (saved(PLAIN)[1] / name).read_bytes() == (tiny_pipeline / name).read_bytes()


@pytest.mark.parametrize("without", [["negative"], ["eta"], ["negative", "eta"]])
def test_a_checkpoint_that_leaves_out_what_is_new_loads(saved, tmp_path, without):
    """As those do that were made before there was a name for it."""
    content, folder = saved(PLAIN)[0], tmp_path / "checkpoint"
    shutil.copytree(saved(PLAIN)[1], folder)
    edited("config.json", lambda c: [c["sampling"].pop(name) for name in without])(folder)
    assert checkpoint.load(folder).pipeline.settings == content.pipeline.settings


# What is broken.


def edited(file: str, change):
    """A JSON file with one change."""

    def edit(folder):
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return edit


def tensors_edited(change):
    def edit(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


def cut(file: str):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-100])


def gone(file: str):
    return lambda folder: (folder / file).unlink()


def filled(name: str, value: float):
    return tensors_edited(lambda tensors: tensors[name].fill_(value))


def without(name: str):
    return tensors_edited(lambda tensors: tensors.pop(name))


def shorter(name: str):
    return tensors_edited(lambda tensors: tensors.update({name: tensors[name][:-1].clone()}))


UP, QUERY = "blocks.1.ff.up", "blocks.1.attn2.q"
BROKEN = {
    "no config": (gone("config.json"), "is no quantized checkpoint"),
    "no recipe": (gone("recipe.json"), "is no quantized checkpoint"),
    "no tensors": (gone("model.safetensors"), "model.safetensors"),
    "truncated config": (cut("config.json"), "config.json .*JSON"),
    "truncated tensors": (cut("model.safetensors"), "model.safetensors .*truncated"),
    "a diffusers config": (lambda folder: (folder / "config.json").write_text("{}"), "format"),
    "newer": (edited("config.json", lambda c: c.update(format=99)), "newer edge-hadanorm .*; update"),
    "older": (edited("config.json", lambda c: c.update(format=1)), "older edge-hadanorm .*; quantize again"),
    "another family": (edited("config.json", lambda c: c.update(transformer_class="Flux")), "'Flux' is not supported"),
    "no linears": (edited("config.json", lambda c: c.pop("linears")), "linears"),
    "a linear less": (edited("config.json", lambda c: c["linears"].pop(UP)), UP),
    "no online transform": (edited("config.json", lambda c: c["linears"][UP].pop("transform")), "'transform'"),
    "nothing absorbed": (edited("config.json", lambda c: c["linears"][UP].pop("absorbed")), "'absorbed'"),
    "a centre in name alone": (
        edited("config.json", lambda c: c["linears"][UP]["transform"].update(centre=True)),
        f"{UP}.transform.centre is missing",
    ),
    "a scale that config.json does not know": (
        edited("config.json", lambda c: c["linears"][UP]["absorbed"].update(scale=False)),
        f"{UP}.absorbed.inverse_scale",
    ),
    "an impossible rotation": (
        edited("config.json", lambda c: c["linears"][UP]["transform"].update(rotation=[[50, 1]])),
        "order 50",
    ),
    "an unknown default": (edited("config.json", lambda c: c["sampling"].update(cfg=1)), "broken .*cfg"),
    "no default steps": (edited("config.json", lambda c: c["sampling"].pop("steps")), "broken .*steps"),
    "no scheduler": (gone("scheduler/scheduler_config.json"), "scheduler_config.json"),
    "no text": (edited("config.json", lambda c: c.pop("text")), "text"),
    "an impossible recipe": (edited("recipe.json", lambda c: c.update(weight_bits=9)), "weight_bits is 9"),
    "no float weight": (without("final.weight"), "final.weight"),
    "an unknown tensor": (tensors_edited(lambda t: t.update(stray=torch.ones(1))), "stray"),
    "an unknown tensor of a linear": (
        tensors_edited(lambda t: t.update({f"{UP}.stray": torch.ones(1)})),
        f"{UP}.stray",
    ),
    "a range of dynamic activations": (
        tensors_edited(lambda t: t.update({f"{UP}.activation_scale": torch.ones(())})),
        f"{UP}.activation_scale",
    ),
    "NaN": (filled("final.weight", float("nan")), "final.weight"),
    "infinite scales": (filled(f"{UP}.weight_scale", float("inf")), f"{UP}.weight_scale"),
    "no tokenizer": (gone("tokenizer/tokenizer.json"), "tokenizer.json"),
    "no text encoder": (gone("text_encoder/model.safetensors"), "text encoder"),
}
TENSORS = {
    UP: ("packed", "weight_scale", "bias", "absorbed.centre", "absorbed.inverse_scale"),
    QUERY: ("transform.centre", "transform.inverse_scale"),
}
for name, tensor in [(name, tensor) for name, tensors in TENSORS.items() for tensor in tensors]:
    BROKEN[f"no {tensor}"] = without(f"{name}.{tensor}"), f"{name}.{tensor}"
    BROKEN[f"a shorter {tensor}"] = shorter(f"{name}.{tensor}"), f"{name}.{tensor}"


LOW_RANK = {
    f"{damage.__name__} {part}": (damage(f"{UP}.low_rank.{part}"), f"{UP}.low_rank.{part}")
    for part in ("down", "up")
    for damage in (without, shorter)
}
LOW_RANK |= {
    "another rank": (edited("config.json", lambda c: c["linears"][UP]["recipe"].update(rank=8)), f"{UP}.low_rank.down"),
    "no rank": (edited("config.json", lambda c: c["linears"][UP]["recipe"].pop("rank")), f"{UP}.low_rank.down"),
}


@pytest.mark.parametrize(("damage", "message"), LOW_RANK.values(), ids=LOW_RANK)
def test_a_broken_branch_is_one_line_that_names_its_tensor(saved, tmp_path, damage, message):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved("svdquant-r16-w4a4")[1], folder)
    damage(folder)
    with pytest.raises(UserError, match=message):
        checkpoint.load(folder)


def test_a_checkpoint_whose_recipes_have_no_rank_loads(saved, calls, tmp_path):
    """As those did that were made before there was one."""
    content, folder = saved(PLAIN)[0], tmp_path / "checkpoint"
    shutil.copytree(saved(PLAIN)[1], folder)
    edited("recipe.json", lambda recipe: recipe.pop("rank"))(folder)
    edited("config.json", lambda c: [linear["recipe"].pop("rank") for linear in c["linears"].values()])(folder)
    loaded = checkpoint.load(folder)
    assert loaded.recipe == content.recipe
    assert torch.equal(calls[0].run(loaded.denoiser), calls[0].run(content.denoiser))


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_checkpoint_is_one_line_that_names_what_is_wrong(saved, tmp_path, damage, message):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved(PLAIN)[1], folder)
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        checkpoint.load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
