"""The PT2E quantizer that hands a denoiser's own codes to XNNPACK.

It annotates the linears of `QuantizedLinear` modules: activations with XNNPACK's dynamic int8 spec (per token on the
device), weights with a spec whose observer returns the checkpoint's scales, so that the codes of the program are the
codes of the checkpoint. The linears of their low-rank branches stay in float. Everything else is left to a quantizer
that it is composed with.
"""

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from torch import nn
from torch.fx import Node
from torchao.quantization.pt2e.observer import ObserverBase
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from edge_hadanorm.linear import QuantizedLinear
from edge_hadanorm.low_rank import LowRank
from edge_hadanorm.quantizer import Grid


class EightBitQuantizer(XNNPACKQuantizer):
    """XNNPACK's own quantizer, for what is outside the recipe: linears to 8 bits, per channel and dynamic."""

    def __init__(self):
        super().__init__()
        self.set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))

    def transform_for_annotation(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        return model  # the parent turns integers that are added into floats, and T5's position buckets are indices


class GivenScalesPerChannelObserver(ObserverBase):
    """Observes nothing: the scales are the checkpoint's. PT2E reads the granularity from "PerChannel" in the name."""

    def __init__(self, scale: torch.Tensor, **spec):
        super().__init__(dtype=spec["dtype"], is_dynamic=False)
        self.scale = scale
        self.ch_axis, self.qscheme = spec["ch_axis"], spec["qscheme"]
        self.quant_min, self.quant_max = spec["quant_min"], spec["quant_max"]

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scale, torch.zeros_like(self.scale, dtype=torch.int64)


class CheckpointQuantizer(Quantizer):
    """Annotates each QuantizedLinear of `model` with its own weight scales, one per output channel.

    What is annotated, also without specs, other quantizers leave alone.
    """

    def __init__(self, model: nn.Module):
        self.linears = {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLinear)}
        self.floats = {name for name, m in model.named_modules() if isinstance(m, LowRank)}
        self.activation = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True).input_activation

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        for node in model.graph.nodes:
            name = owner(node) if node.target is torch.ops.aten.linear.default else None
            if name in self.linears or name in self.floats:
                specs = self._specs(node, self.linears[name]) if name in self.linears else {}
                # Linears on one tensor share no quantization of it, which would tie their delegates together.
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                    specs, allow_implicit_sharing=False, _annotated=True
                )
        return model

    def _specs(self, node: Node, linear: QuantizedLinear) -> dict[Node, QuantizationSpec]:
        """How to quantize a linear's input and weight."""
        if linear.recipe.group_size is not None:
            return {}  # PT2E has no groups for XNNPACK: the weight is in the graph as codes already
        grid = Grid(linear.recipe.weight_bits, symmetric=True)
        weight = QuantizationSpec(
            dtype=torch.int8,
            # XNNPACK knows 4-bit and 8-bit weights; the codes of a narrower grid fit the next wider one.
            quant_min=-8 if grid.bits <= 4 else -127,
            quant_max=7 if grid.bits <= 4 else 127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
            observer_or_fake_quant_ctr=GivenScalesPerChannelObserver.with_args(scale=linear.weight_scale[:, 0]),
        )
        return {node.args[0]: self.activation, node.args[1]: weight}

    def validate(self, model: torch.fx.GraphModule) -> None:
        pass


def owner(node: Node) -> str | None:
    """The qualified name of the module whose forward made this node."""
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else None
