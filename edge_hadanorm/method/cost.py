"""Cost of the transform that stays online, as a share of the time of the linear that it is for.

In int8 multiply-adds a feature and token, of which the linear itself has one an output; the figures are the hardware's.
"""

import math
from typing import cast

from edge_hadanorm.method.fold import Foldable
from edge_hadanorm.method.hardware import PHONE_CPU, Hardware
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.transform import FeatureTransform


def online_cost(online: FeatureTransform, outputs: int, rank: int = 0, hardware: Hardware = PHONE_CPU) -> float:
    """Estimate the time of an online transform and a low-rank branch over that of their linear with so many outputs.

    The branch is taken for one of a square weight.
    """
    cost = hardware.cost
    units = sum(cost.rotation + cost.rotation_order * order for order, _ in online.rotation)
    units += cost.token_mean * online.dynamic
    units += cost.elementwise * (online.inverse_scale is not None or (online.centre is not None and not online.dynamic))
    units += cost.float_product * 2 * rank
    return units / outputs


def linear_cost(linear: QuantizedLinear) -> float:
    """Estimate the online cost of a quantized linear."""
    rank = 0 if linear.low_rank is None else len(linear.low_rank.down)
    return online_cost(linear.transform, linear.shape[0], rank)


def denoiser_cost(denoiser: Foldable) -> float:
    """Estimate the time of all online transforms and branches over the time of all quantized linears."""
    linears = [cast(QuantizedLinear, denoiser.get_submodule(name)) for name in denoiser.quantizable()]
    products = [math.prod(linear.shape) for linear in linears]
    return sum(linear_cost(m) * n for m, n in zip(linears, products, strict=True)) / sum(products)
