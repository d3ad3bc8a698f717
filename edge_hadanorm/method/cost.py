"""What the transform that stays online costs, as a share of the time of the linear that it is for.

In int8 multiply-adds a feature and token, of which the linear itself has one an output. Measured on x86-64 (AVX-512
VNNI) at width 1152 and 256 tokens by runtime_tests.benchmarks.rotation and `edge-hadanorm bench`; an emulated
Cortex-A76 takes about the same share for a rotation, in instructions.
"""

import math
from typing import cast

from edge_hadanorm.method.fold import Foldable
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.transform import FeatureTransform

# A pass over the tokens, for a mean or a scale that no layer before takes.
PASS = 40
# A block Hadamard: so many, and so many more for every feature of a block.
ROTATION, ROTATION_ORDER = 76, 3
# The token mean, its subtraction, one more row, and its share added to every output.
TOKEN_MEAN = 430
# A multiply-add of the low-rank branch, which is in float.
FLOAT = 4


def online_cost(online: FeatureTransform, outputs: int, rank: int = 0) -> float:
    """The time of an online transform and a low-rank branch over the time of their linear, which has so many outputs.

    The branch is taken for one of a square weight.
    """
    units = sum(ROTATION + ROTATION_ORDER * order for order, _ in online.rotation)
    units += TOKEN_MEAN * online.dynamic
    units += PASS * (online.inverse_scale is not None or (online.centre is not None and not online.dynamic))
    units += FLOAT * 2 * rank
    return units / outputs


def linear_cost(linear: QuantizedLinear) -> float:
    """The same of a quantized linear."""
    rank = 0 if linear.low_rank is None else len(linear.low_rank.down)
    return online_cost(linear.transform, linear.shape[0], rank)


def denoiser_cost(denoiser: Foldable) -> float:
    """The time of all online transforms and branches over the time of all quantized linears."""
    linears = [cast(QuantizedLinear, denoiser.get_submodule(name)) for name in denoiser.quantizable()]
    products = [math.prod(linear.shape) for linear in linears]
    return sum(linear_cost(m) * n for m, n in zip(linears, products, strict=True)) / sum(products)
