"""Load float models: the reference, a diffusers pipeline or transformer folder, or a hub id of either."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json
from edge_hadanorm.models import FAMILIES, class_of, family
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.autoencoder import pixels_a_latent
from edge_hadanorm.pipelines.kinds import KINDS, Kind
from edge_hadanorm.pipelines.text_to_image import INDEX, TextToImage, encoded_shapes
from edge_hadanorm.tensor_files import LazyWeights, read_shapes, read_weights

REFERENCE = Path(__file__).parents[1] / "reference" / "weights"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class FloatModel:
    """A float model. name: as the user gave it. config: the transformer's. notes: lines that its user should read."""

    name: str
    transformer_class: str
    config: dict
    denoiser: Denoiser
    pipeline: TextToImage | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Size:
    """Size that a model is wanted for: of pictures, width and height in pixels, or of latents, [H, W].

    Neither: the size that the model's config has.
    """

    picture: tuple[int, int] | None = None
    latents: tuple[int, int] | None = None


AS_CONFIGURED = Size()


def load(name: str, size: Size = AS_CONFIGURED) -> FloatModel:
    """Load a model by name, in float32. Raises UserError for what is missing, broken, unsupported or not finite."""
    place = _find(name, size)
    return _build(place, LazyWeights(place.transformer))


def outline(name: str, size: Size = AS_CONFIGURED) -> FloatModel:
    """Load a model on the meta device, from config and headers alone: no weight is read. Raises UserError as `load`."""
    place = _find(name, size)
    return _build(place, read_weights(place.transformer, read=read_shapes))


def load_with(name: str, folder: Path, weights: Mapping[str, torch.Tensor], size: Size) -> FloatModel:
    """Load the model of a folder under another name, with its transformer's weights from memory."""
    return _build(replace(_find(str(folder), size), name=name), weights)


def resized(model: FloatModel, size: Size) -> FloatModel:
    """The model for another size, its weights shared. Raises UserError for a size that it cannot have."""
    latents = size.latents
    if size.picture is not None:
        if model.pipeline is None:
            raise _no_pixels(model.name)
        latents = latents_of(size.picture, model.pipeline)
    if latents is None:
        return model
    denoiser = model.denoiser.resized(*latents)
    pipeline = model.pipeline and model.pipeline.of_tokens(denoiser.image_tokens())
    return replace(model, denoiser=denoiser, config=denoiser.config, pipeline=pipeline)


def latents_of(picture: tuple[int, int], pipeline: TextToImage) -> tuple[int, int]:
    """H, W of the latents of a picture's width and height. Raises UserError where a latent pixel would be a part."""
    return _latents(picture, pipeline.folder, pipeline.kind)


def _latents(picture: tuple[int, int], folder: Path, kind: Kind) -> tuple[int, int]:
    width, height = picture
    factor = pixels_a_latent(folder / "vae", kind.decoder) if kind.decoder else 1
    if min(picture) < 1 or width % factor or height % factor:
        raise UserError(f"`size` {width}x{height}: width and height must be multiples of {factor} pixels")
    return height // factor, width // factor


def _no_pixels(name: str) -> UserError:
    return UserError(
        f"{name} is a transformer alone, whose pictures have no size in pixels: leave out `size`, captured `inputs` "
        "have that of latents"
    )


@dataclass(frozen=True)
class _Place:
    """The place of a model on disk.

    folder: of the model. transformer: the folder of its transformer, which has the config. form: the class for it.
    """

    name: str
    folder: Path
    transformer: Path
    form: type[Denoiser]
    config: dict


def _find(name: str, size: Size) -> _Place:
    folder = REFERENCE if name == "reference" else Path(name)
    if not os.path.exists(folder) and _HUB_ID.fullmatch(name):
        folder = _download(name)
    if not os.path.isdir(folder):
        what = "is a file" if os.path.isfile(folder) else "does not exist"
        raise UserError(f"model {name} {what}: give 'reference', a diffusers folder or a hub id")
    transformer = folder / "transformer" if (folder / INDEX).exists() else folder
    if not (transformer / "config.json").is_file():
        raise UserError(f"{folder} is no model: it has neither {INDEX} nor config.json; give a diffusers folder")
    config = read_json(transformer / "config.json", "transformer config")
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        config_file = transformer / "config.json"
        raise UserError(f"{config_file} is no diffusers config: it names no _class_name; give a float model's folder")
    form = family(class_of(config))
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    return _Place(name, folder, transformer, form, config | _own_size(name, folder, config, size))


def _own_size(name: str, folder: Path, config: dict, size: Size) -> dict:
    """The key of a config that says a size which is not the config's own."""
    latents = size.latents
    if size.picture is not None:
        if not (folder / INDEX).exists():
            raise _no_pixels(name)
        index = read_json(folder / INDEX, "pipeline index")
        class_name = index.get("_class_name") if isinstance(index, dict) else None
        if class_name not in KINDS:  # which is answered where the pipeline is made
            return {}
        latents = _latents(size.picture, folder, KINDS[class_name])
    own = config.get("sample_size")
    return {} if latents is None or list(latents) in (own, [own, own]) else {"latent_size": list(latents)}


def _build(place: _Place, weights: Mapping[str, torch.Tensor]) -> FloatModel:
    try:
        denoiser = place.form.from_diffusers(place.config, weights).eval().requires_grad_(False)
    except UserError as error:
        raise UserError(f"{place.transformer}: {error}") from None
    index = place.folder / INDEX
    pipeline = _pipeline(place.folder, read_json(index, "pipeline index")) if index.exists() else None
    if pipeline is not None:
        _check_pipeline(place.folder, denoiser, pipeline)
        pipeline = pipeline.of_tokens(denoiser.image_tokens())
    return FloatModel(place.name, place.form.source_class, place.config, denoiser, pipeline, _notes(place.form))


def _notes(form: type[Denoiser]) -> tuple[str, ...]:
    if form.source_class in FAMILIES:
        return ()
    return (f"{form.source_class} has no form of its own: its linears are quantized where they are, nothing is folded",)


def _check_pipeline(folder: Path, denoiser: Denoiser, pipeline: TextToImage) -> None:
    """Raises UserError where what the encoders give is not what the denoiser takes."""
    prompt = pipeline.kind.gather(encoded_shapes(pipeline))
    wanted = denoiser.prompt_shapes(1)
    if foreign := sorted(set(wanted) ^ (set(prompt) - {"mask"})):
        raise UserError(
            f"{folder}: a {denoiser.source_class} is given {' and '.join(wanted)} and a {pipeline.class_name} has "
            f"{' and '.join(prompt)} ({foreign[0]} is not in both): give its transformer folder with `inputs` instead"
        )
    if pipeline.labels is not None and len(pipeline.labels) != denoiser.classes:
        raise UserError(
            f"{folder}: {len(pipeline.labels)} classes have names, the transformer knows {denoiser.classes}; copy both "
            "from one model"
        )
    for name, shape in wanted.items():
        if shape and prompt[name].shape[-1] != shape[-1]:
            raise UserError(
                f"{folder}: the text encoder gives {prompt[name].shape[-1]} features of {name}, the transformer takes "
                f"{shape[-1]}; copy both from one model"
            )


def _pipeline(folder: Path, index: object) -> TextToImage:
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"{folder / INDEX} is no pipeline index: it names no _class_name")
    class_name = index["_class_name"]
    if class_name not in KINDS:
        raise UserError(
            f"pipeline class {class_name} is not drawn with, only {', '.join(KINDS)}: give its transformer folder with "
            "`inputs` instead"
        )
    kind = KINDS[class_name]
    present = {key for key, value in index.items() if not key.startswith("_") and _names_class(value)}
    needed = {"transformer", *kind.components}
    if missing := sorted(needed - present):
        raise UserError(
            f"pipeline {folder} has no {missing[0]}, which {class_name} needs: copy it whole, or give its transformer "
            "folder with `inputs`"
        )
    if foreign := sorted(present - needed):
        raise UserError(
            f"pipeline {folder} has a component {foreign[0]}, of which nothing is known here for {class_name}: set it "
            "to [null, null] in model_index.json, or give its transformer folder with `inputs`"
        )
    return TextToImage(folder, class_name, kind.steps, kind.guidance, kind.prefix, kind.negative)


def _names_class(component: object) -> bool:
    """Whether a value of the pipeline index is [library, class]; an absent component is [null, null]."""
    return isinstance(component, list) and len(component) == 2 and None not in component


def _download(name: str) -> Path:
    """Fetch a hub repository's JSON and safetensors files into huggingface_hub's own cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model"]))
    except Exception as error:  # network, authorization and naming errors share no base class
        reason = type(error).__name__
        raise UserError(
            f"model {name} is no local folder, and the hub did not give it ({reason}): check the name and the network"
        ) from None
