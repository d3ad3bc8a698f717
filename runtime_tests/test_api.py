"""`import edge_hadanorm`: what the library's interface gives, of models by name and of models in memory."""

import doctest
import inspect
import re
import subprocess
import sys

import diffusers
import pytest
import torch

import edge_hadanorm
from edge_hadanorm import Checkpoint, UserError
from edge_hadanorm.cli import cli
from runtime_tests.support.tiny_pipelines import PIPELINES, save

PROMPT = {"dit": "goldfish"}
# In the order in which their examples need each other.
EXAMPLES = ("recipes", "load", "calibrate", "quantize", "evaluate", "export", "generate")


def test_the_package_alone_imports_nothing_and_knows_its_names():
    script = "import sys, edge_hadanorm as e; print('torch' in sys.modules, all(hasattr(e, n) for n in e.__all__))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="quantise"):
        edge_hadanorm.quantise  # noqa: B018


@pytest.mark.slow
def test_the_examples_of_the_docstrings_are_true(tmp_path, monkeypatch):
    """They build on each other: the checkpoint of one is exported by the next."""
    monkeypatch.chdir(tmp_path)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for name in EXAMPLES:
        for test in finder.find(getattr(edge_hadanorm, name), name, globs={"edge_hadanorm": edge_hadanorm}):
            assert test.examples, name
            runner.run(test)
    assert runner.summarize().failed == 0


def test_every_command_is_a_function_of_its_name():
    functions = {name for name in edge_hadanorm.__all__ if callable(getattr(edge_hadanorm, name))}
    assert set(cli.commands) - functions == {"bench", "demo"}  # those are in workflow and demo
    assert callable(edge_hadanorm.workflow.bench)


@pytest.mark.parametrize("name", ["quantize", "evaluate", "save", "export", "generate", "report", "calibrate"])
def test_options_are_keywords_and_documented(name):
    function = getattr(edge_hadanorm, name)
    parameters = inspect.signature(function).parameters.values()
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert options
    documented = inspect.getdoc(function) or ""
    # What is the same for several functions is documented once.
    for other in re.findall(r"[Ss]ee `(\w+)`", documented):
        documented += inspect.getdoc(getattr(edge_hadanorm, other))
    assert [option for option in options if not re.search(rf"\b{option}\b", documented)] == []


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny pipeline's folder by name, made when it is asked for."""
    made = {}

    def folder(name: str):
        if name not in made:
            made[name] = save(name, tmp_path_factory.mktemp(name) / "pipeline")
        return made[name]

    return folder


def in_memory(name: str, folder) -> diffusers.DiffusionPipeline:
    return type(PIPELINES[name]()).from_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_in_memory_is_quantized_as_its_folder_is_and_left_as_it_was(name, folders, tmp_path):
    folder = folders(name)
    pipeline = in_memory(name, folder)
    before = {key: tensor.clone() for key, tensor in pipeline.transformer.state_dict().items()}
    prompts = [PROMPT.get(name, "a red cat")]
    settings = dict(recipe="hadanorm-balanced-w4a8", prompts=prompts, steps=2, measure=False)
    ours, theirs = (edge_hadanorm.quantize(model, **settings) for model in (pipeline, str(folder)))
    assert_same(ours, theirs)
    assert all(torch.equal(tensor, before[key]) for key, tensor in pipeline.transformer.state_dict().items())
    assert ours.pipeline.settings == theirs.pipeline.settings
    assert ours.pipeline.plan(3) == theirs.pipeline.plan(3)
    for asked in (("", True), ("", False), *((prompt, negative) for prompt in prompts for negative in (False, True))):
        given, expected = ours.pipeline.prompt(*asked), theirs.pipeline.prompt(*asked)
        assert given.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in given.items())
    latents = torch.ones(1, *ours.denoiser.latent_shape())
    assert torch.equal(ours.pipeline.decoder(latents), theirs.pipeline.decoder(latents))
    edge_hadanorm.save(ours, tmp_path / "checkpoint")
    assert_same(ours, edge_hadanorm.load_checkpoint(tmp_path / "checkpoint"))


def assert_same(a: Checkpoint, b: Checkpoint) -> None:
    ours, theirs = a.denoiser.state_dict(), b.denoiser.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_a_transformer_in_memory_is_quantized_on_captured_tensors(tiny_pipeline):
    transformer = diffusers.PixArtTransformer2DModel.from_pretrained(tiny_pipeline / "transformer")
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(3, 3, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(3, 5, 32, generator=generator),
        "timestep": torch.tensor([900.0, 500.0, 100.0]),
    }
    settings = dict(recipe="hadanorm-w8a8", inputs=inputs)
    ours = edge_hadanorm.quantize(transformer, **settings)
    assert_same(ours, edge_hadanorm.quantize(str(tiny_pipeline / "transformer"), **settings))
    assert ours.pipeline is None
    assert ours.metrics["denoiser_sqnr_db"] > 30
    measured = edge_hadanorm.evaluate(ours, inputs=inputs, reference=transformer)
    assert measured == ours.metrics


def test_half_floats_in_memory_are_quantized_as_floats(tiny_pipeline):
    transformer = diffusers.PixArtTransformer2DModel.from_pretrained(tiny_pipeline / "transformer")
    ours = edge_hadanorm.load(transformer.to(torch.bfloat16))
    assert {tensor.dtype for tensor in ours.denoiser.state_dict().values()} == {torch.float32}


def test_recipes_share_a_calibration(tiny_pipeline):
    model = edge_hadanorm.load(str(tiny_pipeline))
    data = edge_hadanorm.calibrate(model, prompts=["red a"], steps=2)
    for recipe in ("hadanorm-w4a8", "hadanorm-auto-w4a8"):
        shared = edge_hadanorm.quantize(model, recipe, calibration=data, measure=False)
        assert_same(shared, edge_hadanorm.quantize(model, recipe, prompts=["red a"], steps=2, measure=False))


def test_calibration_data_are_of_the_model_that_they_were_collected_of(tiny_pipeline):
    data = edge_hadanorm.calibrate(str(tiny_pipeline), prompts=["red a"], steps=1)
    with pytest.raises(UserError, match="give their `model`"):
        edge_hadanorm.quantize(str(tiny_pipeline), "rtn-w4a8", calibration=data)
    assert edge_hadanorm.quantize(data.model, "rtn-w4a8", calibration=data, measure=False).recipe.name == "rtn-w4a8"


SAMPLED = dict(steps=3, guidance=4.0, negative="blue c", scheduler="UniPCMultistepScheduler")


def assert_sampled(pipeline) -> None:
    """That a pipeline has those defaults."""
    assert (pipeline.steps, pipeline.guidance, pipeline.negative) == (3, 4.0, "blue c")
    assert pipeline.scheduler["_class_name"] == "UniPCMultistepScheduler"


def test_what_is_asked_of_sampling_is_the_checkpoints_and_not_the_models(tiny_pipeline):
    """It is measured as it is drawn with."""
    model = edge_hadanorm.load(str(tiny_pipeline))
    quantized = edge_hadanorm.quantize(model, "rtn-w4a8", **SAMPLED)
    assert_sampled(quantized.pipeline)
    assert (model.pipeline.steps, model.pipeline.guidance, model.pipeline.negative) == (8, 1.5, "")
    assert model.pipeline.scheduler["_class_name"] == "DPMSolverMultistepScheduler"
    assert list(quantized.metrics["timesteps"]) == [str(row.timestep) for row in quantized.pipeline.plan(3).rows]
    assert edge_hadanorm.evaluate(quantized, reference=model) == quantized.metrics
    assert (
        edge_hadanorm.quantize(model, "rtn-w4a8").metrics["timesteps"].keys() != quantized.metrics["timesteps"].keys()
    )


def test_calibration_data_bring_the_sampling_that_they_were_collected_by(tiny_pipeline):
    model = edge_hadanorm.load(str(tiny_pipeline))
    data = edge_hadanorm.calibrate(model, prompts=["red a"], **SAMPLED)
    for given in (model, data.model):
        shared = edge_hadanorm.quantize(given, "hadanorm-w4a8", calibration=data, measure=False)
        assert_sampled(shared.pipeline)
    assert_same(shared, edge_hadanorm.quantize(model, "hadanorm-w4a8", prompts=["red a"], **SAMPLED, measure=False))
    plain = edge_hadanorm.quantize(model, "hadanorm-w4a8", prompts=["red a"], measure=False)
    assert not torch.equal(*(own.denoiser.state_dict()["blocks.0.ff.up.bias"] for own in (shared, plain)))


@pytest.mark.parametrize("option", SAMPLED)
def test_a_transformer_alone_is_sampled_by_nobody(tiny_pipeline, option):
    model = edge_hadanorm.load(str(tiny_pipeline / "transformer"))
    asked = {option: SAMPLED[option]}
    for call in (edge_hadanorm.quantize, edge_hadanorm.calibrate):
        with pytest.raises(UserError, match=f"transformer alone, which samples nothing: leave out `{option}`"):
            call(model, **asked)


def test_a_model_can_be_quantized_again(tiny_pipeline):
    """It is let go block by block only where nobody else has it."""
    model = edge_hadanorm.load(str(tiny_pipeline))
    first, second = (edge_hadanorm.quantize(model, "rtn-w4a8") for _ in range(2))
    assert_same(first, second)
    assert first.metrics == second.metrics == edge_hadanorm.evaluate(first, reference=model)


def test_a_saved_checkpoint_is_what_it_was(tiny_pipeline, tmp_path):
    quantized = edge_hadanorm.quantize(str(tiny_pipeline), "rtn-w4a8")
    edge_hadanorm.save(quantized, tmp_path / "checkpoint")
    again = edge_hadanorm.load_checkpoint(tmp_path / "checkpoint")
    assert_same(quantized, again)
    assert again.metrics["bits"] == quantized.metrics["bits"]
    assert str(tiny_pipeline) in edge_hadanorm.inspect(tmp_path / "checkpoint")
    with pytest.raises(UserError, match="exists"):
        edge_hadanorm.save(quantized, tmp_path / "checkpoint")


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), 5, None])
def test_what_is_no_model_is_named(model):
    with pytest.raises(UserError, match=f"{type(model).__name__} is no model"):
        edge_hadanorm.load(model)


def test_nothing_is_shown(tiny_pipeline, capfd):
    quantized = edge_hadanorm.quantize(str(tiny_pipeline), "rtn-w4a8", prompts=["red a"], steps=1)
    edge_hadanorm.evaluate(quantized)
    assert capfd.readouterr() == ("", "")
