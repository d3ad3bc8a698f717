"""`--steps`, `--guidance`, `--negative`, `--eta`, `--scheduler`: where they land in a checkpoint and its bundle."""

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
from PIL import Image

import edge_hadanorm
from edge_hadanorm import checkpoint
from edge_hadanorm.bundle import load
from edge_hadanorm.exporters import writer
from edge_hadanorm.pipelines.plans import Plan
from edge_hadanorm.pipelines.probing import probe
from runtime_tests.support.helpers import assert_answered, tree

RECIPE = "rtn-w8a8"
UNIPC = "UniPCMultistepScheduler"
OPTIONS = f"--steps 3 --guidance 4 --negative 'blue c' --scheduler {UNIPC}"
SCHEDULER = "scheduler/scheduler_config.json"


def settings(steps: int = 8, guidance: float = 1.5, negative: str = "", eta: float | None = None) -> dict:
    return {
        "kind": "ReferencePipeline",
        "steps": steps,
        "guidance": guidance,
        "prefix": "",
        "negative": negative,
        "eta": eta,
    }


def saved_sampling(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["sampling"]


def scheduler_of(folder: Path) -> dict:
    return json.loads((folder / SCHEDULER).read_text())


@pytest.fixture
def quantize(tiny_pipeline, tmp_path, run):
    """quantize(options) -> the folder of the checkpoint."""

    def quantize(options: str = "") -> Path:
        out = tmp_path / "checkpoint"
        assert run(f"quantize {tiny_pipeline} --recipe {RECIPE} {options} --out {out} --force") == (0, "")
        return out

    return quantize


# The checkpoint.


def test_what_is_asked_for_is_the_checkpoints_and_the_pipeline_stays_as_it_is(tiny_pipeline, quantize):
    before, own = tree(tiny_pipeline), scheduler_of(tiny_pipeline)
    folder = quantize(OPTIONS)
    assert saved_sampling(folder) == settings(3, 4.0, "blue c")
    config = scheduler_of(folder)
    assert config["_class_name"] == UNIPC
    made = json.loads(diffusers.UniPCMultistepScheduler.from_config(own).to_json_string())
    known = {*inspect.signature(diffusers.UniPCMultistepScheduler.__init__).parameters, "_class_name"}
    unused = {"_use_default_values", "_diffusers_version"}
    assert {key: config[key] for key in config.keys() - unused} == {key: made[key] for key in made.keys() & known}
    assert (own["flow_shift"], made["flow_shift"], diffusers.UniPCMultistepScheduler().config.flow_shift) == (
        1.5,
        1.5,
        1,
    )
    assert "_file" not in config
    assert tree(tiny_pipeline) == before


def test_it_is_loaded_with_them_and_calibrated_and_measured_by_them(tiny_pipeline, quantize):
    loaded = edge_hadanorm.load_checkpoint(quantize(OPTIONS))
    plan = loaded.pipeline.plan(3)
    own = edge_hadanorm.load(str(tiny_pipeline)).pipeline
    assert plan == probe(diffusers.UniPCMultistepScheduler.from_config(scheduler_of(tiny_pipeline)), 3)
    assert plan != own.plan(3)
    assert (loaded.pipeline.steps, loaded.pipeline.guidance, loaded.pipeline.negative) == (3, 4.0, "blue c")
    assert list(loaded.metrics["timesteps"]) == [str(row.timestep) for row in plan.rows]


def test_without_options_all_is_as_the_pipeline_has_it(tiny_pipeline, quantize):
    folder = quantize()
    assert saved_sampling(folder) == settings()
    assert (folder / SCHEDULER).read_bytes() == (tiny_pipeline / SCHEDULER).read_bytes()


def test_each_option_changes_what_it_names_alone(tiny_pipeline, quantize):
    for option, expected in (
        ("--steps 2", settings(steps=2)),
        ("--guidance 0", settings(guidance=0.0)),
        ("--negative 'blue c'", settings(negative="blue c")),
        ("--eta 0.5", settings(eta=0.5)),
    ):
        folder = quantize(option)
        assert saved_sampling(folder) == expected
        assert scheduler_of(folder) == scheduler_of(tiny_pipeline)
    folder = quantize("--scheduler DPMSolverSinglestepScheduler --steps 2")
    assert saved_sampling(folder) == settings(steps=2)
    assert scheduler_of(folder)["_class_name"] == "DPMSolverSinglestepScheduler"


def test_a_scheduler_of_a_file_or_a_folder_keeps_its_own_settings(quantize, tmp_path):
    given = diffusers.DDIMScheduler(num_train_timesteps=500, beta_schedule="scaled_linear", clip_sample=False)
    given.save_pretrained(tmp_path / "given")
    expected = json.loads((tmp_path / "given/scheduler_config.json").read_text())
    for path in ("given", "given/scheduler_config.json"):
        folder = quantize(f"--scheduler {tmp_path / path} --steps 2")
        assert scheduler_of(folder) == expected
        assert edge_hadanorm.load_checkpoint(folder).pipeline.plan(2) == probe(given, 2)


def test_a_share_of_noise_is_in_the_rows_of_a_scheduler_that_takes_one(quantize, tmp_path):
    given = diffusers.DDIMScheduler(clip_sample=False)
    given.save_pretrained(tmp_path / "given")
    folder = quantize(f"--scheduler {tmp_path / 'given'} --steps 3 --eta 0.5")
    assert saved_sampling(folder) == settings(steps=3, eta=0.5)
    plan = edge_hadanorm.load_checkpoint(folder).pipeline.plan(3)
    assert plan == probe(given, 3, eta=0.5)
    assert plan.rows[0].c[0] > 0
    assert not any(row.c for row in probe(given, 3).rows)


def test_quantized_again_by_its_own_scheduler_it_is_the_same(quantize, tmp_path):
    """What a checkpoint keeps is what another model may be given."""
    shutil.copytree(quantize(OPTIONS), tmp_path / "first")
    folder = quantize(OPTIONS.replace(UNIPC, str(tmp_path / "first/scheduler")))
    assert tree(folder) == tree(tmp_path / "first")


def test_calibration_that_was_interrupted_goes_on_for_the_same_options_alone(tiny_pipeline):
    """A state beside the output is of one way to sample."""
    model = edge_hadanorm.load(str(tiny_pipeline))
    options = [{}, {"steps": 2}, {"guidance": 4}, {"negative": "blue c"}, {"eta": 0.5}, {"scheduler": UNIPC}]
    first, again = (
        [edge_hadanorm.calibrate(model, prompts=["red a"], **own).fingerprint() for own in options] for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == len(options)


# The bundle.


@pytest.fixture
def lowered(tiny_bundle, monkeypatch):
    """Programs are those of another export of the same checkpoint: lowering takes long, and no option changes it."""
    made = tiny_bundle(RECIPE)

    def write_programs(folder, saved, target, report, options, others) -> dict[str, dict]:
        roles = ("denoiser",) if options.prompts else made.programs
        for role in roles:
            shutil.copy(made.file(role), folder)
        return {role: made.programs[role] | {"sizes": {}} for role in roles}

    monkeypatch.setattr(writer, "write_programs", write_programs)


@pytest.fixture
def export(lowered, tmp_path, run):
    """export(checkpoint, options) -> the bundle."""

    def export(folder: Path, options: str = ""):
        out = tmp_path / "bundle"
        assert run(f"export {folder} --target xnnpack {options} --out {out} --force") == (0, "")
        return load(out)

    return export


def defaults(bundle) -> tuple:
    return tuple(bundle.sampling[name] for name in ("plan", "guidance", "negative"))


@pytest.mark.slow
def test_a_bundle_has_the_defaults_of_its_checkpoint(quantize, export):
    folder = quantize(OPTIONS)
    bundle = export(folder)
    assert defaults(bundle) == ("3", 4.0, "blue c")
    saved = checkpoint.load(folder)
    assert list(bundle.plans) == [str(steps) for steps in writer.STEP_COUNTS]
    for steps in (1, 3, 20):
        assert bundle.plan(steps) == saved.pipeline.plan(steps, starts=True)
    golden = bundle.golden
    assert (golden["plan"], golden["guidance"], golden["negative"]) == defaults(bundle)


@pytest.mark.slow
def test_a_bundle_may_have_others_and_the_checkpoint_stays_as_it_is(quantize, export):
    folder = quantize(OPTIONS)
    before = tree(folder)
    bundle = export(folder, "--steps 23 --guidance 2 --negative '' --scheduler DPMSolverSinglestepScheduler")
    assert defaults(bundle) == ("23", 2.0, "")
    expected = probe(diffusers.DPMSolverSinglestepScheduler.from_config(scheduler_of(folder)), 23)
    assert replace(bundle.plan(23), starts={}) == expected
    assert list(map(int, bundle.plans)) == sorted({*writer.STEP_COUNTS, 23})
    golden = bundle.golden
    assert (golden["plan"], golden["guidance"], golden["negative"]) == defaults(bundle)
    assert tree(folder) == before == tree(bundle.file("simulation"))


@pytest.mark.slow
def test_shares_of_the_steps_are_in_the_rows(tiny_checkpoint, export):
    folder = tiny_checkpoint(RECIPE)
    bundle, pipeline = export(folder, "--guidance-steps 0.25-0.75"), checkpoint.load(folder).pipeline
    assert defaults(bundle) == ("4", 1.5, "")
    for steps in (1, 4, 8):
        assert bundle.plan(steps) == pipeline.plan(steps, starts=True).guided_between(0.25, 0.75)
    # Of four steps the second and the third are guided, and the others take the text's prediction alone.
    raw = bundle.manifest["sampling"]["plans"]["4"]["rows"]
    assert [bool(row.get("b", [0])[0]) for row in raw] == [False, True, True, False]
    assert ["negative" in step.predicted for step in bundle.plan(4).at(4)] == [False, True, True, False]
    assert bundle.plan(4).evaluations(4) == 6
    assert [step.text for step in bundle.plan(4).at(1)] == [step.text for step in pipeline.plan(4).at(1)]


@pytest.mark.slow
def test_a_bundle_is_drawn_by_its_defaults(quantize, export, tmp_path, run):
    folder = quantize(OPTIONS)
    bundle = export(folder, "--guidance-steps 0-0.5")
    line = f"generate {bundle.folder} 'red a' --out {tmp_path / 'x.png'} --seed 2"
    drawn = {}
    for options in ("", "--steps 3 --guidance 4 --negative 'blue c'", "--negative ''", "--steps 4", "--guidance 1"):
        assert run(f"{line} {options}") == (0, "")
        with Image.open(tmp_path / "x.png") as image:
            drawn[options] = image.tobytes()
    first, same, *others = drawn.values()
    assert first == same
    assert len({first, *others}) == 4


@pytest.mark.slow
def test_encoded_prompts_come_with_the_negative_prompt_and_the_empty_one(quantize, export, tmp_path, run):
    folder = quantize()
    (tmp_path / "prompts.txt").write_text("red a\ngreen b\n")
    bundle = export(folder, f"--prompts-embedded {tmp_path / 'prompts.txt'} --negative 'blue c'")
    embedded = bundle.manifest["prompt"]["embedded"]
    assert (embedded["prompts"], embedded["negatives"]) == (["red a", "green b"], ["blue c", ""])
    assert list(bundle.programs) == ["denoiser"]
    line = f"generate {bundle.folder} 'green b' --out {tmp_path / 'x.png'} --guidance 3"
    drawn = []
    for options in ("", "--negative 'blue c'", "--negative ''"):
        assert run(f"{line} {options}") == (0, "")
        with Image.open(tmp_path / "x.png") as image:
            drawn.append(image.tobytes())
    assert drawn[0] == drawn[1] != drawn[2]
    status, shown = run(f"{line} --negative 'red a'")
    assert_answered(status, shown, ["negative prompt 'red a'", "take blue c, the empty one"])


@pytest.mark.slow
def test_encoded_prompts_are_drawn_as_those_that_are_encoded_then(quantize, export):
    folder = quantize("--negative 'blue c' --guidance 3")
    drawn = []
    for options in ("", "--prompts-embedded {prompts}"):
        file = folder.parent / "prompts.txt"
        file.write_text("red a\n")
        bundle = export(folder, options.format(prompts=file))
        drawn.append(edge_hadanorm.generate(bundle, "red a", steps=4, backend="simulation").image.tobytes())
    assert drawn[0] == drawn[1]


def test_a_scheduler_that_cannot_make_some_numbers_of_steps_has_plans_of_the_others(tiny_checkpoint, monkeypatch):
    """As some have, which are asked for a plan of every number that users may want."""
    from edge_hadanorm.errors import UserError
    from edge_hadanorm.pipelines.text_to_image import TextToImage

    pipeline = checkpoint.load(tiny_checkpoint(RECIPE)).pipeline
    known = TextToImage.plan

    def plan(self, steps: int, starts: bool = False) -> Plan:
        if steps % 2:
            raise UserError("an odd number of steps")
        return known(self, steps, starts)

    monkeypatch.setattr(TextToImage, "plan", plan)
    made = writer._sampling(pipeline, None)
    assert list(map(int, made["plans"])) == [steps for steps in writer.STEP_COUNTS if steps % 2 == 0]
    pipeline.steps = 5
    with pytest.raises(UserError, match="an odd number of steps"):
        writer._sampling(pipeline, None)
