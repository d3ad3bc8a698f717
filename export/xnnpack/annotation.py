"""The PT2E quantizer that lets XNNPACK quantize what a denoiser's quantized linears read.

It annotates the inputs of `QuantizedLinear` modules with XNNPACK's dynamic int8 spec, per token on the device. Their
weights are in the graph as the checkpoint's codes already, the linears of their low-rank branches stay in float, and
everything else is left to a quantizer that it is composed with.
"""

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from torch import nn
from torch.fx import Node
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.low_rank import LowRank


class EightBitQuantizer(XNNPACKQuantizer):
    """XNNPACK's own quantizer, for what is outside the recipe: linears to 8 bits, per channel and dynamic."""

    def __init__(self):
        super().__init__()
        self.set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))

    def transform_for_annotation(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        return model  # the parent turns integers that are added into floats, and T5's position buckets are indices


class CheckpointQuantizer(Quantizer):
    """Annotates the input of each QuantizedLinear of `model`.

    What is annotated, also without specs, other quantizers leave alone.
    """

    def __init__(self, model: nn.Module):
        self.linears = {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLinear)}
        self.integer = {name for name, linear in self.linears.items() if linear.codes is not None}
        self.floats = {name for name, m in model.named_modules() if isinstance(m, LowRank)}
        self.activation = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True).input_activation

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        for node in model.graph.nodes:
            name = owner(node) if node.target is torch.ops.aten.linear.default else None
            if name in self.linears or name in self.floats:
                # PT2E has no form for the input of a weight with groups; that one is in the graph as codes, too.
                given = name in self.integer and self.linears[name].recipe.group_size is None
                specs = {node.args[0]: self.activation} if given else {}
                # Linears on one tensor share no quantization of it, which would tie their delegates together.
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                    specs, allow_implicit_sharing=False, _annotated=True
                )
        return model

    def validate(self, model: torch.fx.GraphModule) -> None:
        pass


def owner(node: Node) -> str | None:
    """The qualified name of the module whose forward made this node."""
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else None
