"""Every family: diffusers' own prediction, exact folding, and the way from its folder to a program that runs."""

import dataclasses
from pathlib import Path

import pytest
import torch
from executorch.runtime import Runtime
from safetensors.torch import save_file

from edge_hadanorm import bundle, checkpoint, files, workflow
from edge_hadanorm.exporters import writer
from edge_hadanorm.method.fold import fold
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import named, settle_centre
from edge_hadanorm.models import FAMILIES as FORMS
from edge_hadanorm.models import pixart
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import ARGUMENTS
from edge_hadanorm.pipelines import loading
from edge_hadanorm.quantization import quantize as quantization
from edge_hadanorm.quantization.calibration import calibrate, observe_inputs
from edge_hadanorm.quantization.quantize import build_transform
from runtime_tests.support.families import FAMILIES, last
from runtime_tests.support.helpers import relative_error

EXPORTED = "hadanorm-balanced-w8a8"
# Of so many weights a linear of the rest is large for members as small as these.
LARGE = 1 << 12
METHODS = ("smoothquant", "quarot", "hadanorm", "hadanorm-balanced", "hadanorm-folded")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return family.save(tmp_path_factory.mktemp("family") / "transformer")


@pytest.fixture(scope="module")
def denoiser(folder):
    """In float64."""
    return loading.load(str(folder)).denoiser.double()


@pytest.fixture(scope="module")
def moments(family, denoiser):
    calls = [family.call(denoiser, seed, timestep=t) for seed, t in ((0, 900.0), (20, 500.0), (40, 100.0))]
    return calibrate(denoiser, [lambda call=call: call.run(denoiser) for call in calls])


def test_every_form_has_a_member():
    assert set(FORMS) == {family.source_class for family in FAMILIES.values()}


@pytest.mark.parametrize("timestep", [1.0, 412.5, 999.0])
@torch.no_grad()
def test_the_denoiser_is_diffusers_transformer(family, denoiser, timestep):
    call = family.call(denoiser, timestep=timestep)
    expected = family.exact(family.make().double(), call)
    actual = call.run(denoiser)
    assert actual.shape == call.latents.shape
    assert relative_error(actual, expected) < family.error


@torch.no_grad()
def test_stages_are_the_denoiser_block_by_block(family, denoiser):
    """Every linear is given the same, in the order in which the stages name them."""
    call, names = family.call(denoiser), denoiser.quantizable()
    whole, staged = {}, {}
    with observe_inputs(denoiser, names, lambda name, x, *_: whole.__setitem__(name, x)):
        call.run(denoiser)
    state = denoiser.begin(call.latents, call.timestep, **call.prompt)
    assert all(part is None or len(part) == len(call.latents) for part in state)
    with observe_inputs(denoiser, names, lambda name, x, *_: staged.__setitem__(name, x)):
        for stage, own in enumerate(denoiser.stages()):
            before = set(staged)
            state = denoiser.advance(stage, state)
            assert set(staged) - before == set(own)
    assert set(whole) == set(names)
    for name in names:
        assert relative_error(staged[name], whole[name]) < 1e-12, name


@torch.no_grad()
def test_a_call_that_goes_block_by_block_ends_in_the_prediction(family, denoiser):
    call = family.call(denoiser)
    state = denoiser.begin(call.latents, call.timestep, **call.prompt)
    for stage in range(len(denoiser.stages())):
        state = denoiser.advance(stage, state)
        assert all(part is None or len(part) == len(call.latents) for part in state)
    assert relative_error(denoiser.finish(state), call.run(denoiser)) < 1e-10


@torch.no_grad()
def test_pictures_of_a_batch_do_not_depend_on_each_other(family, denoiser):
    call = family.call(denoiser)
    for i, whole in enumerate(call.run(denoiser)):
        prompt = {name: tensor[i : i + 1] for name, tensor in call.prompt.items()}
        alone = dataclasses.replace(call, latents=call.latents[i : i + 1], prompt=prompt)
        assert relative_error(alone.run(denoiser)[0], whole) < 1e-12


@torch.no_grad()
def test_keys_and_values_of_a_text_may_be_made_anew(family, denoiser, monkeypatch):
    """To the bit; a family that keeps none has nothing to make."""
    call = family.call(denoiser)
    expected = call.run(denoiser)
    monkeypatch.setattr(pixart, "KEPT_BYTES", 0)
    monkeypatch.setattr(pixart, "SHORT_TEXT", 1.0)
    assert torch.equal(call.run(denoiser), expected)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_folding_is_exact(family, denoiser, moments, method):
    """And what is absorbed and what stays online make the transform that was asked for."""
    recipe, producers = named(f"{method}-w8a8"), denoiser.producers()

    def choose(name, weight):
        own = settle_centre(recipe, name in denoiser.steady())
        return build_transform(own, moments[name], weight, producers.get(name))

    folded, foldings = fold(denoiser, choose)
    call = family.call(denoiser, seed=60)
    assert relative_error(call.run(folded), call.run(denoiser)) < 1e-10
    before, after = {}, {}
    for own, seen in ((denoiser, before), (folded, after)):
        with observe_inputs(own, denoiser.quantizable(), lambda name, x, *_, seen=seen: seen.__setitem__(name, x)):
            call.run(own)
    for name, folding in foldings.items():
        assert relative_error(after[name], folding.absorbed(before[name])[0]) < 1e-9, name


# From a folder to a program.


def captured(family, denoiser, count: int = 6) -> dict[str, torch.Tensor]:
    """Inputs as a user would capture them."""
    calls = [family.call(denoiser, seed=10 * i, batch=1, timestep=950.0 - 150 * i) for i in range(count)]
    prompt = {name: torch.cat([call.prompt[name] for call in calls]).float() for name in calls[0].prompt}
    return {
        "hidden_states": torch.cat([call.latents for call in calls]).float(),
        "timestep": torch.cat([call.timestep for call in calls]).float(),
        **{ARGUMENTS[name]: tensor for name, tensor in prompt.items()},
    }


@pytest.fixture(scope="module")
def quantized(family, folder, denoiser, tmp_path_factory):
    """quantized(recipe) -> the folder of its checkpoint."""
    work = tmp_path_factory.mktemp("quantized")
    save_file(captured(family, denoiser), work / "inputs.safetensors")

    def make(recipe: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quantization, "LARGE", LARGE)
            if not (work / recipe).exists():
                workflow.quantize(str(folder), recipe, work / recipe, inputs=work / "inputs.safetensors")
        return work / recipe

    return make


@pytest.fixture(scope="module")
def exported(quantized, tmp_path_factory):
    """The bundle of a recipe with dynamic means."""
    source, out = quantized(EXPORTED), tmp_path_factory.mktemp("exported") / "bundle"
    with files.new_folder(out) as staging:
        writer.write_bundle(staging, source, checkpoint.load(source), "xnnpack")
    return bundle.load(out)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [EXPORTED, "hadanorm-auto-w4a8"])
def test_the_quantized_prediction_is_near(family, denoiser, quantized, recipe):
    saved = checkpoint.load(quantized(recipe))
    assert set(denoiser.quantizable()) == set(saved.denoiser.quantizable())
    call = family.call(denoiser, seed=70)
    exact = call.run(denoiser)
    error = relative_error(single(call).run(saved.denoiser).double(), exact)
    assert 1e-4 < error < (0.05 if "w8" in saved.recipe.name else 0.25)
    if saved.recipe.search:
        plain = checkpoint.load(quantized("rtn-w4a8")).denoiser
        assert error < relative_error(single(call).run(plain).double(), exact)


@pytest.mark.slow
def test_large_linears_of_the_rest_have_8_bits(denoiser, quantized):
    found = {n: m for n, m in checkpoint.load(quantized(EXPORTED)).denoiser.named_modules()}
    linears = {n: m.weight.numel() for n, m in denoiser.named_modules() if isinstance(m, torch.nn.Linear)}
    rest = {name for name, size in linears.items() if size >= LARGE} - set(denoiser.quantizable())
    assert rest == {n for n, m in found.items() if isinstance(m, QuantizedLinear)} - set(denoiser.quantizable())
    assert rest
    for name in rest:
        own = found[name].recipe
        assert (own.weight_bits, own.activation_bits, own.centre, own.rotation) == (8, 8, "none", "none")


def single(call: Inputs) -> Inputs:
    prompt = {name: tensor.float() for name, tensor in call.prompt.items()}
    return Inputs(call.latents.float(), call.timestep.float(), prompt)


@pytest.mark.slow
@torch.no_grad()
def test_the_program_is_the_simulation(family, denoiser, exported):
    saved = checkpoint.load(exported.file("simulation"))
    call = last(single(family.call(denoiser, seed=80)))
    program = Runtime.get().load_program(exported.file("denoiser"))
    prepare, denoise = program.load_method("prepare"), program.load_method("denoise")
    conditioning = [tensor.clone() for tensor in prepare.execute(list(call.prompt.values()))]
    for actual, expected in zip(conditioning, saved.denoiser.prepare(**call.prompt), strict=True):
        assert relative_error(actual, expected) < 1e-2
    prediction = denoise.execute([call.latents, call.timestep, *conditioning])[0]
    assert relative_error(prediction, call.run(saved.denoiser)) < 2e-2


@pytest.mark.slow
def test_a_step_is_one_call_of_a_delegate(exported):
    account = exported.programs["denoiser"]["methods"]["denoise"]["delegation"]
    assert (account["delegates"], account["outside"]) == (1, {})
