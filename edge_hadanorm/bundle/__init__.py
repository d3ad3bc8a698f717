"""The bundle that a device gets: its manifest and the schema of that, its prompts, runners of its programs."""

from edge_hadanorm.bundle.manifest import Bundle, load, program_bytes, write_manifest
from edge_hadanorm.bundle.memory import Memory, memory_of, peak_memory
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
    SMALL,
    signature,
)
from edge_hadanorm.bundle.sizes import size_name

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
    "SMALL",
    "Bundle",
    "Memory",
    "load",
    "memory_of",
    "peak_memory",
    "program_bytes",
    "signature",
    "size_name",
    "write_manifest",
]
