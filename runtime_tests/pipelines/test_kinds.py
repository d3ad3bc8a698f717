"""kinds.py: a row's defaults are those of the pipeline class, and loading a pipeline does not import the class."""

import inspect
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest

from edge_hadanorm import bundle
from edge_hadanorm.pipelines.kinds import KINDS
from edge_hadanorm.reference.pipeline import ReferencePipeline

CLASSES = {name: getattr(diffusers, name) for name in KINDS if name != "ReferencePipeline"}
CLASSES["ReferencePipeline"] = ReferencePipeline


@pytest.mark.parametrize("name", KINDS)
def test_defaults_are_those_of_the_class(name):
    signature = inspect.signature(CLASSES[name].__call__).parameters
    kind = KINDS[name]
    assert kind.steps == signature["num_inference_steps"].default
    assert kind.guidance == signature["guidance_scale"].default


@pytest.mark.parametrize("name", KINDS)
def test_the_text_before_a_prompt_is_that_of_the_class(name):
    instruction = inspect.signature(CLASSES[name].__call__).parameters.get("complex_human_instruction")
    assert KINDS[name].prefix == ("\n".join(instruction.default) if instruction else "")


def test_components_are_those_that_the_class_is_made_of():
    for name, kind in KINDS.items():
        arguments = set(inspect.signature(CLASSES[name].__init__).parameters)
        assert {*kind.components, "transformer"} <= arguments, name


def test_loading_a_pipeline_imports_neither_its_class_nor_the_reference(tiny_pipeline):
    script = (
        "import sys\nfrom edge_hadanorm.pipelines import loading\nmodel = loading.load(sys.argv[1])\n"
        "print(model.pipeline.steps, model.pipeline.guidance)\n"
        "print([name for name in sys.modules if name.startswith(('edge_hadanorm.reference', 'diffusers.pipelines.'))])"
    )
    root = Path(bundle.__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", script, tiny_pipeline], cwd=root, capture_output=True, text=True, check=True
    )
    assert output.stdout.splitlines() == ["8 1.5", "[]"]
