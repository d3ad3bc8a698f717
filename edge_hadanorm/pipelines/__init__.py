"""Pipelines around a transformer: loading, text encoders, decoder, sampling, noise, drawing."""
