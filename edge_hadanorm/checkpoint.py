"""The quantized checkpoint: a folder that stands on its own.

config.json         transformer class and config, sampling defaults, and for every quantized linear what its input's
                    transform became: `absorbed` by the layer before (`producer`, see fold.py), the rest online
recipe.json         the recipe
model.safetensors   packed codes, scales, transforms, low-rank branches, float rest
metrics.json        what was measured when it was quantized
scheduler/ and so on   the pipeline's other components, where there is one; about.json, classes.json
"""

import dataclasses
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from edge_hadanorm import bundle as bundles
from edge_hadanorm.errors import UserError
from edge_hadanorm.files import link_or_copy, read_json, write_json
from edge_hadanorm.method import grids, recipe
from edge_hadanorm.method.fold import submodule
from edge_hadanorm.method.linear import FLOAT_BITS, QuantizedLinear
from edge_hadanorm.method.low_rank import LowRank
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.method.transform import FeatureTransform
from edge_hadanorm.models import family
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.loading import FloatModel, Size
from edge_hadanorm.pipelines.schedulers import make_scheduler, read_scheduler
from edge_hadanorm.pipelines.text_to_image import ABOUT, LABELS, SCHEDULER_CONFIG, TextToImage
from edge_hadanorm.tensor_files import read_tensors, require_finite, write_tensors

FORMAT = 4
METRICS = "metrics.json"
# What an input goes through before its linear: in the layers before, and in the linear.
STAGES = ("absorbed", "transform")


@dataclass(frozen=True)
class Text:
    """Size of a prompt as a denoiser is given it: so many tokens, and a mask of them where the model pads."""

    tokens: int
    masked: bool = False

    @classmethod
    def of(cls, prompt: dict[str, torch.Tensor]) -> "Text":
        """Take the size of what `prepare` is given; a model of classes is given no tokens."""
        return cls(prompt["text"].shape[1] if "text" in prompt else 0, "mask" in prompt)


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A quantized model.

    source: the name of the float model that it was made of. text: what its `prepare` is given. pipeline: None for a
    transformer alone. metrics: what was measured when it was quantized; empty where nothing was.
    """

    source: str
    recipe: Recipe
    denoiser: Denoiser
    text: Text
    pipeline: TextToImage | None
    metrics: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        """The recipe, the source and every layer; a quantized linear shows its bits, its shape and what is online."""
        return f"{self.recipe.name} of {self.source}: {self.denoiser}"


def save(folder: Path, saved: Checkpoint) -> None:
    """Write a checkpoint into an existing empty folder."""
    denoiser, pipeline = saved.denoiser, saved.pipeline
    state, linears, producers = denoiser.state_dict(), {}, denoiser.producers()
    quantized = {name: module for name, module in denoiser.named_modules() if isinstance(module, QuantizedLinear)}
    for name, linear in quantized.items():
        if linear.codes is not None:
            state[f"{name}.packed"] = grids.pack(state.pop(f"{name}.codes"), linear.recipe.weight_bits)
        linears[name] = {
            "producer": producers[name].name if name in producers else None,
            **{stage: getattr(linear, stage).layout() for stage in STAGES},
            "recipe": linear.recipe.to_json(),
        }
    write_json(
        folder / "config.json",
        {
            "format": FORMAT,
            "source": saved.source,
            "transformer_class": denoiser.source_class,
            "transformer": denoiser.config,
            "text": dataclasses.asdict(saved.text),
            "sampling": pipeline and pipeline.settings,
            "linears": linears,
        },
    )
    write_json(folder / "recipe.json", saved.recipe.to_json())
    write_tensors(folder / "model.safetensors", state)
    if pipeline is not None:
        for component in pipeline.kind.components:
            shutil.copytree(pipeline.folder / component, folder / component, ignore=_strays, copy_function=link_or_copy)
        if pipeline.scheduler != read_scheduler(pipeline.folder / SCHEDULER_CONFIG):
            make_scheduler(pipeline.scheduler).save_config((folder / SCHEDULER_CONFIG).parent)
        if pipeline.labels is not None:
            names = {str(number): name for name, number in pipeline.labels.items()}
            write_json(folder / LABELS, {"id2label": names})
        write_json(folder / ABOUT, {"licence": pipeline.licence, "prompts": pipeline.prompts})


def load(folder: Path) -> Checkpoint:
    """Raises UserError for a folder that is no checkpoint, or a broken one."""
    if not all(os.path.isfile(folder / file) for file in ("config.json", "recipe.json")):
        raise UserError(f"{folder} is no quantized checkpoint: make one with `edge-hadanorm quantize`")
    config = read_json(folder / "config.json", "checkpoint config")
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise UserError(f"{folder / 'config.json'} is no checkpoint config: it names no format")
    if config["format"] != FORMAT:
        age, way = ("a newer", "update") if config["format"] > FORMAT else ("an older", "quantize again")
        raise UserError(f"{folder} was made by {age} edge-hadanorm (format {config['format']}); {way}")
    tensors = read_tensors(folder / "model.safetensors")
    # Out of the mapped file into aligned memory: unaligned, a product may differ in its last bit from what was saved.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    require_finite(tensors, f"weights of {folder}")
    try:
        denoiser = _denoiser(config, tensors)
        pipeline = config["sampling"] and TextToImage(folder, **config["sampling"]).of_tokens(denoiser.image_tokens())
        own = recipe.load(str(folder / "recipe.json"))
        return Checkpoint(config["source"], own, denoiser, Text(**config["text"]), pipeline, _metrics(folder))
    except UserError as error:
        raise UserError(f"checkpoint {folder}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {folder} is broken ({type(error).__name__}: {reason}); quantize again") from None


def _metrics(folder: Path) -> dict:
    metrics = read_json(folder / METRICS, "metrics") if (folder / METRICS).exists() else {}
    return metrics if isinstance(metrics, dict) else {}


def _strays(folder: str, names: list[str]) -> list[str]:
    """List what a component's folder has besides safetensors and JSON, pickles among it."""
    return [name for name in names if not name.endswith((".json", ".safetensors"))]


def _denoiser(config: dict, tensors: dict[str, torch.Tensor]) -> Denoiser:
    for key, count in config["transformer"].items():
        if "layers" in key and isinstance(count, int) and count > len(tensors):  # millions would take minutes to make
            raise UserError(
                f"config.json: {key} is {count}, of which model.safetensors has no tensors; copy both again"
            )
    with torch.device("meta"):
        denoiser = family(config["transformer_class"])(config["transformer"])
    for name, layout in config["linears"].items():
        own = {key.removeprefix(name + "."): tensors.pop(key) for key in list(tensors) if key.startswith(name + ".")}
        denoiser.set_submodule(name, _linear(name, layout, submodule(denoiser, name), own))
        tensors |= {f"{name}.{key}": tensor for key, tensor in denoiser.get_submodule(name).state_dict().items()}
    denoiser.load_state_dict(tensors, assign=True)
    return denoiser.eval().requires_grad_(False)


def _linear(name: str, layout: dict, linear: nn.Linear, tensors: dict[str, torch.Tensor]) -> QuantizedLinear:
    """The quantized form of a float linear, of which only the shape counts."""
    own, shape = recipe.from_json(layout["recipe"]), tuple(linear.weight.shape)
    _check_shapes(name, linear, own, layout, tensors)
    absorbed, online = (
        FeatureTransform.from_layout(
            layout[stage], {key.removeprefix(f"{stage}."): t for key, t in tensors.items() if key.startswith(stage)}
        )
        for stage in STAGES
    )
    codes = grids.unpack(tensors["packed"], own.weight_bits, shape) if "packed" in tensors else None
    quantized = QuantizedLinear(
        own,
        online,
        codes,
        tensors.get("weight_scale"),
        tensors.get("bias"),
        tensors.get("float_weight"),
        absorbed,
        LowRank(tensors["low_rank.down"], tensors["low_rank.up"]) if "low_rank.down" in tensors else None,
    )
    if own.activations == "tensor":
        quantized.activation_scale = tensors["activation_scale"]
        quantized.activation_zero_point = tensors["activation_zero_point"]
    return quantized


def _check_shapes(name: str, linear: nn.Linear, own: Recipe, layout: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Raises UserError where a tensor of a quantized linear is missing, foreign or not as config.json has it."""
    rows, columns = linear.weight.shape
    shapes: dict[str, tuple[int, ...]]
    if own.weight_bits == FLOAT_BITS:
        shapes = {"float_weight": (rows, columns)}
    else:
        packed = -(-rows * columns * own.weight_bits // 8)
        shapes = {"packed": (packed,), "weight_scale": (rows, columns // (own.group_size or columns))}
        if own.rank:
            shapes |= {"low_rank.down": (own.rank, columns), "low_rank.up": (rows, own.rank)}
    if own.activations == "tensor":
        shapes |= {"activation_scale": (), "activation_zero_point": ()}
    for stage in STAGES:
        parts = {"centre": layout[stage]["centre"], "inverse_scale": layout[stage]["scale"]}
        shapes |= {f"{stage}.{part}": (columns,) for part, present in parts.items() if present}
    if own.centre != "none" or own.rounding == "gptq" or linear.bias is not None:
        shapes["bias"] = (rows,)
    for key in (*shapes, *tensors):
        if key not in tensors:
            raise UserError(f"tensor {name}.{key} is missing; quantize again")
        if (found := tuple(tensors[key].shape)) != shapes.get(key):
            raise UserError(f"tensor {name}.{key} of shape {list(found)} is not of its recipe; quantize again")


def save_metrics(folder: Path, saved: Checkpoint) -> None:
    """Write what was measured of a quantized model beside it, if anything was."""
    if saved.metrics:
        write_json(folder / METRICS, saved.metrics)


def float_model(path: Path, saved: Checkpoint, reference: str | None) -> FloatModel:
    """Load what the checkpoint at a path was quantized from, or the `reference` where it is given."""
    model = loading.load(reference or saved.source, size_of(saved))
    check_config(path, saved, model)
    return sampled_alike(model, saved)


def size_of(saved: Checkpoint) -> Size:
    """Size of what a checkpoint was quantized for."""
    _, height, width = saved.denoiser.latent_shape()
    return Size(latents=(height, width))


def sampled_alike(model: FloatModel, saved: Checkpoint) -> FloatModel:
    """The float model with the checkpoint's defaults of sampling, so that both draw the same way."""
    own = saved.pipeline
    if model.pipeline is None or own is None:
        return model
    pipeline = model.pipeline.with_defaults(own.steps, own.guidance, own.negative, own.eta, own.scheduler)
    return dataclasses.replace(model, pipeline=pipeline)


def check_config(name: object, saved: Checkpoint, model: FloatModel) -> None:
    """Raises UserError where the checkpoint of this name cannot be of this model."""
    configs = [denoiser.config | {"latent_size": None} for denoiser in (saved.denoiser, model.denoiser)]
    if configs[0] != configs[1] or saved.denoiser.latent_shape() != model.denoiser.latent_shape():
        raise UserError(f"{model.name} has another transformer config than {name}; give its model as `reference`")


def quantized_model(path: Path) -> Checkpoint:
    """A checkpoint, or the one that a bundle carries."""
    return carried(bundles.load(path)) if (path / bundles.MANIFEST).exists() else load(path)


def carried(loaded: bundles.Bundle) -> Checkpoint:
    if loaded.manifest["simulation"] is None:
        raise UserError(
            f"bundle {loaded.folder} carries no checkpoint to simulate: take `backend` executorch, or give the "
            "checkpoint that it was exported from"
        )
    return load(loaded.folder / loaded.manifest["simulation"])
