"""Whole pipelines: diffusers' own pictures in float, and the way from a pipeline's folder to a bundle that draws."""

import dataclasses
import itertools
import math
import sys
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from edge_hadanorm import bundle, checkpoint, files, workflow
from edge_hadanorm.bundle.runner import ExecuTorchRunner
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters import writer
from edge_hadanorm.exporters.targets import Options, simulation
from edge_hadanorm.measure import metrics
from edge_hadanorm.pipelines import loading, probing
from edge_hadanorm.pipelines.autoencoder import pixels_a_latent
from edge_hadanorm.pipelines.drawing import TorchRunner, Wish, picture
from edge_hadanorm.pipelines.loading import Size
from edge_hadanorm.pipelines.noise import normal
from edge_hadanorm.pipelines.pictures import to_pixels
from edge_hadanorm.pipelines.schedulers import given_scheduler
from edge_hadanorm.pipelines.tiles import tiled, window_of
from runtime_tests.support.helpers import an_original
from runtime_tests.support.tiny_pipelines import CLASSES, PIPELINES, save

STEPS, GUIDANCE, SEED = 3, 2.5, 4
RECIPE = "hadanorm-balanced-w8a8"
PROMPTS = ["a red cat", "Two green trees"]
NEGATIVE = "a dog, blurry"


@pytest.fixture(scope="module", params=PIPELINES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    return save(name, tmp_path_factory.mktemp("pipeline") / "model")


@pytest.fixture(scope="module")
def model(folder):
    return loading.load(str(folder))


def prompts(name: str) -> list[str]:
    return ["goldfish", "tench"] if name == "dit" else PROMPTS


def drawn_by_diffusers(folder, name: str, prompt: str, shape, negative: str = "", scheduler=None) -> torch.Tensor:
    """The picture [3, H, W] in [-1, 1] of the pipeline itself, from the noise of SEED, that of its steps too."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipeline.scheduler = scheduler
        rows = 2 if name == "dit" else 1  # the one that steps the latents of both conditionings
        noises = (noise_of(shape, number).repeat(rows, 1, 1, 1) for number in itertools.count(1))
        with probing.drawing(scheduler, noises):
            return _drawn(pipeline, name, prompt, shape, negative)
    return _drawn(pipeline, name, prompt, shape, negative)


def noise_of(shape, number: int) -> torch.Tensor:
    return torch.from_numpy(normal(SEED, (1, *shape), stream=number))


def _drawn(pipeline, name: str, prompt: str, shape, negative: str) -> torch.Tensor:
    noise = noise_of(shape, 0)
    options = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="latent", latents=noise)
    options |= {} if name == "dit" else dict(negative_prompt=negative)
    if name == "dit":
        return _drawn_classes(pipeline, prompt, noise)
    if name == "pixart":
        options |= dict(use_resolution_binning=False, clean_caption=False)
    if name == "sana":
        options |= dict(use_resolution_binning=False)
    factor = 32 // shape[-1] if name == "sana" else pipeline.vae_scale_factor  # which Sana wants, and does not read
    factor = 32 if name == "sana" and shape[-1] != shape[-2] else factor
    latents = pipeline(prompt, height=factor * shape[-2], width=factor * shape[-1], **options)[0]
    latents = latents / pipeline.vae.config.scaling_factor + (pipeline.vae.config.get("shift_factor") or 0)
    with torch.no_grad():
        return pipeline.vae.decode(latents, return_dict=False)[0][0]


def _drawn_classes(pipeline, prompt: str, noise: torch.Tensor) -> torch.Tensor:
    """DiTPipeline makes its own noise: that of its generator is replaced."""
    from diffusers.pipelines.dit import pipeline_dit

    (label,) = pipeline.get_label_ids([prompt])
    made, pipeline_dit.randn_tensor = pipeline_dit.randn_tensor, lambda *_, **__: noise.clone()
    try:
        found = pipeline([label], guidance_scale=GUIDANCE, num_inference_steps=STEPS, output_type="pt")
    finally:
        pipeline_dit.randn_tensor = made
    return torch.as_tensor(found.images)[0] * 2 - 1


def float_psnr_db(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """PSNR of pictures in [-1, 1] before they are rounded to pixels; one that was clamped is compared clamped."""
    if expected.abs().max() <= 1:
        actual = actual.clamp(-1, 1)
    assert actual.shape == expected.shape
    return -10 * math.log10(((actual - expected) / 2).square().mean().clamp(min=1e-12).item())


@torch.no_grad()
def test_a_float_picture_is_diffusers(name, folder, model):
    prompt, negative = prompts(name)[0], "" if name == "dit" else NEGATIVE
    expected = drawn_by_diffusers(folder, name, prompt, model.denoiser.latent_shape(), negative)
    runner = TorchRunner(model.denoiser, model.pipeline)
    actual = picture(runner, Wish(prompt, model.pipeline.plan(STEPS), GUIDANCE, SEED, negative))
    assert float_psnr_db(actual, expected) > 60


@torch.no_grad()
def test_a_float_picture_of_another_size_is_diffusers(name, folder):
    """Of half the height, which DiTPipeline does not have."""
    native = loading.load(str(folder))
    channels, height, width = native.denoiser.latent_shape()
    factor = pixels_a_latent(folder / "vae", native.pipeline.kind.decoder)
    size = Size(picture=(factor * width, factor * height // 2))
    if name == "dit":
        with pytest.raises(UserError, match="no square"):
            loading.load(str(folder), size)
        return
    model, prompt = loading.load(str(folder), size), prompts(name)[0]
    assert model.denoiser.latent_shape() == (channels, height // 2, width)
    expected = drawn_by_diffusers(folder, name, prompt, model.denoiser.latent_shape())
    runner = TorchRunner(model.denoiser, model.pipeline)
    actual = picture(runner, Wish(prompt, model.pipeline.plan(STEPS), GUIDANCE, SEED))
    assert actual.shape == (3, factor * height // 2, factor * width)
    assert float_psnr_db(actual, expected) > 60
    for wrong in ((factor * width + 1, factor * height), (0, factor)):
        with pytest.raises(UserError, match=rf"`size` {wrong[0]}x{wrong[1]}: .* multiples of {factor} pixels"):
            loading.load(str(folder), Size(picture=wrong))


FLOW_LCM, FLOW_EULER = diffusers.FlowMatchLCMScheduler, diffusers.FlowMatchEulerDiscreteScheduler
# Schedules that the pipeline makes of the picture's tokens.
SHIFTED = FLOW_EULER(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64, shift_terminal=0.1)


@torch.no_grad()
@pytest.mark.parametrize("size", [None, (16, 8)])
def test_a_schedule_that_depends_on_the_size_is_diffusers(folder, name, size, tmp_path):
    if name != "sd3":
        return
    own = loading.load(str(folder), Size(picture=size)) if size else loading.load(str(folder))
    SHIFTED.save_config(tmp_path)
    pipeline = own.pipeline.with_defaults(scheduler=given_scheduler(tmp_path, {}))
    expected = drawn_by_diffusers(folder, name, PROMPTS[0], own.denoiser.latent_shape(), scheduler=SHIFTED)
    actual = picture(TorchRunner(own.denoiser, pipeline), Wish(PROMPTS[0], pipeline.plan(STEPS), GUIDANCE, SEED))
    assert float_psnr_db(actual, expected) > 60
    assert pipeline.plan(STEPS) != pipeline.of_tokens(1).plan(STEPS)


STOCHASTIC = {
    "pixart": [diffusers.LCMScheduler(), diffusers.EulerAncestralDiscreteScheduler()],
    "sana": [diffusers.LCMScheduler(), FLOW_EULER(stochastic_sampling=True)],
    "sd3": [FLOW_LCM(shift=3.0), FLOW_EULER(stochastic_sampling=True)],
    "dit": [diffusers.DDPMScheduler(clip_sample=False)],
}


@torch.no_grad()
def test_a_stochastic_picture_is_diffusers(folder, model, name):
    """The noise of every step is given to both."""
    for scheduler in STOCHASTIC[name]:
        prompt, shape = prompts(name)[0], model.denoiser.latent_shape()
        expected = drawn_by_diffusers(folder, name, prompt, shape, scheduler=scheduler)
        plan = probing.probe(scheduler, STEPS, model.pipeline.eta)
        assert any(row.c for row in plan.rows)
        runner = TorchRunner(model.denoiser, model.pipeline)
        actual = picture(runner, Wish(prompt, plan, GUIDANCE, SEED))
        assert float_psnr_db(actual, expected) > 60, type(scheduler).__name__


@torch.no_grad()
@pytest.mark.parametrize("mask", [False, True])
def test_picture_to_picture_is_diffusers(folder, model, name, mask):
    """Of Stable Diffusion 3, which has pipelines for it; the mean of the encoder's distribution is given to both."""
    if name != "sd3":
        return
    kind = diffusers.StableDiffusion3InpaintPipeline if mask else diffusers.StableDiffusion3Img2ImgPipeline
    pipeline = kind.from_pipe(diffusers.DiffusionPipeline.from_pretrained(folder))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.register_to_config(in_channels=16)  # those of the released model, which masks ask for
    encode = pipeline.vae.encode
    pipeline.vae.encode = lambda x: SimpleNamespace(latents=encode(x).latent_dist.mode())
    channels, *sides = model.denoiser.latent_shape()
    height, width = (pipeline.vae_scale_factor * side for side in sides)
    original, steps, strength = an_original((width, height), mask), 5, 0.6
    given = dict(image=original.picture[None] / 2 + 0.5, strength=strength, num_inference_steps=steps)
    given |= dict(mask_image=original.mask[None, None], height=height, width=width) if mask else {}
    draws = iter([noise_of((channels, *sides), 0)] * 2)
    module = sys.modules[kind.__module__]
    made, module.randn_tensor = module.randn_tensor, lambda *_, **__: next(draws)
    try:
        latents = pipeline(PROMPTS[0], guidance_scale=GUIDANCE, output_type="latent", **given)[0]
    finally:
        module.randn_tensor = made
    config = pipeline.vae.config
    expected = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0][0]
    plan = model.pipeline.plan(steps, starts=True).begun(strength)
    assert plan.steps == 3
    wish = Wish(PROMPTS[0], plan, GUIDANCE, SEED, original=original)
    assert float_psnr_db(picture(TorchRunner(model.denoiser, model.pipeline), wish), expected) > 60


@torch.no_grad()
def test_an_encoded_picture_is_decoded_by_diffusers_as_its_own(folder, model):
    """The latents of an original are those of diffusers' autoencoder, scaled and shifted as its pipelines do."""
    vae = diffusers.DiffusionPipeline.from_pretrained(folder).vae
    runner = TorchRunner(model.denoiser, model.pipeline)
    side = pixels_a_latent(folder / "vae", model.pipeline.kind.decoder) * runner.latent_shape[-1]
    given = an_original((side, side)).picture
    made = vae.encode(given[None])
    latents = made.latent_dist.mode() if hasattr(made, "latent_dist") else made.latent
    expected = vae.decode(latents, return_dict=False)[0][0]
    assert runner.encode(given).shape == runner.latent_shape
    torch.testing.assert_close(runner.decode(runner.encode(given)), expected, rtol=1e-4, atol=1e-5)


def test_defaults_are_the_pipelines(model, name):
    steps, guidance = {"pixart": (20, 4.5), "sd3": (28, 7.0), "sana": (20, 4.5), "dit": (50, 4.0)}[name]
    assert (model.pipeline.steps, model.pipeline.guidance) == (steps, guidance)


@pytest.fixture(scope="module")
def quantized(name, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantized") / "checkpoint"
    workflow.quantize(str(folder), RECIPE, out, prompts=prompts(name), steps=STEPS)
    return out


def exported(quantized, out, options: Options):
    with files.new_folder(out) as staging:
        writer.write_bundle(staging, quantized, checkpoint.load(quantized), "xnnpack", options=options)
    return bundle.load(out)


@pytest.fixture(scope="module")
def drawing(quantized, tmp_path_factory):
    """The bundle of a whole pipeline."""
    return exported(quantized, tmp_path_factory.mktemp("exported") / "bundle", Options(tile=8))


def draw(loaded: bundle.Bundle, prompt: str, runner=None) -> torch.Tensor:
    runner = runner or ExecuTorchRunner(loaded)
    return to_pixels(picture(runner, Wish(prompt, loaded.plan(STEPS), GUIDANCE, SEED)))


def test_a_bundle_draws_what_the_pipeline_draws(name, model, drawing, tmp_path):
    prompt = prompts(name)[1]
    exact = to_pixels(
        picture(TorchRunner(model.denoiser, model.pipeline), Wish(prompt, model.pipeline.plan(STEPS), GUIDANCE, SEED))
    )
    device, simulated = draw(drawing, prompt), draw(drawing, prompt, simulation(drawing))
    assert device.shape == (3, drawing.image_size[1], drawing.image_size[0])
    assert metrics.psnr_db(device, simulated) > 30
    assert metrics.psnr_db(device, exact) > 25
    workflow.generate(drawing.folder, prompt, tmp_path / "picture.png", seed=SEED, steps=STEPS, guidance=GUIDANCE)
    with Image.open(tmp_path / "picture.png") as written:
        assert torch.equal(torch.from_numpy(np.array(written)).permute(2, 0, 1), device)


@pytest.fixture(scope="module")
def exact(name, folder, tmp_path_factory):
    """A bundle in float, prompts encoded in float too, of pictures of half the height where the family has them."""
    work = tmp_path_factory.mktemp("exact")
    native = loading.load(str(folder))
    _, height, width = native.denoiser.latent_shape()
    factor = pixels_a_latent(folder / "vae", native.pipeline.kind.decoder)
    size = None if name == "dit" else (factor * width, factor * height // 2)
    options = dict(steps=STEPS, guidance=GUIDANCE, negative=None if name == "dit" else NEGATIVE)
    quantized = workflow.quantize(str(folder), "rtn-w16a16", work / "checkpoint", prompts=prompts(name), size=size)
    embedded = () if name == "dit" else prompts(name)
    return workflow.export(quantized, work / "bundle", prompts=embedded, with_encoder=True, **options)


def test_a_bundle_in_float_draws_diffusers_own_picture(name, folder, exact):
    """With its negative prompt and size, by its own scheduler and by stochastic ones, whose noise is given to both."""
    prompt, sampling = prompts(name)[0], exact.sampling
    runner = ExecuTorchRunner(exact)
    eta = checkpoint.carried(exact).pipeline.eta
    plans = {None: exact.plan(sampling["plan"])}
    plans |= {scheduler: probing.probe(scheduler, STEPS, eta) for scheduler in STOCHASTIC[name]}
    for scheduler, plan in plans.items():
        negative = sampling["negative"]
        expected = drawn_by_diffusers(folder, name, prompt, exact.latent_shape, negative, scheduler)
        actual = picture(runner, Wish(prompt, plan, sampling["guidance"], SEED, negative))
        assert float_psnr_db(actual, expected) > 60, type(scheduler).__name__


def test_a_bundle_begins_with_a_picture_as_its_simulation_does(name, exact):
    runner, simulated = ExecuTorchRunner(exact), simulation(exact)
    plan = exact.plan(STEPS).begun(0.6)
    for original in (an_original(exact.image_size), an_original(exact.image_size, masked=True)):
        wish = Wish(prompts(name)[0], plan, GUIDANCE, SEED, exact.sampling["negative"], original)
        device, expected = picture(runner, wish), picture(simulated, wish)
        assert float_psnr_db(device, expected) > 60
        alone = picture(runner, dataclasses.replace(wish, original=None))
        assert float_psnr_db(alone, expected) < 50


def test_a_bundle_has_a_program_for_every_component(name, drawing):
    components = {
        "pixart": ["denoiser", "text_encoder", "image_decoder"],
        "sd3": ["denoiser", "text_encoder", "text_encoder_2", "text_encoder_3", "image_decoder"],
        "sana": ["denoiser", "text_encoder", "image_decoder"],
        "dit": ["denoiser", "image_decoder"],
    }
    assert list(drawing.programs) == components[name]
    for role, program in drawing.programs.items():
        for method, account in program["methods"].items():
            if role.startswith("text_encoder"):
                assert account["delegation"]["integer_linears"] > 0, (role, method)
    assert drawing.manifest["golden"]["psnr_db"] == 40.0


def test_a_bundle_of_several_sizes(name, folder, quantized, drawing, tmp_path):
    """Of one checkpoint; each size draws what the checkpoint draws, by plans for it where they depend on it."""
    if name != "sd3":  # whose schedule depends on the size; programs take a minute
        return
    width, height = drawing.image_size
    SHIFTED.save_config(tmp_path / "scheduler")
    sizes = [(width, height // 2), (width, height)]
    options = dict(prompts=prompts(name), with_encoder=True, scheduler=tmp_path / "scheduler")
    made = workflow.export(quantized, tmp_path / "several", target="xnnpack", size=sizes, **options)
    assert made.sizes == sizes
    for size in sizes:
        own = made.at(size)
        plan, original = own.plan(STEPS), an_original(size, masked=True)
        wish = Wish(prompts(name)[1], plan.begun(0.7), GUIDANCE, SEED, original=original)
        device, simulated = picture(ExecuTorchRunner(own), wish), picture(simulation(own), wish)
        assert device.shape == (3, *size[::-1])
        assert float_psnr_db(device, simulated) > 30
        drawn = workflow.generate(made, prompts(name)[1], size=size, steps=STEPS, guidance=GUIDANCE, seed=SEED).image
        alone = picture(ExecuTorchRunner(own), dataclasses.replace(wish, plan=plan, original=None))
        assert torch.equal(torch.from_numpy(np.array(drawn)).permute(2, 0, 1), to_pixels(alone))
        model = loading.load(str(folder), Size(picture=size))
        pipeline = model.pipeline.with_defaults(
            scheduler=dict(SHIFTED.config) | {"_class_name": type(SHIFTED).__name__}
        )
        assert plan == pipeline.plan(STEPS, starts=True)


def test_core_ml_has_one_size_a_bundle(name, quantized, tmp_path):
    if name == "pixart":
        with pytest.raises(UserError, match="coreml has one `size` a bundle"):
            workflow.export(quantized, tmp_path / "bundle", target="coreml", size=[(16, 16), (24, 16)])
        assert not (tmp_path / "bundle").exists()


def test_prompts_can_be_carried_encoded(name, quantized, drawing, tmp_path):
    if name == "dit":
        with pytest.raises(UserError, match="no text encoder"):
            exported(quantized, tmp_path / "bundle", Options(tuple(prompts(name))))
    if name != "sd3":  # the one whose encoders are gathered
        return
    loaded = exported(quantized, tmp_path / "bundle", Options(tuple(prompts(name)), tile=8))
    assert not any(role.startswith("text_encoder") for role in loaded.programs)
    for prompt in prompts(name):  # in float, where the other bundle's encoders have 8 bits
        assert metrics.psnr_db(draw(loaded, prompt), draw(drawing, prompt)) > 25
    with pytest.raises(UserError, match="'a dog' is not among those that the bundle carries; take a red cat"):
        draw(loaded, "a dog")


# Without a model.


@pytest.mark.parametrize(("size", "side"), [(8, 8), (8, 16), (9, 8), (16, 8), (23, 8), (8, 1), (5, 3)])
def test_tiles_of_a_decoder_without_context_are_the_whole(size, side):
    def decode(latents):
        return latents.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)

    latents = torch.randn(1, 3, size, size + 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        tiled(decode, latents, (min(side, size), min(side, size + 2))), decode(latents), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("size", "tile", "window"),
    [((8, 8), None, (8, 8)), ((48, 80), None, (48, 80)), ((96, 64), None, (64, 64)), ((128, 32), None, (128, 32)),
     ((200, 32), None, (32, 32)), ((16, 8), 8, (8, 8)), ((16, 4), 8, (16, 4))],
)  # fmt: skip
def test_latents_are_decoded_whole_where_they_are_no_more_than_the_square(size, tile, window):
    assert window_of(*size, tile) == window


@pytest.mark.parametrize(("size", "side"), [(8, 8), (16, 8), (23, 8), (5, 3)])
def test_tiles_of_an_encoder_without_context_are_the_whole(size, side):
    def encode(picture):
        return torch.nn.functional.avg_pool2d(picture, 4)

    shape = 1, 3, 4 * size, 4 * (size + 2)
    picture = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(tiled(encode, picture, (4 * side, 4 * side), 4), encode(picture), rtol=0, atol=1e-12)


def test_a_class_that_is_none_is_named(tmp_path):
    model = loading.load(str(save("dit", tmp_path / "model")))
    assert model.pipeline.prompts == [name.split(",")[0] for name in CLASSES]
    with pytest.raises(UserError, match="'dog' is no class of the model; classes: tench, goldfish"):
        model.pipeline.prompt("dog")
