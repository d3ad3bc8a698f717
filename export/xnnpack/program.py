"""A denoiser's methods as exported programs that carry the checkpoint's codes.

`prepare(...) -> conditioning` runs once a prompt, `denoise(latents, timestep, conditioning) -> prediction` every step.
"""

from typing import cast

import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import ComposableQuantizer, Quantizer

from edge_hadanorm.exporters.graphs import drop_unused, fold_constants, lowered
from edge_hadanorm.exporters.xnnpack.annotation import CheckpointQuantizer
from edge_hadanorm.method.linear import QuantizedLinear

# Ends of the grids that a program's codes are on.
BYTE, SYMMETRIC_BYTE, NIBBLE = (-128, 127), (-127, 127), (-8, 7)


class XnnpackLowering(nn.Module):
    """The codes and scales of the checkpoint, and inputs that the runtime quantizes, each token on its own."""

    codes: torch.Tensor
    scale: torch.Tensor
    zeros: torch.Tensor

    def __init__(self, linear: QuantizedLinear):
        super().__init__()
        self.group, bits = linear.recipe.group_size, linear.recipe.weight_bits
        # XNNPACK knows 4-bit and 8-bit weights; the codes of a narrower grid fit the next wider one.
        self.ends = NIBBLE if bits <= 4 else SYMMETRIC_BYTE
        scale = cast(torch.Tensor, linear.weight_scale)
        self.register_buffer("codes", linear.codes)
        self.register_buffer("scale", (scale if self.group else scale[:, 0]).contiguous())
        self.register_buffer("zeros", torch.zeros_like(self.scale, dtype=torch.int8 if self.group else torch.int64))

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows that the `CheckpointQuantizer` annotates; PT2E has no form for those of a weight with groups."""
        if not self.group:
            return rows
        token, ops = [1] * (rows.ndim - 1) + [rows.shape[-1]], torch.ops.torchao
        grid = ops.choose_qparams_affine(rows, "ASYMMETRIC", token, torch.int8, *BYTE, None, None, torch.int8)
        codes = ops.quantize_affine(rows, token, *grid, torch.int8, *BYTE)
        return ops.dequantize_affine(codes, token, *grid, torch.int8, *BYTE)

    def weight(self) -> torch.Tensor:
        if self.group:
            return torch.ops.torchao.dequantize_affine(
                self.codes, [1, self.group], self.scale, self.zeros, torch.int8, *self.ends
            )
        return torch.ops.quantized_decomposed.dequantize_per_channel(
            self.codes, self.scale, self.zeros, 0, *self.ends, torch.int8
        )


class FloatLowering(nn.Module):
    """Weights and inputs in float32, of a recipe that quantizes nothing."""

    def __init__(self, linear: QuantizedLinear):
        super().__init__()
        self.float_weight = linear.float_weight

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        return rows

    def weight(self) -> torch.Tensor:
        return cast(torch.Tensor, self.float_weight)


def _lowering(linear: QuantizedLinear) -> XnnpackLowering | FloatLowering:
    return FloatLowering(linear) if linear.codes is None else XnnpackLowering(linear)


@torch.no_grad()
def export(model: nn.Module, inputs: tuple, *others: Quantizer) -> torch.export.ExportedProgram:
    """The program of a module's forward with its quantized linears as integer products.

    inputs: example inputs, whose shapes the program keeps. others: PT2E quantizers for what is outside the recipe.
    """
    with lowered(model, _lowering):
        graph = torch.export.export(model, inputs).module()
    graph = prepare_pt2e(graph, ComposableQuantizer([CheckpointQuantizer(model), *others]))
    if others:
        graph(*inputs)  # their observers take the scales from the weights that they see
    graph = convert_pt2e(graph)
    fold_constants(graph)
    drop_unused(graph)
    return torch.export.export(graph, inputs)
