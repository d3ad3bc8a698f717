"""Facts of the processors and kernels that models are quantized for, as rows of data.

A checkpoint is rounded for one of them, so that a simulation has the codes of the device: a row of the table of targets
(export/targets.py) names the one that its programs run on.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class OnlineCost:
    """Cost of the online part of a transform, in int8 multiply-adds a feature and token.

    elementwise: a pass over the tokens, for a mean or a scale that no layer before takes. rotation, rotation_order: a
    block Hadamard, and what comes on top for every feature of a block. token_mean: the mean, its subtraction, one more
    row, and its share added to every output. float_product: a multiply-add of the low-rank branch.
    """

    elementwise: int
    rotation: int
    rotation_order: int
    token_mean: int
    float_product: int


@dataclass(frozen=True)
class Hardware:
    """Integer products of a device.

    activation_bits: of their inputs; narrower grids are emulated on this one. weight_bits: widths with kernels.
    grouped_bits: of the widest weights whose groups of inputs have scales of their own. group_multiple: groups are of
    a multiple of so many inputs. group_scale: the dtype, by its name in torch, in which such scales are kept.
    """

    activation_bits: int
    weight_bits: tuple[int, ...]
    grouped_bits: int
    group_multiple: int
    group_scale: str
    cost: OnlineCost


# XNNPACK on the CPUs of phones. Costs are measured on x86-64 (AVX-512 VNNI) at width 1152 and 256 tokens, by
# runtime_tests.benchmarks.rotation and `edge-hadanorm bench`; an emulated Cortex-A76 takes about the same share for a
# rotation, in instructions.
PHONE_CPU = Hardware(
    activation_bits=8,
    weight_bits=(4, 8),
    grouped_bits=4,
    group_multiple=32,
    group_scale="bfloat16",
    cost=OnlineCost(elementwise=40, rotation=76, rotation_order=3, token_mean=430, float_product=4),
)
# Core ML on Apple's systems takes the same checkpoints: its programs have the codes that were rounded for a CPU.
APPLE = PHONE_CPU
