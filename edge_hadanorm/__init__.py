"""Quantize a Diffusion Transformer with HadaNorm and put it on a phone."""

__version__ = "0.1.0"
