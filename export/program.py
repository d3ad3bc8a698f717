"""A denoiser's methods as exported programs that carry the checkpoint's codes.

`prepare(...) -> conditioning` runs once a prompt, `denoise(latents, timestep, conditioning) -> prediction` every step.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import ComposableQuantizer, Quantizer
from torchao.quantization.quantize_.workflows import IntxUnpackedToInt8Tensor

from edge_hadanorm.export.quantizer import CheckpointQuantizer
from edge_hadanorm.linear import QuantizedLinear
from edge_hadanorm.pipelines import Tensors, as_given


class Prepare(nn.Module):
    """The denoiser's `prepare` as a module's forward, of what is gathered from the inputs named in this order."""

    def __init__(self, denoiser: nn.Module, names: Iterable[str], gather: Callable[[Tensors], Tensors] = as_given):
        super().__init__()
        self.denoiser, self.names, self.gather = denoiser, tuple(names), gather

    def forward(self, *given: torch.Tensor) -> list[torch.Tensor]:
        return self.denoiser.prepare(**self.gather(dict(zip(self.names, given, strict=True))))


class Denoise(nn.Module):
    """The denoiser's `denoise` as a module's forward."""

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        return self.denoiser.denoise(latents, timestep, conditioning)


@contextlib.contextmanager
def on_device(model: nn.Module) -> Iterator[None]:
    """Leave the 8-bit quantization of activations to the runtime while inside, and weights with groups to torchao."""
    linears = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    weights = [linear.weight for linear in linears]
    try:
        for linear in linears:
            linear.on_device = True
            if linear.recipe.group_size is not None:
                linear.weight = grouped_weight(linear)
        yield
    finally:
        for linear, weight in zip(linears, weights, strict=True):
            linear.on_device = False
            linear.weight = weight


def grouped_weight(linear: QuantizedLinear) -> IntxUnpackedToInt8Tensor:
    """The codes of a weight with groups, which PT2E cannot express for XNNPACK, as the tensor that torchao lowers."""
    return IntxUnpackedToInt8Tensor(
        qdata=linear.codes,
        scale=linear.weight_scale,
        zero_point=torch.zeros_like(linear.weight_scale, dtype=torch.int8),
        target_dtype=torch.int4,
        block_size=(1, linear.recipe.group_size),
        dtype=torch.float32,
        activation_quantization="int8_asym_per_token",
    )


@torch.no_grad()
def export(model: nn.Module, inputs: tuple, *others: Quantizer) -> torch.export.ExportedProgram:
    """The program of a module's forward with its quantized linears as integer products.

    inputs: example inputs, whose shapes the program keeps. others: PT2E quantizers for what is outside the recipe.
    """
    with on_device(model):
        graph = torch.export.export(model, inputs).module()
    graph = prepare_pt2e(graph, ComposableQuantizer([CheckpointQuantizer(model), *others]))
    if others:
        graph(*inputs)  # their observers take the scales from the weights that they see
    graph = convert_pt2e(graph)
    fold_constants(graph)
    drop_unused(graph)
    return torch.export.export(graph, inputs)


def fold_constants(graph: GraphModule) -> None:
    """Make tensors of one value (the weights of a token mean) constants; as operators they would split delegates."""
    for node in list(graph.graph.nodes):
        if node.target not in (torch.ops.aten.new_full.default, torch.ops.aten.full.default):
            continue
        value = node.meta["val"]
        graph.register_buffer(node.name, torch.full(value.shape, node.args[-1], dtype=value.dtype))
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(node.name)
        constant.meta = {k: v for k, v in node.meta.items() if k == "val"}
        node.replace_all_uses_with(constant)
        graph.graph.erase_node(node)
    graph.recompile()


def drop_unused(graph: GraphModule) -> None:
    """Forget tensors that no node reads (float weights whose codes have taken over), which would fill the program."""
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    tensors = [*graph.named_buffers(remove_duplicate=False), *graph.named_parameters(remove_duplicate=False)]
    for name, _ in tensors:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(owner), leaf)
