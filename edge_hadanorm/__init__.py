"""Quantize a Diffusion Transformer with HadaNorm and put it on a phone.

    import edge_hadanorm

    quantized = edge_hadanorm.quantize("reference", recipe="hadanorm-auto-w4a8")
    print(quantized.metrics["denoiser_sqnr_db"])
    edge_hadanorm.save(quantized, "checkpoint")
    bundle = edge_hadanorm.export(quantized, "bundle", target="xnnpack")
    edge_hadanorm.generate(bundle, "red apple", seed=7).image.save("apple.png")

A name is imported when it is first used; the package alone imports nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_hadanorm.version import VERSION as __version__

if TYPE_CHECKING:
    from edge_hadanorm.bundle import Bundle
    from edge_hadanorm.checkpoint import Checkpoint
    from edge_hadanorm.errors import UserError
    from edge_hadanorm.method.recipe import Recipe
    from edge_hadanorm.pipelines.loading import FloatModel
    from edge_hadanorm.workflow.deploying import Generated, export, generate
    from edge_hadanorm.workflow.measuring import evaluate, inspect, report
    from edge_hadanorm.workflow.quantizing import calibrate, dry_run, load, load_checkpoint, quantize, save

# The module of each name.
_WHERE = {
    "Bundle": "bundle",
    "Checkpoint": "checkpoint",
    "FloatModel": "pipelines.loading",
    "Generated": "workflow.deploying",
    "Recipe": "method.recipe",
    "UserError": "errors",
    "calibrate": "workflow.quantizing",
    "dry_run": "workflow.quantizing",
    "evaluate": "workflow.measuring",
    "export": "workflow.deploying",
    "generate": "workflow.deploying",
    "inspect": "workflow.measuring",
    "load": "workflow.quantizing",
    "load_checkpoint": "workflow.quantizing",
    "quantize": "workflow.quantizing",
    "report": "workflow.measuring",
    "save": "workflow.quantizing",
}

__all__ = [
    "Bundle",
    "Checkpoint",
    "FloatModel",
    "Generated",
    "Recipe",
    "UserError",
    "__version__",
    "calibrate",
    "dry_run",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "load",
    "load_checkpoint",
    "quantize",
    "recipes",
    "report",
    "save",
]


def recipes() -> dict[str, str]:
    """Methods and what each does; a recipe's name is METHOD-wXaY[-gG][-static].

    >>> edge_hadanorm.recipes()["quarot"]
    'Hadamard rotation (Ashkboos et al., arXiv 2404.00456)'
    """
    from edge_hadanorm.method.recipe import SUMMARIES

    return dict(SUMMARIES)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
