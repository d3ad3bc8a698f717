"""The manifest's schema as JSON Schema (draft 2020-12), for readers in other languages: manifest.schema.json.

It is made of the fields in schema.py; run `python -m edge_hadanorm.bundle.json_schema` after a change of those.
JSON Schema cannot state how parts go together and takes 8.0 for the integer 8, so `bundle.load` refuses more.
"""

from pathlib import Path

from edge_hadanorm.bundle.schema import FIELDS, MANIFEST, PACKAGED, Kind, Value
from edge_hadanorm.files import write_json

FILE = Path(__file__).parent / "manifest.schema.json"
# By place in the manifest; `*` stands for any key, `[]` for any item.
DESCRIPTIONS = {
    "": "The manifest of a bundle: a folder with all that a device needs to make pictures.",
    ".schema": "Version of this format. A reader refuses any other.",
    ".generator": "Name and version of the program that wrote the bundle.",
    ".target": "Name of the export target that the programs are for, such as xnnpack (ExecuTorch .pte) or coreml.",
    ".family": "The transformer's class in diffusers.",
    ".recipe": "Name of the quantization recipe.",
    ".image": "Size of a picture.",
    ".image.width": "Width in pixels.",
    ".image.height": "Height in pixels.",
    ".image.channels": "Channels, 3 for red, green and blue.",
    ".latents": "The tensor that a picture is sampled as.",
    ".latents.shape": "[C, H, W] of one sample.",
    ".sizes": "Other sizes of the same bundle, by name such as 768x512. Empty where there is one size.",
    ".sizes.*": "A size, as far as it is not like the default one, which the rest of the manifest is of.",
    ".sizes.*.image": "Size of a picture.",
    ".sizes.*.image.width": "Width in pixels.",
    ".sizes.*.image.height": "Height in pixels.",
    ".sizes.*.image.channels": "Channels, 3 for red, green and blue.",
    ".sizes.*.latents": "The tensor that a picture is sampled as.",
    ".sizes.*.latents.shape": "[C, H, W] of one sample.",
    ".sizes.*.methods": "Methods of this size, by role of their program.",
    ".sizes.*.methods.*": "Methods of a program, by the names of those in whose place they stand.",
    ".sizes.*.methods.*.*": "Name of a method in the program.",
    ".sizes.*.plans": "Plans by name, where they are others than the default's; else null.",
    ".sizes.*.plans.*": "Coefficients of the sampling loop, a row a step.",
    ".programs": "Programs by role: denoiser, image_decoder, image_encoder, text_encoder and so on.",
    ".programs.*": "One program.",
    ".programs.*.file": "The program's file; for coreml a folder.",
    ".programs.*.methods": "Methods by name: encode, prepare, denoise, decode.",
    ".programs.*.methods.*": "One method. Its arguments and results are in the order listed, their shapes fixed.",
    ".programs.*.methods.*.inputs": "Arguments in order.",
    ".programs.*.methods.*.inputs[]": "One argument.",
    ".programs.*.methods.*.inputs[].name": "Name, by which outputs of encoders find the inputs of prepare.",
    ".programs.*.methods.*.inputs[].dtype": "Type of an element.",
    ".programs.*.methods.*.inputs[].shape": "Sizes, slowest first.",
    ".programs.*.methods.*.inputs[].feature": "Name of the tensor in its Core ML function.",
    ".programs.*.methods.*.outputs": "Results in order.",
    ".programs.*.methods.*.outputs[]": "One result.",
    ".programs.*.methods.*.outputs[].name": "Name, by which outputs of encoders find the inputs of prepare.",
    ".programs.*.methods.*.outputs[].dtype": "Type of an element.",
    ".programs.*.methods.*.outputs[].shape": "Sizes, slowest first.",
    ".programs.*.methods.*.outputs[].feature": "Name of the tensor in its Core ML function.",
    ".programs.*.methods.*.activations": "Bytes of what a call computes on the way; null where the system plans them.",
    ".programs.*.methods.*.package": "The folder X.mlpackage that a Core ML method is in.",
    ".programs.*.methods.*.function": "Name of a Core ML method in its package.",
    ".prompt": "How a prompt becomes the inputs of prepare; null for a transformer alone.",
    ".prompt.encoders": "Tokenizers of the text encoders, by role.",
    ".prompt.encoders.*": "One tokenizer, with a fixed number of ids.",
    ".prompt.encoders.*.tokenizer": "A JSON file of the library tokenizers.",
    ".prompt.encoders.*.length": "Number of ids; a longer prompt is refused.",
    ".prompt.encoders.*.pad_id": "Id that fills up a shorter prompt.",
    ".prompt.encoders.*.unknown_id": "Id of words that are not in the vocabulary, which are refused; null without one.",
    ".prompt.encoders.*.prefix": "Text before every prompt but a negative one.",
    ".prompt.encoders.*.kept": "Places of the states that the encoder gives, its third input; null where it has none.",
    ".prompt.encoders.*.kept.prompt": "Those of a prompt.",
    ".prompt.encoders.*.kept.prompt[]": "One place, counted from 0.",
    ".prompt.encoders.*.kept.negative": "Those of a negative prompt, which has at most so many ids.",
    ".prompt.encoders.*.kept.negative[]": "One place, counted from 0.",
    ".prompt.lower": "Whether prompts are lower-cased and stripped of white space at their ends.",
    ".prompt.labels": "Numbers of the classes that can be drawn, by name; null where prompts are texts.",
    ".prompt.labels.*": "Number of a class.",
    ".prompt.embedded": "Prompts that the bundle carries encoded; null where it has text encoders.",
    ".prompt.embedded.file": "A safetensors file of tensors [n, ...] by name, with a row a prompt.",
    ".prompt.embedded.prompts": "The prompts of the first rows.",
    ".prompt.embedded.prompts[]": "One prompt.",
    ".prompt.embedded.negatives": "The negative prompts of the rows after those.",
    ".prompt.embedded.negatives[]": "One negative prompt.",
    ".sampling": "How pictures are sampled; null for a transformer alone.",
    ".sampling.plan": "Name of the plan where the user names none.",
    ".sampling.guidance": "Classifier-free guidance where the user names none.",
    ".sampling.negative": "Negative prompt where the user names none.",
    ".sampling.plans": "Plans by name; that of a scheduler is named by its number of steps.",
    ".sampling.plans.*": "Coefficients of the sampling loop, a row a step.",
    ".noise": "Name of the noise generator, which fixes the bits of a seed.",
    ".golden": "A picture to check a device against; null without one.",
    ".golden.file": "The expected picture, a PNG.",
    ".golden.prompt": "Its prompt.",
    ".golden.negative": "Its negative prompt.",
    ".golden.seed": "Seed of its noise.",
    ".golden.plan": "Name of its plan.",
    ".golden.guidance": "Its guidance.",
    ".golden.psnr_db": "Least PSNR in decibels of a device's picture to the expected one.",
    ".simulation": "Folder of the quantized checkpoint, for a host without a runtime for the target; null without it.",
    ".licence": "Licence of the weights.",
    ".files": "Every file of the bundle but manifest.json, by path.",
    ".files.*": "What a file must be.",
    ".files.*.sha256": "64 lower-case hexadecimal digits.",
    ".files.*.bytes": "Size.",
}
METHOD = ".programs.*.methods.*"


def json_schema() -> dict:
    """Make the JSON Schema of a manifest."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": MANIFEST,
    }
    return head | _schema(FIELDS, "")


def _schema(kind: Kind, place: str) -> dict:
    described = {"description": DESCRIPTIONS[place]}
    if isinstance(kind, Value):
        return described | kind.json_schema
    if isinstance(kind, list):
        return described | {"type": "array", "items": _schema(kind[0], f"{place}[]")}
    schema: dict = described | {"type": "object"}
    for key, item in kind.items():
        if isinstance(key, Value):
            schema |= {"propertyNames": key.json_schema, "additionalProperties": _schema(item, f"{place}.*")}
        else:
            name = key.rstrip("?")
            schema.setdefault("properties", {})[name] = _nullable(_schema(item, f"{place}.{name}"), name != key)
            schema.setdefault("required", []).append(name)
    if place == METHOD and kind is not PACKAGED:
        schema |= {"if": {"required": ["package"]}, "then": _schema(PACKAGED, METHOD)}
    return schema


def _nullable(schema: dict, nullable: bool) -> dict:
    """Let null pass too, with the description outside, where a reader looks for it."""
    if not nullable:
        return schema
    return {"description": schema.pop("description"), "anyOf": [schema, {"type": "null"}]}


if __name__ == "__main__":
    write_json(FILE, json_schema())
