"""Denoisers by diffusers transformer class: the form that is calibrated, quantized, simulated and exported."""

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.pixart import PixArtDenoiser
from edge_hadanorm.models.sana import SanaDenoiser

FAMILIES = {form.source_class: form for form in (PixArtDenoiser, SanaDenoiser)}


def family(class_name: str) -> type:
    """The denoiser class of a diffusers transformer class. Raises UserError where there is none."""
    if class_name not in FAMILIES:
        raise UserError(f"transformer class {class_name!r} is not supported; supported: {', '.join(FAMILIES)}")
    return FAMILIES[class_name]
