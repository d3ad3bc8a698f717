"""Every mistake of a user: exit status 2, one line that names the thing and the way out, and nothing left behind."""

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file

from edge_hadanorm import console, workflow
from edge_hadanorm.bundle.schema import SCHEMA
from edge_hadanorm.reference.model import make_text_encoder
from edge_hadanorm.workflow import deploying
from runtime_tests.support.helpers import assert_answered, tree

WEIGHTS = "diffusion_pytorch_model.safetensors"
QKV = "transformer_blocks.0.attn1.to_q.weight"
# Width 92: neither Sylvester nor Paley has a Hadamard matrix of it or of a factor that is left.
ODD = dict(num_attention_heads=4, attention_head_dim=23, num_layers=1, cross_attention_dim=92, caption_channels=32)

Damage = Callable[[Path], None]


# What is done to the folder `given`, which holds copies of a pipeline `model`, its `checkpoint` and its `bundle`.


def nothing(given: Path) -> None:
    pass


def picture(name: str) -> Damage:
    """A picture of one colour."""
    return lambda given: Image.new("RGB", (8, 8), "red").save(given / name)


def remove(name: str) -> Damage:
    return lambda given: (given / name).unlink()


def write(name: str, text: str | bytes) -> Damage:
    return lambda given: (given / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def truncate(name: str) -> Damage:
    return lambda given: os.truncate(given / name, (given / name).stat().st_size // 2)


def flip(name: str) -> Damage:
    """Change the last bit of a file."""

    def damage(given: Path) -> None:
        content = (given / name).read_bytes()
        (given / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return damage


def edit(name: str, *without: str, **changes: object) -> Damage:
    """Take keys out of a JSON object and set others."""

    def damage(given: Path) -> None:
        fields = json.loads((given / name).read_text()) | changes
        (given / name).write_text(json.dumps({key: value for key, value in fields.items() if key not in without}))

    return damage


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change the tensors of a safetensors file."""

    def damage(given: Path) -> None:
        content = load_file(given / name)
        change(content)
        (given / name).unlink()
        save_file(content, given / name)

    return damage


def pickle_only(given: Path) -> None:
    folder = given / "model/transformer"
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def inputs(**changes: torch.Tensor | None) -> Damage:
    """inputs.safetensors of two samples for the tiny transformer, with changes; None leaves one out."""

    def damage(given: Path) -> None:
        right = {
            "hidden_states": torch.zeros(2, 3, 8, 8),
            "encoder_hidden_states": torch.ones(2, 8, 32),
            "timestep": torch.tensor([500.0, 100.0]),
        }
        content = {name: tensor for name, tensor in (right | changes).items() if tensor is not None}
        save_file(content, given / "inputs.safetensors")

    return damage


def prompts_and_inputs(given: Path) -> None:
    """Both are there and good."""
    write("prompts.txt", "red")(given)
    inputs()(given)


def quantized(recipe: str) -> Damage:
    """Another checkpoint, of the transformer alone."""

    def damage(given: Path) -> None:
        shutil.rmtree(given / "checkpoint")
        inputs()(given)
        source = str(given / "model/transformer")
        workflow.quantize(source, recipe, given / "checkpoint", inputs=given / "inputs.safetensors")

    return damage


def text_encoder(vocabulary: int, width: int) -> Damage:
    return lambda given: make_text_encoder(vocabulary, width).save_pretrained(given / "model/text_encoder")


def cutting_tokenizer(given: Path) -> None:
    """As transformers saves one that was called with truncation=True; and a prompt that it would cut."""
    cut = dict(direction="Right", max_length=8, strategy="LongestFirst", stride=0)
    edit("model/tokenizer/tokenizer.json", truncation=cut)(given)
    (given / "prompts.txt").write_text("red a\n" + "red " * 9)


def odd_width(given: Path) -> None:
    shape = dict(in_channels=3, out_channels=3, sample_size=8, patch_size=2, use_additional_conditions=False)
    fixed = dict(norm_elementwise_affine=False, interpolation_scale=1)
    PixArtTransformer2DModel(**ODD, **shape, **fixed).save_pretrained(given / "odd")
    fields = dict(name="whole", weight_bits=4, activation_bits=8, rotation="full")
    (given / "recipe.json").write_text(json.dumps(fields))


INDEX, CONFIG, TENSORS = "model/model_index.json", "model/transformer/config.json", f"model/transformer/{WEIGHTS}"
TOKENIZER, ENCODER = "model/tokenizer/tokenizer_config.json", "model/text_encoder/model.safetensors"
SCHEDULER = "model/scheduler/scheduler_config.json"
PACKED, MANIFEST = "checkpoint/model.safetensors", "bundle/manifest.json"
CODES, SCALE = "blocks.1.ff.up.packed", "blocks.1.ff.up.weight_scale"
NO_PROMPTS = edit("model/about.json", "prompts")
TYPED = '{"name": "x", "weight_bits": "4", "activation_bits": 8}'
TYPED_CLIP, TYPED_SEARCH, TYPED_RANK = (
    json.dumps(dict(name="x", weight_bits=4, activation_bits=8) | fields)
    for fields in (dict(activation_clip=0), dict(search="yes"), dict(rank=65))
)
NAN = torch.full((2, 8, 32), torch.nan)
# Of two samples the second overflows in the first block.
LARGE = torch.tensor([1.0, 3e38]).view(2, 1, 1, 1).expand(2, 3, 8, 8).contiguous()

RTN = "quantize {given}/model --recipe rtn-w8a8 --out {out}"
HADANORM = "quantize {given}/model --recipe hadanorm-w8a8 --steps 2 --out {out}"
AUTO = "quantize {given}/model --steps 2 --out {out}"  # without --recipe
PROMPTS, INPUTS = " --prompts {given}/prompts.txt", " --inputs {given}/inputs.safetensors"
PROMPTED = HADANORM + PROMPTS
ALONE = "quantize {given}/model/transformer --recipe hadanorm-w8a8 --out {out}"
CAPTURED = ALONE + INPUTS
EXPORT = "export {given}/checkpoint --target xnnpack --out {out}"
GENERATE = "generate {given}/bundle 'red a' --backend simulation --out {out}.png"
OWN = "{given}/checkpoint"
OTHER_SCHEDULER = RTN + " --scheduler {given}/s.json"
BROKEN, CLIPS = (
    json.dumps({"_class_name": "DDIMScheduler"} | fields)
    for fields in ({"num_train_timesteps": "x"}, {"clip_sample": True})
)
EVALUATE = "evaluate {given}/checkpoint --json {out}.json"
REPORT = "report {given}/bundle {given}/checkpoint --out {out}.html"


def recipe(name: str) -> str:
    return RTN.replace("rtn-w8a8", name)


RECIPE = recipe("{given}/recipe.json")

# (what is wrong, how it came to be, the command line, what its message says)
MISTAKES = [
    # the model
    ("no model", nothing, "quantize nosuch --recipe rtn-w8a8 --out {out}", ["nosuch", "give 'reference'"]),
    ("model is a file", write("x", ""), RTN.replace("model", "x"), ["given/x is a file", "diffusers folder"]),
    ("model is quantized", nothing, RTN.replace("model", "checkpoint"), ["checkpoint/config.json", "float model"]),
    ("name too long", nothing, f"quantize {'x' * 300} --recipe rtn-w8a8 --out {{out}}", ["xxx", "give 'reference'"]),
    ("not on the hub", nothing, "quantize no/such --recipe rtn-w8a8 --out {out}", ["no/such", "OSError", "check"]),
    ("no model folder", nothing, "quantize {given} --recipe rtn-w8a8 --out {out}", ["given", "model_index.json"]),
    ("index of no JSON", write(INDEX, "{"), RTN, ["model_index.json", "not JSON"]),
    ("index without class", edit(INDEX, "_class_name"), RTN, ["model_index.json", "_class_name"]),
    ("index of another kind", edit(INDEX, vae=["diffusers", "AutoencoderKL"]), RTN, ["vae", "--inputs"]),
    ("index of wrong type", edit(INDEX, scheduler=5), RTN, ["given/model", "has no scheduler"]),
    ("pipeline class", edit(INDEX, _class_name="DDPMPipeline"), RTN, ["DDPMPipeline", "--inputs"]),
    ("no pipeline class", edit(INDEX, _class_name="logging"), RTN, ["logging", "--inputs"]),
    ("config of no JSON", write(CONFIG, "{,}"), RTN, ["config.json", "not JSON", "copy it again"]),
    ("config without class", edit(CONFIG, "_class_name"), RTN, ["config.json", "_class_name"]),
    ("unsupported class", edit(CONFIG, _class_name="UNet2DModel"), RTN, ["UNet2DModel", "PixArtTransformer2DModel"]),
    ("config of wrong type", edit(CONFIG, num_layers="two"), RTN, ["model/transformer", "num_layers", "'two'"]),
    ("config of other width", edit(CONFIG, caption_channels=31), RTN, ["caption_projection", "[64, 31]"]),
    ("truncated weights", truncate(TENSORS), RTN, [WEIGHTS, "truncated", "copy it again"]),
    ("missing tensor", tensors(TENSORS, lambda t: t.pop(QKV)), RTN, ["model/transformer", QKV, "missing"]),
    ("foreign tensor", tensors(TENSORS, lambda t: t.update(x=torch.ones(1))), RTN, ["model/transformer", "'x'"]),
    ("mis-shaped tensor", tensors(TENSORS, lambda t: t.update({QKV: torch.ones(2)})), RTN, [QKV, "[2]", "[64, 64]"]),
    ("NaN weights", tensors(TENSORS, lambda t: t[QKV].fill_(torch.nan)), RTN, ["4096 of 4096", QKV, "float32"]),
    ("pickled weights", pickle_only, RTN, ["model/transformer", ".bin", "safe_serialization=True"]),
    ("no text encoder", remove(ENCODER), RTN, ["model/text_encoder", "model.safetensors"]),
    ("truncated text encoder", truncate(ENCODER), RTN, ["model/text_encoder", "copy it again"]),
    ("text encoder lacks a tensor", tensors(ENCODER, lambda t: t.popitem()), RTN, ["model/text_encoder", "missing"]),
    ("NaN text encoder", tensors(ENCODER, lambda t: [v.fill_(torch.nan) for v in t.values()]), RTN, ["text_encoder"]),
    ("text encoder of no JSON", write("model/text_encoder/config.json", "{"), RTN, ["model/text_encoder", "copy"]),
    ("text encoder of other width", text_encoder(15, 16), RTN, ["given/model", "16 features", "takes 32"]),
    ("text encoder of fewer words", text_encoder(7, 32), RTN, ["given/model", "15 words", "encoder 7"]),
    ("no tokenizer", remove("model/tokenizer/tokenizer.json"), RTN, ["tokenizer.json", "AutoTokenizer"]),
    ("broken tokenizer", truncate("model/tokenizer/tokenizer.json"), RTN, ["tokenizer.json"]),
    ("tokenizer without length", edit(TOKENIZER, "model_max_length"), RTN, ["tokenizer_config", "model_max_length"]),
    ("endless tokenizer", edit(TOKENIZER, model_max_length=int(1e30)), RTN, ["tokenizer_config", "model_max_length"]),
    ("no scheduler", remove(SCHEDULER), RTN, ["scheduler_config.json", "check the path"]),
    ("unknown scheduler", edit(SCHEDULER, _class_name="logging"), RTN, ["scheduler_config.json", "'logging'"]),
    ("broken scheduler", edit(SCHEDULER, num_train_timesteps="x"), RTN, ["scheduler_config.json", "copy it again"]),
    ("about of wrong type", write("model/about.json", '{"prompts": "red"}'), RTN, ["about.json", "prompts"]),
    # the recipe
    ("unknown recipe", nothing, recipe("magic-w8a8"), ["magic-w8a8", "rtn, smoothquant"]),
    ("weights of 9 bits", nothing, recipe("rtn-w9a8"), ["rtn-w9a8", "weight_bits is 9", "2, 3, 4"]),
    ("weights of 1 bit", nothing, recipe("rtn-w1a8"), ["rtn-w1a8", "weight_bits is 1", "2, 3, 4"]),
    ("weights of 32 bits", nothing, recipe("rtn-w32a8"), ["rtn-w32a8", "weight_bits is 32", "2, 3, 4"]),
    ("activations of 17 bits", nothing, recipe("rtn-w8a17"), ["rtn-w8a17", "activation_bits is 17", "16"]),
    ("static 16 bits", nothing, recipe("rtn-w8a16-static"), ["rtn-w8a16-static", "16 bits", "leave out -static"]),
    ("groups that do not divide", nothing, recipe("rtn-w4a8-g48"), ["48", "64 inputs", "blocks.0.attn1.qkv"]),
    ("groups of 0", nothing, recipe("rtn-w4a8-g0"), ["group_size is 0", "positive"]),
    ("no recipe file", nothing, RECIPE, ["recipe.json", "does not exist"]),
    ("recipe of no JSON", write("recipe.json", "w8a8"), RECIPE, ["recipe.json", "not JSON"]),
    ("recipe of no object", write("recipe.json", "[]"), RECIPE, ["recipe.json", "JSON object"]),
    ("recipe field", write("recipe.json", '{"bits": 8}'), RECIPE, ["'bits'", "weight_bits"]),
    ("recipe of wrong type", write("recipe.json", TYPED), RECIPE, ["weight_bits is '4'"]),
    ("no such rotation", odd_width, RECIPE.replace("model", "odd"), ["whole", "92 inputs", "blocks.0", "block"]),
    ("unknown recipe to list", nothing, "recipes --json magic", ["'magic'", "METHOD-wXaY"]),
    ("budget below the weights", nothing, recipe("rtn-w4a8 --average-bits 3"), ["average_bits is 3", "(4) to 8"]),
    ("budget of 9 bits", nothing, recipe("rtn-w4a8 --average-bits 9"), ["rtn-w4a8-avg9", "average_bits is 9", "to 8"]),
    ("budget of float weights", nothing, recipe("rtn-w16a8 --average-bits 8"), ["average_bits is 8", "(16) to 8"]),
    ("budget of NaN", nothing, recipe("rtn-w4a8 --average-bits nan"), ["average_bits is nan", "(4) to 8"]),
    ("budget of no number", nothing, recipe("rtn-w4a8 --average-bits few"), ["--average-bits", "'few'"]),
    ("clip of everything", write("recipe.json", TYPED_CLIP), RECIPE, ["activation_clip is 0", "no range"]),
    ("search of no truth", write("recipe.json", TYPED_SEARCH), RECIPE, ["search is 'yes'", "true or false"]),
    ("rank beyond a linear", write("recipe.json", TYPED_RANK), RECIPE, ["rank 65", "64 of blocks.0.attn1.qkv"]),
    # what to calibrate on
    ("auto without data", NO_PROMPTS, AUTO, ["hadanorm-auto-w4a8", "needs calibration data", "--prompts FILE"]),
    ("default without data", nothing, ALONE.replace(" --recipe hadanorm-w8a8", ""), ["hadanorm-auto-w4a8", "--inputs"]),
    ("budget without data", NO_PROMPTS, recipe("rtn-w4a8 --average-bits 5"), ["rtn-w4a8-avg5", "--prompts FILE"]),
    ("transformer alone", nothing, ALONE, ["hadanorm-w8a8", "--inputs FILE"]),
    ("pipeline without prompts", NO_PROMPTS, HADANORM, ["hadanorm-w8a8", "--prompts FILE"]),
    ("no prompts file", nothing, PROMPTED, ["prompts.txt", "No such file"]),
    ("no prompts", write("prompts.txt", " \n\n"), PROMPTED, ["prompts.txt", "empty"]),
    ("binary prompts", write("prompts.txt", b"\xff"), PROMPTED, ["prompts.txt"]),
    ("prompts for a transformer", write("prompts.txt", "red"), ALONE + PROMPTS, ["--inputs FILE"]),
    ("unknown word to calibrate on", write("prompts.txt", "red a\nmauve c"), PROMPTED, ["'mauve c'", "inspect"]),
    ("too many words to calibrate on", cutting_tokenizer, PROMPTED, ["'red red", "9 tokens", "at most 8"]),
    ("prompts and inputs", prompts_and_inputs, CAPTURED + PROMPTS, ["--prompts", "--inputs", "not both"]),
    ("inputs are a folder", nothing, ALONE + " --inputs {given}", ["given", "it is a folder"]),
    ("no captured inputs", nothing, CAPTURED, ["inputs.safetensors", "does not exist"]),
    ("inputs of no safetensors", write("inputs.safetensors", "text"), CAPTURED, ["inputs.safetensors", "not a safet"]),
    ("inputs of other names", inputs(latents=torch.ones(1)), CAPTURED, ["'latents'", "hidden_states, encoder"]),
    ("inputs without time", inputs(timestep=None), CAPTURED, ["'timestep'", "missing"]),
    ("inputs of other shape", inputs(hidden_states=torch.ones(2, 4, 8, 8)), CAPTURED, ["[2, 4, 8, 8]", "[2, 3, 8, 8]"]),
    ("inputs without samples", inputs(hidden_states=torch.ones(0, 3, 8, 8)), CAPTURED, ["[0, 3, 8, 8]", "no samples"]),
    ("inputs without tokens", inputs(encoder_attention_mask=torch.zeros(2, 8)), CAPTURED, ["_mask is not 1", "0"]),
    ("inputs with a bias", inputs(encoder_attention_mask=-1e4 * torch.ones(2, 8)), CAPTURED, ["_mask is not 1", "0"]),
    ("inputs with NaN", inputs(encoder_hidden_states=NAN), CAPTURED, ["512 of 512", "'encoder_hidden_states'"]),
    ("inputs that overflow", inputs(hidden_states=LARGE), CAPTURED, ["NaN or Inf", "blocks.0", "sample 1"]),
    ("quantize in 0 steps", nothing, HADANORM + " --steps 0", ["steps", "0", "from 1"]),
    ("quantize in -1 steps", nothing, RTN + " --steps -1", ["steps", "-1", "from 1"]),
    ("quantize in too many steps", nothing, RTN + " --steps 1000000", ["steps", "1000000", "1000"]),
    ("steps of no number", nothing, RTN + " --steps many", ["--steps", "'many'", "integer"]),
    ("guidance of NaN to quantize with", nothing, RTN + " --guidance nan", ["--guidance is nan", "0 to 100"]),
    ("guidance of -1 to quantize with", nothing, RTN + " --guidance -1", ["--guidance is -1", "0 to 100"]),
    ("guidance beyond 100", nothing, RTN + " --guidance 100.5", ["--guidance is 100.5", "0 to 100"]),
    ("guidance of no number", nothing, RTN + " --guidance much", ["--guidance", "'much'", "float"]),
    ("all noise and more", nothing, RTN + " --eta 1.5", ["--eta is 1.5", "0 to 1"]),
    ("negative share of noise", nothing, RTN + " --eta -0.1", ["--eta is -0.1", "0 to 1"]),
    ("share of noise of NaN", nothing, EXPORT + " --eta nan", ["--eta is nan", "0 to 1"]),
    ("unknown word that is unwanted", nothing, RTN + " --negative mauve", ["'mauve'", "inspect"]),
    ("too many unwanted words", nothing, RTN + f" --negative '{'red ' * 9}'", ["9 tokens", "at most 8", "shorten"]),
    ("no such scheduler", nothing, RTN + " --scheduler magic", ["'magic'", "no scheduler of diffusers"]),
    ("scheduler of another kind", nothing, RTN + " --scheduler UNet2DModel", ["'UNet2DModel'", "no scheduler"]),
    ("scheduler that is a function", nothing, RTN + " --scheduler logging", ["'logging'", "no scheduler"]),
    ("scheduler file that is not there", nothing, OTHER_SCHEDULER, ["given/s.json", "does not exist", "--scheduler"]),
    ("scheduler of no JSON", write("s.json", "{"), OTHER_SCHEDULER, ["given/s.json", "not JSON"]),
    ("scheduler of no object", write("s.json", "[]"), OTHER_SCHEDULER, ["given/s.json", "no object"]),
    ("scheduler without a class", write("s.json", "{}"), OTHER_SCHEDULER, ["given/s.json", "None", "no scheduler"]),
    ("scheduler of a wrong type", write("s.json", BROKEN), OTHER_SCHEDULER, ["given/s.json", "copy it again"]),
    (
        "scheduler folder without one",
        nothing,
        RTN + " --scheduler {given}/model",
        ["given/model", "scheduler_config.json"],
    ),
    ("scheduler that clips", write("s.json", CLIPS), OTHER_SCHEDULER, ["DDIMScheduler", "sets clip_sample"]),
    ("scheduler of codes", nothing, RTN + " --scheduler VQDiffusionScheduler", ["VQDiffusionScheduler"]),
    ("steps of a transformer alone", inputs(), CAPTURED + " --steps 4", ["samples nothing", "leave out --steps"]),
    ("guidance of a transformer alone", inputs(), CAPTURED + " --guidance 2", ["leave out --guidance"]),
    ("negative of a transformer alone", inputs(), CAPTURED + " --negative ''", ["leave out --negative"]),
    ("noise of a transformer alone", inputs(), CAPTURED + " --eta 0", ["leave out --eta"]),
    ("scheduler of a transformer alone", inputs(), CAPTURED + " --scheduler x", ["leave out --scheduler"]),
    ("dry run in 0 steps", nothing, RTN + " --dry-run --steps 0", ["steps", "0", "from 1"]),
    ("dry run of a transformer alone", inputs(), CAPTURED + " --dry-run --guidance 2", ["leave out --guidance"]),
    ("dry run by no such scheduler", nothing, RTN + " --dry-run --scheduler magic", ["'magic'", "no scheduler"]),
    ("negative noise seed", nothing, RTN + " --seed -1", ["seed", "-1", "0"]),
    ("unknown device", nothing, RTN + " --device tpu", ["'tpu'", "cpu, cuda"]),
    ("no such device here", nothing, RTN + " --device cuda", ["cuda", "--device auto"]),
    # the output
    ("output exists", lambda given: (given.parent / "area/out").mkdir(), RTN, ["area/out", "--force"]),
    ("output is a file", lambda given: (given.parent / "area/out").touch(), RTN + " --force", ["area/out", "--out"]),
    ("not ours to replace", nothing, RTN.replace("{out}", "{given}/model --force"), ["model", "did not write"]),
    ("output in a file", write("file", ""), RTN.replace("{out}", "{given}/file/out"), ["file/out", "--out"]),
    ("output in /proc", nothing, RTN.replace("{out}", "/proc/x"), ["/proc/x", "--out"]),
    ("export over its checkpoint", nothing, EXPORT.replace("{out}", f"{OWN} --force"), ["checkpoint", "of its own"]),
    ("export into its checkpoint", nothing, EXPORT.replace("{out}", f"{OWN}/out"), ["checkpoint", "of its own"]),
    ("export over a folder", nothing, EXPORT.replace("{out}", "{given}/bundle"), ["bundle", "--force"]),
    ("picture in no folder", nothing, GENERATE.replace("{out}", "{out}/x"), ["x.png", "create it"]),
    ("picture over a folder", nothing, GENERATE.replace("{out}.png", "{given}"), ["given", ".png"]),
    ("metrics in /proc", quantized("rtn-w8a8"), EVALUATE.replace("{out}", "/proc/x") + INPUTS, ["/proc/x.json"]),
    # the checkpoint
    ("no checkpoint", nothing, EXPORT.replace("checkpoint", "model"), ["given/model", "edge-hadanorm quantize"]),
    ("no weights", remove(PACKED), EXPORT, ["model.safetensors", "does not exist"]),
    ("truncated weights", truncate(PACKED), EXPORT, ["model.safetensors", "truncated", "copy it again"]),
    ("config of no JSON", write("checkpoint/config.json", "["), EXPORT, ["config.json", "not JSON"]),
    ("config without linears", edit("checkpoint/config.json", "linears"), EXPORT, ["checkpoint", "linears"]),
    ("newer format", edit("checkpoint/config.json", format=99), EXPORT, ["format 99", "update"]),
    ("recipe field", edit("checkpoint/recipe.json", bits=8), EXPORT, ["checkpoint", "'bits'"]),
    ("missing codes", tensors(PACKED, lambda t: t.pop(CODES)), EXPORT, [CODES, "missing", "quantize again"]),
    ("mis-shaped codes", tensors(PACKED, lambda t: t.update({CODES: t[CODES][:9]})), EXPORT, [CODES, "[9]"]),
    ("mis-shaped scale", tensors(PACKED, lambda t: t.update({SCALE: torch.ones(1, 1)})), EXPORT, [SCALE, "[1, 1]"]),
    ("NaN weights", tensors(PACKED, lambda t: t["final.bias"].fill_(torch.nan)), EXPORT, ["'final.bias'", "NaN"]),
    # the target
    ("unknown target", nothing, EXPORT.replace("xnnpack", "tpu"), ["'tpu'", "xnnpack"]),
    ("static activations", quantized("rtn-w8a8-static"), EXPORT, ["rtn-w8a8-static", "without -static"]),
    ("groups of 8 bits", quantized("rtn-w8a8-g32"), EXPORT, ["rtn-w8a8-g32", "at most 4 bits"]),
    ("float weights", quantized("rtn-w16a8"), EXPORT, ["rtn-w16a8", "at most 8 bits, or both in float (w16a16)"]),
    ("float activations", quantized("rtn-w8a16"), EXPORT, ["rtn-w8a16", "at most 8 bits"]),
    # how a bundle samples
    ("export in 0 steps", nothing, EXPORT + " --steps 0", ["steps", "0", "from 1"]),
    ("export in too many steps", nothing, EXPORT + " --steps 1001", ["steps", "1001", "1000"]),
    ("export with guidance of NaN", nothing, EXPORT + " --guidance nan", ["--guidance is nan", "0 to 100"]),
    ("export with an unknown word", nothing, EXPORT + " --negative mauve", ["'mauve'", "inspect"]),
    ("export with no such scheduler", nothing, EXPORT + " --scheduler magic", ["'magic'", "no scheduler of diffusers"]),
    ("export of backward shares", nothing, EXPORT + " --guidance-steps 0.6-0.2", ["from 0.6 to 0.2", "no shares"]),
    (
        "export of too large shares",
        nothing,
        EXPORT + " --guidance-steps 0-60",
        ["from 0 to 60", "no shares", "0.0-1.0"],
    ),
    ("export of no shares", nothing, EXPORT + " --guidance-steps most", ["--guidance-steps", "'most'", "0.0-0.6"]),
    ("export of a transformer in steps", quantized("rtn-w8a8"), EXPORT + " --steps 4", ["leave out --steps"]),
    (
        "export of a transformer with shares",
        quantized("rtn-w8a8"),
        EXPORT + " --guidance-steps 0-0.5",
        ["given/checkpoint", "samples nothing", "leave out --guidance-steps"],
    ),
    ("size of no numbers", nothing, EXPORT + " --size large", ["--size", "'large'", "768x512"]),
    ("size of nothing", nothing, EXPORT + " --size 0x8", ["--size 0x8", "multiples of 1"]),
    ("size of parts of patches", nothing, EXPORT + " --size 9x8", ["--size", "[8, 9]", "whole patches of 2 x 2"]),
    ("size to quantize for", nothing, RTN + " --size 8x7", ["given/model", "--size", "[7, 8]", "whole patches"]),
    ("size of a transformer", quantized("rtn-w8a8"), EXPORT + " --size 8x8", ["samples nothing", "leave out --size"]),
    (
        "size of a transformer to quantize",
        nothing,
        "quantize {given}/model/transformer --recipe rtn-w8a8 --size 8x8 --out {out}",
        ["is a transformer alone", "no size in pixels", "leave out --size"],
    ),
    # what to evaluate with
    ("other reference", edit(CONFIG, interpolation_scale=2), EVALUATE + " --reference {given}/model", ["--reference"]),
    ("no reference", nothing, EVALUATE + " --reference nosuch", ["nosuch", "give 'reference'"]),
    ("no inputs to evaluate on", nothing, EVALUATE + " --inputs {given}/x", ["given/x", "check the path"]),
    ("nothing to evaluate on", NO_PROMPTS, EVALUATE + " --reference {given}/model", ["given/model", "--inputs"]),
    # what to report on, where to
    ("nothing to report on", nothing, "report --out {out}.html", ["PATH"]),
    (
        "no report of nosuch",
        nothing,
        "report {given}/nosuch --out {out}.html",
        ["given/nosuch", "edge-hadanorm quantize"],
    ),
    ("report on a float model", nothing, REPORT.replace("bundle", "model"), ["given/model", "no quantized checkpoint"]),
    ("report on two models", edit("checkpoint/config.json", source="reference"), REPORT, ["checkpoint", "one float"]),
    (
        "report on another config",
        edit(CONFIG, interpolation_scale=2),
        REPORT + " --reference {given}/model",
        ["config"],
    ),
    ("bundle without checkpoint", edit(MANIFEST, simulation=None), REPORT, ["given/bundle", "no checkpoint"]),
    ("no report without inputs", NO_PROMPTS, REPORT + " --reference {given}/model", ["given/model", "--inputs"]),
    ("report on no inputs", nothing, REPORT + " --inputs {given}/x", ["given/x", "check the path"]),
    ("inputs that overflow in a report", inputs(hidden_states=LARGE), REPORT + INPUTS, ["NaN or Inf", "sample 1"]),
    ("report of no HTML", nothing, REPORT.replace(".html", ".pdf"), ["out.pdf", ".html"]),
    ("report exists", write("../area/out.html", "mine"), REPORT, ["out.html", "--force"]),
    (
        "report over a folder",
        lambda given: (given / "x.html").mkdir(),
        REPORT.replace("{out}", "{given}/x"),
        ["x.html"],
    ),
    ("report in no folder", nothing, REPORT.replace("{out}", "{out}/x"), ["x.html", "create it"]),
    # what to inspect, where to show
    ("nothing to inspect", nothing, "inspect {given}", ["given", "model_index.json"]),
    ("inspect truncated weights", truncate(PACKED), "inspect {given}/checkpoint", ["model.safetensors", "truncated"]),
    ("inspect an altered bundle", flip("bundle/denoiser.pte"), "inspect {given}/bundle", ["'denoiser.pte'", "altered"]),
    ("demo over a folder", nothing, "demo --out {given}/bundle", ["given/bundle", "--force"]),
    # the bundle
    ("no bundle", nothing, GENERATE.replace("bundle", "checkpoint"), ["checkpoint", "manifest.json", "export"]),
    ("missing file", remove("bundle/denoiser.pte"), GENERATE, ["'denoiser.pte'", "missing", "copy"]),
    ("truncated file", truncate("bundle/denoiser.pte"), GENERATE, ["'denoiser.pte'", "truncated", "copy"]),
    ("altered file", flip("bundle/text_encoder.pte"), GENERATE, ["'text_encoder.pte'", "altered", "copy"]),
    ("foreign file", write("bundle/notes.txt", "hello"), GENERATE, ["'notes.txt'", "foreign", "remove it"]),
    ("manifest of no JSON", truncate(MANIFEST), GENERATE, ["manifest.json", "not JSON"]),
    ("newer schema", edit(MANIFEST, schema=SCHEMA + 1), GENERATE, [f"schema {SCHEMA + 1}", "newer", "update"]),
    ("older schema", edit(MANIFEST, schema=2), GENERATE, ["schema 2", "older", "export the checkpoint again"]),
    (
        "no plans",
        edit(MANIFEST, sampling=None, golden=None),
        GENERATE,
        ["given/bundle", "transformer alone", "prompts"],
    ),
    ("file outside", edit(MANIFEST, simulation="../model"), GENERATE, ["simulation", "'../model'", "export"]),
    ("no simulation", edit(MANIFEST, simulation=None), GENERATE, ["no checkpoint", "--backend executorch"]),
    # the picture
    ("unknown word", nothing, GENERATE.replace("red a", "red mauve a"), ["'mauve'", "inspect"]),
    ("prompt of no UTF-8", nothing, GENERATE.replace("red a", "red \udcff"), ["'red \\udcff'", "UTF-8"]),
    ("too many words", nothing, GENERATE.replace("red a", "red " * 9), ["9 tokens", "at most 8", "shorten"]),
    ("picture in 0 steps", nothing, GENERATE + " --steps 0", ["no plan for 0 steps", "1, 2, 3"]),
    ("picture in -3 steps", nothing, GENERATE + " --steps -3", ["-3 steps", "1, 2, 3"]),
    ("picture in too many steps", nothing, GENERATE + " --steps 1000000", ["1000000 steps", "40, 50"]),
    ("guidance of NaN", nothing, GENERATE + " --guidance nan", ["--guidance is nan", "0 to 100"]),
    ("negative guidance", nothing, GENERATE + " --guidance -1", ["--guidance is -1", "0 to 100"]),
    ("too much guidance", nothing, GENERATE + " --guidance 101", ["--guidance is 101", "0 to 100"]),
    ("unknown unwanted word", nothing, GENERATE + " --negative 'red mauve a'", ["'mauve'", "inspect"]),
    (
        "too many words unwanted",
        nothing,
        GENERATE + f" --negative '{'red ' * 9}'",
        ["9 tokens", "at most 8", "shorten"],
    ),
    ("negative of no UTF-8", nothing, GENERATE + " --negative 'red \udcff'", ["'red \\udcff'", "UTF-8"]),
    ("one share of the steps", nothing, GENERATE + " --guidance-steps 0.6", ["--guidance-steps", "'0.6'", "0.0-0.6"]),
    ("shares of no numbers", nothing, GENERATE + " --guidance-steps 0.1.2-1", ["--guidance-steps", "'0.1.2-1'"]),
    ("a negative share", nothing, GENERATE + " --guidance-steps -0.5-1", ["--guidance-steps", "'-0.5-1'", "0.0-0.6"]),
    ("backward shares", nothing, GENERATE + " --guidance-steps 0.6-0.2", ["from 0.6 to 0.2", "no shares", "0.0-1.0"]),
    ("too large a share", nothing, GENERATE + " --guidance-steps 0-1.5", ["from 0 to 1.5", "no shares", "0.0-1.0"]),
    ("strength of nothing", nothing, GENERATE + " --strength 0.5", ["--strength", "give one as --init"]),
    ("mask of nothing", nothing, GENERATE + " --mask {given}/m.png", ["--mask", "give one as --init"]),
    ("no such picture", nothing, GENERATE + " --init {given}/i.png", ["i.png", "does not exist"]),
    ("no picture", write("i.png", "hello"), GENERATE + " --init {given}/i.png", ["i.png", "cannot be read", "JPEG"]),
    ("no mask", picture("i.png"), GENERATE + " --init {given}/i.png --mask {given}/m.png", ["m.png", "not exist"]),
    *(
        (f"strength of {s}", picture("i.png"), GENERATE + f" --init {{given}}/i.png --strength {s}", ["--strength", s])
        for s in ("0", "-0.5", "1.01", "nan")
    ),
    ("negative seed", nothing, GENERATE + " --seed -1", ["seed", "-1"]),
    ("seed beyond 64 bits", nothing, GENERATE + f" --seed {2**64}", ["seed", str(2**64)]),
    ("no PNG", nothing, GENERATE.replace(".png", ".jpg"), ["out.jpg", ".png"]),
    # the command line
    ("unknown command", nothing, "quantise", ["quantise", "edge-hadanorm --help"]),
    ("no model at all", nothing, "quantize", ["'MODEL'", "edge-hadanorm quantize --help"]),
    ("unknown option", nothing, RTN + " --bits 8", ["--bits", "edge-hadanorm quantize --help"]),
]


@pytest.fixture
def place(tmp_path, tiny_pipeline, tiny_checkpoint, tiny_bundle, monkeypatch) -> SimpleNamespace:
    """Copies to damage in `given`, an empty `area` for outputs; the accelerator and the network are away."""
    given, area = tmp_path / "given", tmp_path / "area"
    shutil.copytree(tiny_pipeline, given / "model")
    shutil.copytree(tiny_checkpoint("rtn-w8a8"), given / "checkpoint")
    shutil.copytree(tiny_bundle("rtn-w8a8").folder, given / "bundle")
    area.mkdir()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    return SimpleNamespace(root=tmp_path, given=given, area=area, out=area / "out")


def offline(*_, **__) -> None:
    raise OSError("no network")


@pytest.mark.parametrize(("damage", "line", "words"), [pytest.param(*case, id=name) for name, *case in MISTAKES])
def test_a_mistake_is_answered_in_a_line_and_leaves_nothing_behind(place, run, damage, line, words):
    damage(place.given)
    before = tree(place.root)
    status, shown = run(line.format(given=place.given, out=place.out))
    assert_answered(status, shown, words)
    assert tree(place.root) == before


def test_without_a_command_the_commands_are_shown(run):
    status, shown = run("")
    assert status == console.MISTAKE
    assert shown.startswith("Usage: edge-hadanorm")
    assert "quantize" in shown
    assert "see `" not in shown


def test_without_a_runtime_the_simulation_is_offered(place, run, monkeypatch):
    monkeypatch.setattr(deploying, "has_executorch", lambda: False)
    line = GENERATE.format(given=place.given, out=place.out)
    status, shown = run(line.replace("simulation", "executorch"))
    assert_answered(status, shown, ["pip install executorch", "--backend simulation"])
    assert run(line.replace("simulation", "auto") + " --steps 2")[0] == 0


@pytest.mark.parametrize("guidance", [0, 100])
def test_the_empty_prompt_is_no_mistake(place, run, guidance):
    line = GENERATE.format(given=place.given, out=place.out).replace("red a", "")
    assert run(f"{line} --steps 1 --guidance {guidance}") == (0, "")
    assert tree(place.area).keys() == {"out.png"}


def test_force_replaces(place, run):
    before = tree(place.root).keys()
    line = recipe("rtn-w4a8").format(given=place.given, out=place.given / "checkpoint")
    assert run(line)[0] == console.MISTAKE
    assert run(line + " --force") == (0, "")
    assert json.loads((place.given / "checkpoint/recipe.json").read_text())["name"] == "rtn-w4a8"
    assert tree(place.root).keys() == before


def test_an_interrupted_calibration_is_taken_up_again(place, run, monkeypatch):
    (place.given / "prompts.txt").write_text("red a\nred b\nred c\n")
    line = PROMPTED.format(given=place.given, out=place.out)
    left = []

    def interrupted(what: str):
        def items(samples):
            left.append(len(samples))
            yield samples[0]
            raise KeyboardInterrupt

        return items

    with monkeypatch.context() as patch:
        patch.setattr(console, "progress", interrupted)
        for _ in range(2):
            assert run(line) == (console.INTERRUPTED, "edge-hadanorm: interrupted\n")
            assert tree(place.area).keys() == {".out.calibration.safetensors"}
    assert left == [3, 2]
    assert run(line) == (0, "")
    assert {path.name for path in place.area.iterdir()} == {"out"}


def test_a_full_disk(place, run):
    """Stands in for one: a limit on the size of a file, below that of the weights."""
    before = tree(place.root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        status, shown = run(RTN.format(given=place.given, out=place.out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_answered(status, shown, ["cannot write", "model.safetensors", "make room"])
    assert tree(place.root) == before


def test_debugging_shows_where_a_mistake_was_found(run, monkeypatch):
    monkeypatch.setenv(console.DEBUG, "1")
    status, shown = run("quantize nosuch --recipe magic --out x")
    assert status == console.MISTAKE
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith("edge-hadanorm: unknown recipe 'magic'")


def test_what_is_no_mistake_of_the_user_shows_a_traceback(run, monkeypatch):
    monkeypatch.setattr(workflow, "quantize", lambda *_, **__: 1 / 0)
    status, shown = run("quantize nosuch --recipe magic --out x")
    assert status == console.CRASH
    assert shown.splitlines()[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (GENERATE.replace("simulation", "executorch").replace("red a", "mauve"), ["'mauve'"]),
        (EXPORT.replace("xnnpack", "tpu"), ["'tpu'", "xnnpack"]),
    ],
    ids=["generate", "export"],
)
def test_libraries_add_nothing_to_the_line(place, line, words):
    """They write to sys.stderr, to file descriptor 2 and to logs, so the whole process is looked at."""
    before = tree(place.root)
    main = "from edge_hadanorm.cli import main; main()"
    args = shlex.split(line.format(given=place.given, out=place.out))
    ended = subprocess.run([sys.executable, "-c", main, *args], capture_output=True, text=True, check=False)
    assert_answered(ended.returncode, ended.stderr, words)
    assert ended.stdout == ""
    assert tree(place.root) == before
