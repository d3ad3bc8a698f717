"""models/dit.py: what a class as a prompt asks of the way from a folder to a checkpoint."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from edge_hadanorm import checkpoint, workflow
from edge_hadanorm.errors import UserError
from edge_hadanorm.models.calls import read_captured
from edge_hadanorm.pipelines import loading
from runtime_tests.support.families import FAMILIES
from runtime_tests.support.helpers import randn, relative_error

CLASSES = FAMILIES["dit"].config["num_embeds_ada_norm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return FAMILIES["dit"].save(tmp_path_factory.mktemp("dit") / "transformer")


@pytest.fixture(scope="module")
def denoiser(folder):
    return loading.load(str(folder)).denoiser


def capture(file, labels):
    count = len(labels)
    tensors = {"hidden_states": randn(count, 4, 8, 8).float(), "timestep": torch.full((count,), 500)}
    save_file(tensors | {"class_labels": torch.tensor(labels)}, file)
    return file


def test_a_class_and_none_are_captured(denoiser, tmp_path):
    calls = read_captured(capture(tmp_path / "inputs.safetensors", [0, CLASSES]), denoiser)
    assert [call.prompt["label"].tolist() for call in calls] == [[0.0], [float(CLASSES)]]
    assert all(call.run(denoiser).isfinite().all() for call in calls)


@pytest.mark.parametrize("label", [-1, CLASSES + 1, 0.5])
def test_what_is_no_class_is_refused(denoiser, tmp_path, label):
    with pytest.raises(UserError, match=f"class_labels is not a class from 0 to {CLASSES - 1}"):
        read_captured(capture(tmp_path / "inputs.safetensors", [1, label]), denoiser)


def test_a_checkpoint_has_no_text(folder, tmp_path):
    workflow.quantize(str(folder), "rtn-w8a8", tmp_path / "checkpoint")
    assert checkpoint.load(tmp_path / "checkpoint").text == checkpoint.Text(0)


def test_a_pipeline_that_draws_texts_is_refused(folder, tiny_pipeline, tmp_path):
    shutil.copytree(tiny_pipeline, tmp_path / "pipeline")
    shutil.rmtree(tmp_path / "pipeline/transformer")
    shutil.copytree(folder, tmp_path / "pipeline/transformer")
    with pytest.raises(UserError, match="give its transformer folder with `inputs` instead"):
        loading.load(str(tmp_path / "pipeline"))


@pytest.mark.parametrize("name", ["dit", "pixart"])
@torch.no_grad()
def test_a_checkpoint_of_the_common_class_is_of_its_own(name, tmp_path):
    """As published ones are, which also have what the common class took besides, and positions among their weights."""
    family = FAMILIES[name]
    config = json.loads((family.save(tmp_path) / "config.json").read_text())
    config |= {"_class_name": "Transformer2DModel", "only_cross_attention": False, "num_vector_embeds": None}
    del config["norm_eps" if name == "dit" else "norm_elementwise_affine"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    transformer = family.make()
    save_file(
        transformer.state_dict() | {"pos_embed.pos_embed": transformer.pos_embed.pos_embed},
        tmp_path / "diffusion_pytorch_model.safetensors",
    )
    loaded = loading.load(str(tmp_path))
    assert loaded.transformer_class == family.source_class
    denoiser = loaded.denoiser.double()
    call = family.call(denoiser)
    assert relative_error(call.run(denoiser), family.exact(transformer.double(), call)) < family.error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "layer_norm"}, "norm_type is 'layer_norm'; only 'ada_norm_zero'"),
        ({"activation_fn": "geglu"}, "only 'gelu-approximate'"),
        ({"num_embeds_ada_norm": None}, "'num_embeds_ada_norm' is None"),
        ({"num_embeds_ada_norm": 9}, "embedding_table.weight' has shape"),
        ({"patch_size": 3}, "does not divide"),
        ({"out_channels": 3}, "out_channels 3 is less"),
        ({"num_layers": 1}, "unknown tensor"),
    ],
)
def test_another_config_is_refused(folder, tmp_path, change, message):
    shutil.copytree(folder, tmp_path / "transformer")
    file = tmp_path / "transformer/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        loading.load(str(tmp_path / "transformer"))
