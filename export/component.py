"""What a backend makes a program of: a pipeline's component as modules with example inputs, and its manifest entry."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule

from edge_hadanorm import bundle
from edge_hadanorm.method.linear import Lowering, QuantizedLinear
from edge_hadanorm.pipelines.kinds import Tensors, as_given


@dataclass(frozen=True)
class Method:
    """A module whose forward is a method of a program.

    inputs, outputs: example tensors by name, whose shapes the program keeps. arguments: the inputs as forward takes
    them, where that is not one after the other.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    arguments: tuple = ()

    @property
    def given(self) -> tuple:
        return self.arguments or tuple(self.inputs.values())

    def signature(self) -> dict:
        """Its entry in the manifest."""
        return bundle.signature(self.inputs, self.outputs)


@dataclass(frozen=True)
class Component:
    """A program to be.

    eight_bit: its linears, which are outside the recipe, get weights of 8 bits. wide: its activations may leave the
    range of float16, and stay in float32.
    """

    role: str
    methods: dict[str, Method]
    eight_bit: bool = False
    wide: bool = False


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
def lowered(model: nn.Module, lowering: Callable[[QuantizedLinear], Lowering]) -> Iterator[None]:
    """Let the quantized linears of a model compute as programs of a backend do, while inside."""
    linears = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    try:
        for linear in linears:
            linear.lowering = lowering(linear)
        yield
    finally:
        for linear in linears:
            linear.lowering = None


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
