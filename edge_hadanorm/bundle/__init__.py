"""The bundle that a device gets: its manifest and the schema of that, its prompts, runners of its programs."""

from edge_hadanorm.bundle.manifest import Bundle, load, program_bytes, write_manifest
from edge_hadanorm.bundle.schema import (
    DECODER,
    DTYPES,
    ENCODERS,
    FIELDS,
    IMAGE_ENCODER,
    MANIFEST,
    METHODS,
    NOISE,
    SCHEMA,
    signature,
)

__all__ = [
    "DECODER",
    "DTYPES",
    "ENCODERS",
    "FIELDS",
    "IMAGE_ENCODER",
    "MANIFEST",
    "METHODS",
    "NOISE",
    "SCHEMA",
    "Bundle",
    "load",
    "program_bytes",
    "signature",
    "write_manifest",
]
