"""Float models of diffusers objects in memory: a whole pipeline, or a transformer alone."""

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.loading import AS_CONFIGURED, FloatModel, Size, load_with


class FloatWeights(Mapping[str, torch.Tensor]):
    """A module's state dict in float32 on the CPU; a tensor that is already so is shared, another is converted when it
    is asked for.
    """

    def __init__(self, module: torch.nn.Module):
        self._state = module.state_dict()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._state[name].detach().to("cpu", torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


class Lifetime:
    """Shared by a pipeline and its copies with other defaults: their folder goes with the last of them."""


def is_pipeline(model: object) -> bool:
    """Whether an object is a pipeline of diffusers with a transformer."""
    return isinstance(getattr(model, "transformer", None), torch.nn.Module) and hasattr(model, "components")


def is_transformer(model: object) -> bool:
    """Whether an object is a transformer of diffusers."""
    return isinstance(model, torch.nn.Module) and hasattr(model, "save_config")


def from_memory(model: object, size: Size = AS_CONFIGURED) -> FloatModel:
    """Take a pipeline or a transformer of diffusers, whose weights are shared where they are in float32 on the CPU.

    The other components of a pipeline are written to a temporary folder, from which a checkpoint copies them; it goes
    with the last of the returned model's pipeline and its copies. Raises UserError for another object, and for a class
    that is not supported.
    """
    if not is_pipeline(model) and not is_transformer(model):
        raise UserError(
            f"{type(model).__name__} is no model: give the name of one, or a pipeline or transformer of diffusers"
        )
    folder = Path(tempfile.mkdtemp(prefix="edge-hadanorm-"))
    try:
        loaded = _from_pipeline(model, folder, size) if is_pipeline(model) else _from_transformer(model, folder, size)
    except BaseException:
        shutil.rmtree(folder)
        raise
    if loaded.pipeline is None:
        shutil.rmtree(folder)
    else:
        loaded.pipeline.lifetime = lifetime = Lifetime()
        weakref.finalize(lifetime, shutil.rmtree, folder, ignore_errors=True)
    return loaded


def _from_transformer(transformer, folder: Path, size: Size) -> FloatModel:
    transformer.save_config(folder)
    return load_with(_name(transformer), folder, FloatWeights(transformer), size)


def _from_pipeline(pipeline, folder: Path, size: Size) -> FloatModel:
    pipeline.save_config(folder)
    for name, component in pipeline.components.items():
        if name == "transformer":
            component.save_config(folder / name)
        elif hasattr(component, "save_pretrained"):
            component.save_pretrained(folder / name)
    labels = getattr(pipeline, "labels", None)
    if isinstance(labels, dict) and labels:
        _write_labels(folder / "model_index.json", labels)
    return load_with(_name(pipeline), folder, FloatWeights(pipeline.transformer), size)


def _write_labels(index: Path, labels: dict[str, int]) -> None:
    """Names of classes as the hub's index has them, of a pipeline's numbers by name: synonyms are joined."""
    names: dict[int, list[str]] = {}
    for label, number in labels.items():
        names.setdefault(int(number), []).append(label)
    content = json.loads(index.read_text())
    content["id2label"] = {str(number): ", ".join(names[number]) for number in sorted(names)}
    index.write_text(json.dumps(content))


def _name(model) -> str:
    """Name the place that the object was loaded from, if it says so; else its class."""
    return str(getattr(model, "name_or_path", None) or model.config.get("_name_or_path") or type(model).__name__)
