"""The mathematics of quantization: tensors in, tensors out; no model family and no file but a recipe."""
