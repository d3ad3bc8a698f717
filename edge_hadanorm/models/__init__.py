"""Denoisers by diffusers transformer class: the form that is calibrated, quantized, simulated and exported."""

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.auraflow import AuraFlowDenoiser
from edge_hadanorm.models.dit import DiTDenoiser
from edge_hadanorm.models.flux import FluxDenoiser
from edge_hadanorm.models.pixart import PixArtDenoiser
from edge_hadanorm.models.sana import SanaDenoiser
from edge_hadanorm.models.sd3 import SD3Denoiser

FORMS = (PixArtDenoiser, DiTDenoiser, AuraFlowDenoiser, SD3Denoiser, FluxDenoiser, SanaDenoiser)
FAMILIES = {form.source_class: form for form in FORMS}
# Older checkpoints name one class for all of these, which their norm_type tells apart.
COMMON_CLASS = "Transformer2DModel"
BY_NORM_TYPE = {"ada_norm_single": "PixArtTransformer2DModel", "ada_norm_zero": "DiTTransformer2DModel"}


def class_of(config: dict) -> str:
    """The transformer class that a diffusers config is of, by its name of today."""
    name = config["_class_name"]
    return BY_NORM_TYPE.get(str(config.get("norm_type")), name) if name == COMMON_CLASS else name


def family(class_name: str) -> type:
    """The denoiser class of a diffusers transformer class. Raises UserError where there is none."""
    if class_name not in FAMILIES:
        raise UserError(f"transformer class {class_name!r} is not supported; supported: {', '.join(FAMILIES)}")
    return FAMILIES[class_name]
