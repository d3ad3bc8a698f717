"""models/generic.py: transformers of diffusers without a form of their own stay what they are, and go all the way."""

import dataclasses
import inspect
import io
import json
from pathlib import Path

import diffusers
import pytest
import torch
from executorch.runtime import Runtime
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from edge_hadanorm import bundle, checkpoint, console, files, workflow
from edge_hadanorm import models as forms
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters import writer
from edge_hadanorm.exporters.xnnpack import target
from edge_hadanorm.method.fold import Folding, shared_copy
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import named
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.models import generic
from edge_hadanorm.models.calls import Inputs
from edge_hadanorm.models.denoiser import ARGUMENTS
from edge_hadanorm.pipelines import loading
from edge_hadanorm.progress import Status, quiet
from edge_hadanorm.quantization import allocation
from edge_hadanorm.quantization.calibration import observe_inputs
from edge_hadanorm.quantization.quantize import quantize_linear
from runtime_tests.support.families import FAMILIES, Family, last
from runtime_tests.support.helpers import randn, relative_error

SIZE = 8


class Other(Family):
    """A family without a form here; its latents' size may be no argument of its class."""

    def make(self) -> nn.Module:
        accepted = inspect.signature(getattr(diffusers, self.source_class).__init__).parameters
        config = {key: value for key, value in self.config.items() if key in accepted}
        return dataclasses.replace(FAMILIES["pixart"], source_class=self.source_class, config=config).make()

    def save(self, folder: Path) -> Path:
        super().save(folder)
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": SIZE}))
        return folder


HEADS = dict(num_attention_heads=2, attention_head_dim=32, num_layers=2, in_channels=4, sample_size=SIZE)
OTHERS = {
    # text in the keys and values of every block, gated feed-forward, rotary positions
    "prx": Other(
        "PRXTransformer2DModel",
        dict(
            in_channels=4,
            context_in_dim=48,
            hidden_size=64,
            mlp_ratio=2.0,
            num_heads=2,
            depth=2,
            axes_dim=[16, 16],
            sample_size=SIZE,
        ),
    ),
    # Stable Diffusion 1's: convolutions and a group norm around blocks with cross attention
    "transformer2d": Other(
        "Transformer2DModel", HEADS | dict(in_channels=32, norm_num_groups=8, cross_attention_dim=48)
    ),
    # text and patches as one sequence, sizes of the picture
    "cogview": Other(
        "CogView3PlusTransformer2DModel",
        HEADS | dict(out_channels=4, text_embed_dim=48, time_embed_dim=64, condition_dim=32, pos_embed_max_size=SIZE),
    ),
    # two streams and one, a mask that is always there
    "hunyuan": Other(
        "HunyuanImageTransformer2DModel",
        HEADS
        | dict(out_channels=4, num_single_layers=2, num_refiner_layers=1, text_embed_dim=48, rope_axes_dim=[16, 16]),
        masked=True,
    ),
    # a pooled text
    "sd3": Other(
        "SD3Transformer2DModel",
        HEADS
        | dict(
            out_channels=4,
            joint_attention_dim=48,
            caption_projection_dim=64,
            pooled_projection_dim=40,
            pos_embed_max_size=SIZE,
        ),
    ),
    # as if it had no form of its own; half of its output is a learned variance
    "pixart": Other("PixArtTransformer2DModel", FAMILIES["pixart"].config, masked=True),
}


@pytest.fixture(autouse=True)
def without_forms(monkeypatch):
    for name in list(forms.FAMILIES):
        monkeypatch.delitem(forms.FAMILIES, name)


@pytest.fixture(scope="module", params=OTHERS)
def other(request):
    return OTHERS[request.param]


@pytest.fixture(scope="module")
def denoiser(other):
    """In float64."""
    return made(other)


def made(other: Other) -> generic.GenericDenoiser:
    weights = other.make().state_dict()
    form = generic.form(other.source_class)
    return form.from_diffusers(other.config, weights).eval().requires_grad_(False).double()


def exact(other: Other, denoiser: generic.GenericDenoiser, call: Inputs) -> torch.Tensor:
    """What diffusers' own module predicts."""
    arguments = {ARGUMENTS[name]: tensor for name, tensor in call.prompt.items()}
    batch = len(call.latents)
    if "original_size" in generic.arguments(denoiser.module_class.forward):
        pixels = torch.full((batch, 2), 8.0 * SIZE, dtype=torch.float64)
        arguments |= {"original_size": pixels, "target_size": pixels, "crop_coords": 0 * pixels}
    arguments |= {"timestep": call.timestep.expand(batch), "return_dict": False}
    found = other.make().double()(hidden_states=call.latents, **arguments)[0]
    return found[:, : call.latents.shape[1]]


@pytest.mark.parametrize("timestep", [1.0, 412.5])
@torch.no_grad()
def test_the_denoiser_is_diffusers_module(other, denoiser, timestep):
    """Up to the rounding of attention and layer norms, which are computed in another order."""
    call = other.call(denoiser, timestep=timestep)
    assert relative_error(call.run(denoiser), exact(other, denoiser, call)) < 1e-6


@torch.no_grad()
def test_a_mask_matters():
    other = OTHERS["pixart"]
    denoiser = made(other)
    call = other.call(denoiser)
    unmasked = dataclasses.replace(call, prompt={"text": call.prompt["text"]})
    assert relative_error(unmasked.run(denoiser), call.run(denoiser)) > 1e-3


@torch.no_grad()
def test_stages_are_the_module_block_by_block(other, denoiser):
    """Every linear is given the same as in a whole call, and every block goes on from the one before it."""
    call, names = other.call(denoiser), denoiser.quantizable()
    whole, staged = {}, {}
    with observe_inputs(denoiser, names, lambda name, x, *_: whole.__setitem__(name, x)):
        call.run(denoiser)
    assert set(whole) == set(names)
    assert all(x.ndim == 3 and x.shape[1] > 1 for x in whole.values())
    state = denoiser.begin(call.latents, call.timestep, **call.prompt)
    assert all(part is None or len(part) == len(call.latents) for part in state)
    for stage, own in enumerate(denoiser.stages()):
        before = set(staged)
        with observe_inputs(denoiser, names, lambda name, x, *_: staged.__setitem__(name, x)):
            state = denoiser.advance(stage, state)
        assert set(staged) - before == set(own)
    for name in names:
        assert relative_error(staged[name], whole[name]) < 1e-12, name
    assert denoiser.resumable == set(range(len(denoiser.stages()) - 1))
    assert denoiser.finishable
    assert relative_error(denoiser.finish(state), call.run(denoiser)) < 1e-10


class Skipping(diffusers.ModelMixin, diffusers.ConfigMixin):
    """The second block's result skips the third, and with `late` the fourth too."""

    config_name = "config.json"

    @diffusers.configuration_utils.register_to_config
    def __init__(self, in_channels: int = 4, sample_size: int = SIZE, width: int = 48, late: bool = False):
        super().__init__()
        self.embed = nn.Linear(in_channels, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(4))
        self.out = nn.Linear(width, in_channels)

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        x = self.embed(hidden_states.flatten(2).transpose(1, 2)) + timestep[:, None, None] / 1000
        x = self.blocks[0](x + encoder_hidden_states.mean(1, keepdim=True))
        skipped = self.blocks[1](x)
        x = self.blocks[3](self.blocks[2](skipped) + skipped)
        x = x + skipped if self.config.late else x
        return (self.out(x).transpose(1, 2).reshape(hidden_states.shape),)


@pytest.fixture(params=[False, True], ids=["early", "late"])
def skipping(request, monkeypatch):
    """A `Skipping` and a call of it."""
    monkeypatch.setattr(diffusers, "Skipping", Skipping, raising=False)
    other = Other("Skipping", dict(width=48, late=request.param))
    denoiser = made(other)
    return denoiser, other.call(denoiser)


@torch.no_grad()
def test_what_needs_more_than_the_block_before_it_is_run_from_the_beginning(skipping):
    denoiser, call = skipping
    names = denoiser.quantizable()
    whole, staged = {}, {}
    with observe_inputs(denoiser, names, lambda name, x, *_: whole.__setitem__(name, x)):
        call.run(denoiser)
    state = denoiser.begin(call.latents, call.timestep, **call.prompt)
    with observe_inputs(denoiser, names, lambda name, x, *_: staged.__setitem__(name, x)):
        for stage in range(4):
            state = denoiser.advance(stage, state)
    late = denoiser.transformer.config.late
    assert (denoiser.resumable, denoiser.finishable) == ({0, 1}, not late)
    assert all(torch.equal(staged[name], whole[name]) for name in names)
    assert torch.equal(denoiser.finish(state), call.run(denoiser))


def test_bits_are_measured_where_blocks_are_run_from_the_beginning(skipping, monkeypatch):
    """An estimate is the error of a linear alone."""
    monkeypatch.setattr(allocation, "PROBES", 256)
    denoiser, call = skipping
    recipe, kept = named("rtn-w8a16"), Folding(FeatureTransform(), FeatureTransform())
    linears = {
        name: quantize_linear(recipe, kept, denoiser.get_submodule(name)).double() for name in denoiser.quantizable()
    }
    found = allocation.sensitivities(denoiser, [recipe], lambda name, _: linears[name], [call])
    for name, linear in linears.items():
        one = shared_copy(denoiser)
        one.set_submodule(name, linear)
        error = (call.run(one) - call.run(denoiser)).square().sum().item()
        assert found[name][0] == pytest.approx(error, rel=0.3)


@torch.no_grad()
def test_attention_and_layer_norm_are_those_of_torch():
    q, k, v = randn(2, 3, 7, 8), randn(2, 3, 5, 8, seed=1), randn(2, 3, 5, 4, seed=2)
    keep = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    keep[1, ..., 3:] = False
    for mask in (None, keep, randn(2, 3, 7, 5, seed=3), randn(2, 1, 7, 5, seed=4)):
        expected = F.scaled_dot_product_attention(q, k, v, mask, scale=0.3)
        with generic.OwnOperators():
            actual = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.0, is_causal=False, scale=0.3)
        assert relative_error(actual, expected) < 1e-12
    x, weight, bias = randn(2, 5, 8), randn(8, seed=1), randn(8, seed=2)
    for arguments in ((), (weight, bias, 1e-3), (weight, None, 1e-6)):
        expected = F.layer_norm(x, (8,), *arguments)
        with generic.OwnOperators():
            assert relative_error(F.layer_norm(x, (8,), *arguments), expected) < 1e-12


# From a folder to a program.


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    monkeypatch.setattr(console, "screen", io.StringIO())
    return console.screen


def quantized(other: Other, recipe: str, folder: Path, status: Status = quiet) -> Path:
    """The checkpoint of a recipe, from a folder and captured inputs."""
    other.save(folder / "transformer")
    denoiser = loading.load(str(folder / "transformer")).denoiser
    calls = [other.call(denoiser, seed=10 * i, batch=1, timestep=950.0 - 150 * i) for i in range(6)]
    tensors = {ARGUMENTS[n]: torch.cat([call.prompt[n] for call in calls]).float() for n in calls[0].prompt}
    tensors["hidden_states"] = torch.cat([call.latents for call in calls]).float()
    tensors["timestep"] = torch.cat([call.timestep for call in calls]).float()
    save_file(tensors, folder / "inputs.safetensors")
    out = folder / recipe
    workflow.quantize(str(folder / "transformer"), recipe, out, inputs=folder / "inputs.safetensors", status=status)
    return out


def single(call: Inputs) -> Inputs:
    prompt = {name: tensor.float() for name, tensor in call.prompt.items()}
    return Inputs(call.latents.float(), call.timestep.float(), prompt)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "error"), [("rtn-w8a8", 0.1), ("hadanorm-balanced-w8a8", 0.05), ("hadanorm-auto-w4a8", 0.25)]
)
@torch.no_grad()
def test_a_checkpoint_is_near_and_loads_as_it_was_saved(other, denoiser, tmp_path, recipe, error, screen, monkeypatch):
    kept, said = {}, []
    monkeypatch.setattr(
        checkpoint, "save", lambda folder, saved, save=checkpoint.save: kept.update(it=saved) or save(folder, saved)
    )
    folder = quantized(other, recipe, tmp_path, said.append)
    saved, call = checkpoint.load(folder), single(other.call(denoiser, seed=70))
    assert set(saved.denoiser.quantizable()) == set(denoiser.quantizable())
    assert all(isinstance(saved.denoiser.get_submodule(name), QuantizedLinear) for name in denoiser.quantizable())
    assert torch.equal(call.run(saved.denoiser), call.run(kept["it"].denoiser))
    assert 1e-5 < relative_error(call.run(saved.denoiser).double(), other_run(denoiser, call)) < error
    line = f"{other.source_class} has no form of its own: its linears are quantized where they are, nothing is folded"
    assert said == [line]
    assert screen.getvalue() == ""


def other_run(denoiser: nn.Module, call: Inputs) -> torch.Tensor:
    prompt = {name: tensor.double() for name, tensor in call.prompt.items()}
    return Inputs(call.latents.double(), call.timestep.double(), prompt).run(denoiser)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe"),
    [("prx", "hadanorm-balanced-w8a8"), ("transformer2d", "hadanorm-balanced-w4a8"), ("pixart", "rtn-w8a8")],
)
@torch.no_grad()
def test_the_program_is_the_simulation(name, recipe, tmp_path, screen):
    """rtn gives several linears one tensor, which must not tie their delegates together."""
    other = OTHERS[name]
    folder = quantized(other, recipe, tmp_path)
    saved = checkpoint.load(folder)
    with files.new_folder(tmp_path / "bundle") as staging:
        writer.write_bundle(staging, folder, saved, "xnnpack")
    loaded = bundle.load(tmp_path / "bundle")
    account = loaded.programs["denoiser"]["methods"]["denoise"]["delegation"]
    assert account["integer_linears"] == len(saved.denoiser.quantizable())
    call = last(single(other.call(saved.denoiser, seed=80)))
    program = Runtime.get().load_program(loaded.file("denoiser"))
    prepare, denoise = program.load_method("prepare"), program.load_method("denoise")
    conditioning = [tensor.clone() for tensor in prepare.execute(list(call.prompt.values()))]
    assert all(torch.equal(*pair) for pair in zip(conditioning, call.prompt.values(), strict=True))
    prediction = denoise.execute([call.latents, call.timestep, *conditioning])[0]
    assert relative_error(prediction, call.run(saved.denoiser)) < 2e-2


@pytest.mark.slow
@torch.no_grad()
def test_what_cannot_be_lowered_is_said_in_a_line(tmp_path, screen, monkeypatch):
    folder = quantized(OTHERS["prx"], "rtn-w8a8", tmp_path)
    monkeypatch.setattr(target, "lower_all", lambda _: 1 / 0)
    with (
        pytest.raises(UserError, match="PRXTransformer2DModel cannot be lowered to xnnpack: division by zero"),
        files.new_folder(tmp_path / "bundle") as staging,
    ):
        writer.write_bundle(staging, folder, checkpoint.load(folder), "xnnpack")


# What it does not take.


def test_billions_of_parameters_take_no_memory():
    denoiser = generic.form("HunyuanImageTransformer2DModel")({"sample_size": 64})
    sizes = {False: 0, True: 0}
    for tensor in denoiser.state_dict().values():
        sizes[tensor.is_meta] += tensor.numel()
    assert sizes[True] > 17e9
    assert sizes[False] < 1e6
    assert not any(buffer.is_meta for buffer in denoiser.buffers())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LuminaNextDiT2DModel", "needs encoder_mask, image_rotary_emb"),
        ("LTXVideoTransformer3DModel", "does not run on latents, timestep and text alone"),
        ("ChromaTransformer2DModel", "needs img_ids"),
        ("UNet2DModel", "no text-conditioned transformer"),
        ("logging", "no text-conditioned transformer"),
    ],
)
def test_another_class_is_refused_by_name(name, words):
    with pytest.raises(UserError, match=name) as raised:
        forms.family(name)(dict(sample_size=SIZE))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_depends_on_values_is_refused():
    config = dict(
        sample_size=SIZE, hidden_size=64, num_layers=1, num_attention_heads=2, num_kv_heads=1, cap_feat_dim=48
    )
    config |= dict(axes_dim_rope=[8, 12, 12], axes_lens=[64, 64, 64])
    with pytest.raises(UserError, match=r"Lumina2Transformer2DModel .*: it depends on values"):
        forms.family("Lumina2Transformer2DModel")(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(sample_size=None), "sample_size is None"),
        (dict(sample_size="8"), "sample_size is '8'"),
        (dict(sample_size=7), "PRXTransformer2DModel does not run"),
        (dict(in_channels=0), "in_channels"),
        (dict(depth=0), "no blocks"),
        (dict(depth="two"), "not one of PRXTransformer2DModel"),
        (dict(axes_dim=[8, 8]), "not one of PRXTransformer2DModel"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_its_key(changes, words):
    with pytest.raises(UserError, match=words):
        generic.form("PRXTransformer2DModel")(OTHERS["prx"].config | changes)


def test_predictions_have_the_shape_of_latents():
    with pytest.raises(UserError, match=r"makes \[2, 12, 8, 8\] of latents \[2, 4, 8, 8\]"):
        generic.form("PixArtTransformer2DModel")(OTHERS["pixart"].config | dict(out_channels=12))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.pop("img_in.weight"), "'img_in.weight' is missing"),
        (lambda t: t.update(x=torch.ones(1)), "unknown tensor 'x'"),
        (lambda t: t.update({"img_in.weight": torch.ones(2)}), r"\[2\], the config asks for \[64, 16\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(damage, words, tmp_path, screen):
    folder = OTHERS["prx"].save(tmp_path / "transformer")
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    with pytest.raises(UserError, match=words):
        loading.load(str(folder))
