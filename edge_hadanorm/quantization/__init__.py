"""Weights to codes on calls of a denoiser: calibration, search, rounding; no pipeline, bundle or console."""
