"""Denoisers by diffusers transformer class: the form that is calibrated, quantized, simulated and exported."""

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.auraflow import AuraFlowDenoiser
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.models.dit import DiTDenoiser
from edge_hadanorm.models.flux import FluxDenoiser
from edge_hadanorm.models.generic import form
from edge_hadanorm.models.pixart import PixArtDenoiser
from edge_hadanorm.models.sana import SanaDenoiser
from edge_hadanorm.models.sd3 import SD3Denoiser

FORMS = (PixArtDenoiser, DiTDenoiser, AuraFlowDenoiser, SD3Denoiser, FluxDenoiser, SanaDenoiser)
FAMILIES = {own.source_class: own for own in FORMS}
# Older checkpoints name one class for all of these, which their norm_type tells apart.
COMMON_CLASS = "Transformer2DModel"
BY_NORM_TYPE = {"ada_norm_single": "PixArtTransformer2DModel", "ada_norm_zero": "DiTTransformer2DModel"}


def class_of(config: dict) -> str:
    """The transformer class that a diffusers config is of, by its name of today."""
    name = config["_class_name"]
    return BY_NORM_TYPE.get(str(config.get("norm_type")), name) if name == COMMON_CLASS else name


def family(class_name: str) -> type[Denoiser]:
    """The denoiser class of a diffusers transformer class: its own form or a generic one.

    Raises UserError where there is neither.
    """
    if found := FAMILIES.get(class_name) or form(class_name):
        return found
    raise UserError(
        f"transformer class {class_name!r} is not supported: it is no text-conditioned transformer of diffusers; "
        f"with a form of their own here are {', '.join(FAMILIES)}"
    )
