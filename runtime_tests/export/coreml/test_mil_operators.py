"""Every operator of the simulation of Core ML, in a package of its own: what coremltools computes of constants, or
where it does not, what PyTorch does."""

from collections.abc import Callable
from dataclasses import dataclass

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from torch.nn import functional as F

from edge_hadanorm.exporters.coreml.simulation.builder import signature
from edge_hadanorm.exporters.coreml.simulation.interpreter import load
from edge_hadanorm.exporters.coreml.simulation.operators import OPERATORS
from runtime_tests.support.mil_programs import function_of, inferred, inputs_of, package


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def whole(*shape: int, low: int = 0, high: int = 5, seed: int = 0, dtype: type = np.int32) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def t(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


@dataclass(frozen=True)
class Case:
    """An operator and its arguments, of which arrays become inputs or stored constants.

    expected: PyTorch's results, where coremltools does not compute them or not rightly.
    """

    kind: str
    arguments: dict[str, object]
    expected: Callable[[], torch.Tensor | tuple[torch.Tensor, ...]] | None = None
    target: str = "iOS17"
    error: float = 2e-6


def case(kind: str, expected=None, target: str = "iOS17", error: float = 2e-6, **arguments: object) -> Case:
    return Case(kind, arguments, expected, target, error)


A, B, ROW = normal(2, 3, 4), normal(2, 3, 4, seed=1), normal(4, seed=2)
POSITIVE = np.abs(A) + np.float32(0.5)
INTS, OTHERS = whole(2, 3, 4, low=-7, high=8), whole(2, 3, 4, low=1, high=4, seed=1)
TRUE, OR = A > 0, B > 0
IMAGE = normal(2, 4, 6, 5)
KERNEL, BIAS = normal(6, 4, 3, 2, seed=3), normal(6, seed=4)
GROUPED = normal(6, 2, 3, 2, seed=5)
BACK = normal(4, 3, 3, 2, seed=6)
SIGNAL = normal(1, 4, 9)
Q, K, V = normal(2, 2, 5, 8), normal(2, 2, 7, 8, seed=1), normal(2, 2, 7, 6, seed=2)
HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
CODES = whole(6, 8, low=-128, high=128, dtype=np.int8)
NIBBLES = whole(6, 8, low=-8, high=8).astype(types.np_int4_dtype)
FEW = np.array([[1, -8], [7, -1]], np.int8).astype(types.np_int4_dtype)


def unsigned(bits: int, *shape: int) -> np.ndarray:
    dtype = getattr(types, f"np_uint{bits}_dtype") if bits < 8 else np.uint8
    return whole(*shape, high=1 << bits, seed=bits).astype(dtype)


CASES = [
    *(case(kind, x=A) for kind in ("abs", "ceil", "cos", "erf", "exp", "floor", "identity", "relu", "relu6", "sign")),
    *(case(kind, x=A) for kind in ("sigmoid", "sin", "softplus", "softsign", "square", "tanh")),
    case("exp2", x=A),
    case("silu", lambda: F.silu(*t(A)), x=A),
    case("sqrt", x=POSITIVE),
    case("round", x=HALVES),
    case("inverse", x=POSITIVE),
    case("inverse", x=POSITIVE, epsilon=np.float32(0.25)),
    case("log", x=POSITIVE),
    case("log", x=POSITIVE, epsilon=np.float32(0.25)),
    case("rsqrt", x=POSITIVE),
    case("rsqrt", x=POSITIVE, epsilon=np.float32(0.25)),
    case("threshold", x=A, alpha=np.float32(0.3)),
    case("clip", x=A, alpha=np.float32(-0.5), beta=np.float32(0.25)),
    case("elu", x=A, alpha=np.float32(0.7)),
    case("leaky_relu", x=A, alpha=np.float32(0.2)),
    case("sigmoid_hard", x=A, alpha=np.float32(0.3), beta=np.float32(0.4)),
    *(case("gelu", x=A, mode=mode) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")),
    case("gelu", x=A),
    case("logical_not", x=TRUE),
    *(case("cast", x=A, dtype=dtype) for dtype in ("int32", "fp32", "bool")),
    case("cast", x=A, dtype="fp16", error=0),
    case("cast", x=INTS, dtype="fp32"),
    case("cast", lambda: torch.from_numpy(INTS).to(torch.int8), x=INTS, dtype="int8"),
    case("cast", x=TRUE, dtype="fp32"),
    *(case("add", x=A, y=y) for y in (B, ROW)),
    *(case(kind, x=A, y=B) for kind in ("sub", "mul", "real_div", "maximum", "minimum", "floor_div", "mod")),
    *(case(kind, x=INTS, y=OTHERS) for kind in ("add", "sub", "mul", "maximum", "minimum", "floor_div", "mod")),
    case("pow", x=POSITIVE, y=B),
    *(
        case(kind, x=INTS, y=OTHERS)
        for kind in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
    ),
    *(case(kind, x=TRUE, y=OR) for kind in ("logical_and", "logical_or", "logical_xor")),
    *(
        case(f"reduce_{kind}", x=POSITIVE, axes=[0, -1], keep_dims=keep)
        for kind in ("l1_norm", "l2_norm", "log_sum", "max", "mean", "min", "prod", "sum", "sum_square")
        for keep in (False, True)
    ),
    case("reduce_log_sum_exp", lambda: torch.logsumexp(torch.from_numpy(A), (0, 2)), x=A, axes=[0, 2], keep_dims=False),
    case("reduce_sum", x=INTS, axes=[1]),
    case("reduce_max", x=INTS),
    *(case(f"reduce_{kind}", x=A, axis=1, keep_dims=keep) for kind in ("argmax", "argmin") for keep in (False, True)),
    case("softmax", x=A, axis=1),
    case("softmax", x=A),
    # Tensors: made, reordered, taken apart.
    case("reshape", x=A, shape=[4, -1]),
    case("reshape", x=A, shape=[0, -1, 2]),
    case("transpose", x=A, perm=[2, 0, 1]),
    case("transpose", x=A, perm=[-1, 0, 1]),
    case("expand_dims", x=A, axes=[0, -1, 2]),
    case("squeeze", x=normal(1, 3, 1, 2), axes=[0, -2]),
    case("squeeze", x=normal(1, 3, 1, 2)),
    case("concat", values=[A, B], axis=-2),
    case("concat", values=[A], axis=0),
    case("concat", lambda: torch.stack(t(A, B), 2).reshape(2, 6, 4), values=[A, B], axis=1, interleave=True),
    case("stack", values=[A, B], axis=1),
    case("stack", values=[A, B], axis=-1),
    case("split", x=A, num_splits=2, axis=2),
    case("split", x=A, split_sizes=[1, 2], axis=-2),
    case("slice_by_index", x=A, begin=[0, 1, -3], end=[1, 3, -1]),
    case("slice_by_index", x=A, begin=[0, 2, 3], end=[2, 0, 0], stride=[1, -1, -2], end_mask=[False, True, False]),
    case("slice_by_index", x=A, begin=[1, 1, 1], end=[0, 9, 3], begin_mask=[True, False, True], end_mask=[True] * 3),
    case("slice_by_index", x=A, begin=[-1, 0, 1], end=[0, 3, 4], squeeze_mask=[True, False, False]),
    case("slice_by_index", x=INTS, begin=[1, 2, 3], end=[0, 0, 0], squeeze_mask=[True] * 3),
    case("slice_by_size", x=A, begin=[0, 1, -2], size=[2, -1, 1]),
    case("gather", x=A, indices=whole(2, 5, low=-4, high=4), axis=-1),
    case("gather", x=A, indices=np.int32(1), axis=1),
    case("gather", x=A, indices=whole(2, 3, high=4, seed=3), axis=2, batch_dims=1),
    case("gather", x=normal(9, 4), indices=whole(1, 6, high=9, dtype=np.uint16), validate_indices=False),
    case("gather_along_axis", x=A, indices=whole(2, 5, 4, low=-3, high=3), axis=1),
    case("gather_nd", lambda: torch.from_numpy(A)[[1, 0], [2, 1]], x=A, indices=np.array([[1, 2], [0, 1]], np.int32)),
    case(
        "gather_nd",
        lambda: torch.stack([torch.from_numpy(A)[0, [2, 0]], torch.from_numpy(A)[1, [1, 1]]]),
        x=A,
        indices=np.array([[[2], [0]], [[1], [1]]], np.int32),
        batch_dims=1,
    ),
    case("tile", x=A, reps=[2, 1, 3]),
    case("pad", x=A, pad=[1, 0, 2, 3], constant_val=np.float32(0.5)),
    case("pad", x=A, pad=[0, 0, 2, 1, 0, 3], mode="reflect"),
    case("pad", x=A, pad=[0, 1, 2, 3], mode="replicate"),
    case("fill", shape=[2, 3], value=np.float32(1.5)),
    case("fill", shape=[2, 3], value=np.int32(7)),
    case("fill", shape=[2], value=True),
    case("fill_like", lambda: torch.full(A.shape, 1.5), ref_tensor=A, value=np.float32(1.5)),
    case("shape", x=A),
    case("range_1d", start=2, end=9, step=3),
    case("range_1d", start=np.float32(0.5), end=np.float32(2), step=np.float32(0.25)),
    case("cumsum", x=A, axis=1),
    case("cumsum", x=A, axis=2, reverse=True),
    case("cumsum", lambda: torch.from_numpy(A).cumsum(0) - torch.from_numpy(A), x=A, exclusive=True),
    case("cumsum", x=INTS),
    case("reverse", x=A, axes=[0, 2]),
    case("reverse", x=A),
    case("band_part", x=normal(4, 5), lower=1, upper=2),
    case("band_part", x=normal(4, 5), lower=-1, upper=0),
    case("one_hot", lambda: F.one_hot(torch.tensor([1, 3]), 4).int(), indices=np.array([1, 3], np.int32),
         one_hot_vector_size=4),
    case("one_hot", lambda: 2.5 * F.one_hot(torch.tensor([1, 3]), 4).T + 0.5, indices=np.array([1, 3], np.int32),
         one_hot_vector_size=4, axis=0, on_value=np.float32(3), off_value=np.float32(0.5)),
    case("select", cond=TRUE, a=A, b=B),
    case("select", cond=TRUE[:, :1], a=A, b=ROW),
    case("topk", x=A, k=2, axis=1),
    case("topk", x=A, k=3, ascending=True),
    case("topk", x=A, k=1, return_indices=False),
    case("pixel_shuffle", lambda: F.pixel_shuffle(*t(IMAGE), 2), x=IMAGE, upscale_factor=2),
    case("pixel_unshuffle", lambda: F.pixel_unshuffle(*t(IMAGE[..., :4]), 2), x=IMAGE[..., :4],
         downscale_factor=np.uint32(2)),
    case("depth_to_space", lambda: torch.cat([torch.from_numpy(IMAGE[:, i : i + 1]) for i in range(4)], 1)
         .reshape(2, 2, 2, 6, 5).permute(0, 3, 1, 4, 2).reshape(2, 1, 12, 10), x=IMAGE, block_size=2),
    case("space_to_depth", lambda: torch.cat([torch.from_numpy(IMAGE[:, :, i::2, j:4:2]) for i in (0, 1)
         for j in (0, 1)], 1), x=IMAGE[..., :4], block_size=2),
    # Layers.
    case("linear", x=A, weight=normal(5, 4), bias=normal(5, seed=7)),
    case("linear", x=A, weight=normal(5, 4)),
    case("matmul", x=A, y=normal(4, 5)),
    case("matmul", x=A, y=normal(2, 3, 5), transpose_x=True),
    case("matmul", x=A, y=normal(2, 5, 4), transpose_y=True),
    case("matmul", lambda: torch.einsum("bij,bkj->bik", *t(A, normal(2, 5, 4))), x=A, y=normal(2, 5, 4),
         transpose_y=True),
    case("einsum", lambda: torch.einsum("nabc,ncbd->nabd", *t(normal(2, 3, 4, 5), normal(2, 5, 4, 6))),
         values=[normal(2, 3, 4, 5), normal(2, 5, 4, 6)], equation="nabc,ncbd->nabd"),
    case("conv", lambda: F.conv2d(*t(IMAGE, KERNEL, BIAS)), x=IMAGE, weight=KERNEL, bias=BIAS),
    case("conv", lambda: F.conv2d(F.pad(*t(IMAGE), (0, 1, 2, 1)), *t(KERNEL), stride=(2, 1)), x=IMAGE, weight=KERNEL,
         pad_type="custom", pad=[2, 1, 0, 1], strides=[2, 1]),
    case("conv", lambda: F.conv2d(*t(IMAGE, GROUPED, BIAS), dilation=(1, 2), groups=2), x=IMAGE, weight=GROUPED,
         bias=BIAS, dilations=[1, 2], groups=2),
    case("conv", lambda: F.conv2d(F.pad(*t(IMAGE), (0, 1, 1, 1)), *t(KERNEL)), x=IMAGE, weight=KERNEL,
         pad_type="same"),
    case("conv", lambda: F.conv2d(F.pad(*t(IMAGE), (1, 0, 1, 1)), *t(KERNEL)), x=IMAGE, weight=KERNEL,
         pad_type="same_lower"),
    case("conv", lambda: F.conv1d(*t(SIGNAL, KERNEL[:, :, 0]), stride=2), x=SIGNAL, weight=KERNEL[:, :, 0],
         strides=[2]),
    case("conv_transpose", lambda: F.conv_transpose2d(*t(IMAGE, BACK, BIAS[:3]), stride=2), x=IMAGE, weight=BACK,
         bias=BIAS[:3], strides=[2, 2]),
    case("conv_transpose", lambda: F.conv_transpose2d(*t(IMAGE, BACK), stride=2, padding=1, output_padding=(1, 0)),
         x=IMAGE, weight=BACK, strides=[2, 2], pad=[1, 0, 1, 1], pad_type="custom"),
    case("conv_transpose", lambda: F.conv_transpose2d(*t(IMAGE, BACK, BIAS), stride=2, padding=1, groups=2),
         x=IMAGE, weight=BACK, bias=BIAS, strides=[2, 2], pad=[1, 1, 1, 1], pad_type="custom", groups=2,
         output_shape=[2, 6, 11, 8]),
    case("max_pool", lambda: F.max_pool2d(*t(IMAGE), (3, 2), 1, padding=(1, 1)), x=IMAGE, kernel_sizes=[3, 2],
         strides=[1, 1], pad_type="custom", pad=[1, 1, 1, 1]),
    case("max_pool", lambda: F.max_pool1d(*t(SIGNAL), 4, 2, ceil_mode=True), x=SIGNAL, kernel_sizes=[4], strides=[2],
         pad_type="valid", ceil_mode=True),
    case("avg_pool", lambda: F.avg_pool2d(*t(IMAGE), 2), x=IMAGE, kernel_sizes=[2, 2], strides=[2, 2],
         pad_type="valid"),
    *(case("avg_pool", lambda out=out: F.avg_pool2d(*t(IMAGE), 3, 2, padding=1, count_include_pad=not out), x=IMAGE,
           kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1] * 4, exclude_padding_from_average=out)
      for out in (False, True)),
    case("layer_norm", x=A, axes=[-1], gamma=ROW, beta=normal(4, seed=8), epsilon=np.float32(1e-3)),
    case("layer_norm", lambda: F.layer_norm(*t(A), (3, 4), *t(B[0], B[1])), x=A, axes=[1, 2], gamma=B[0], beta=B[1]),
    case("layer_norm", lambda: F.layer_norm(*t(A), (4,)), x=A, axes=[2]),
    case("instance_norm", lambda: F.instance_norm(*t(IMAGE), weight=t(BIAS)[0][:4], bias=t(ROW)[0], eps=1e-2),
         x=IMAGE, gamma=BIAS[:4], beta=ROW, epsilon=np.float32(1e-2)),
    case("instance_norm", lambda: F.instance_norm(*t(IMAGE)), x=IMAGE),
    case("batch_norm", lambda: F.batch_norm(*t(IMAGE, ROW, np.abs(ROW), BIAS[:4], ROW), eps=1e-2), x=IMAGE, mean=ROW,
         variance=np.abs(ROW), gamma=BIAS[:4], beta=ROW, epsilon=np.float32(1e-2)),
    case("batch_norm", lambda: F.batch_norm(*t(IMAGE, ROW, np.abs(ROW))), x=IMAGE, mean=ROW, variance=np.abs(ROW)),
    case("scaled_dot_product_attention", query=Q, key=K, value=V, target="iOS18"),
    case("scaled_dot_product_attention", query=Q, key=K, value=V, attn_mask=normal(5, 7, seed=3), target="iOS18"),
    case("scaled_dot_product_attention", query=Q, key=K, value=V, attn_mask=normal(2, 1, 5, 7) > -1, target="iOS18"),
    case("upsample_nearest_neighbor", lambda: F.interpolate(*t(IMAGE), scale_factor=(2, 3)), x=IMAGE,
         scale_factor_height=2, scale_factor_width=3),
    case("upsample_nearest_neighbor", lambda: F.interpolate(*t(IMAGE), scale_factor=(1.5, 1)), x=IMAGE,
         scale_factor_height=np.float32(1.5)),
    *(case("upsample_bilinear", lambda align=align: F.interpolate(*t(IMAGE), scale_factor=(2, 3), mode="bilinear",
           align_corners=align), x=IMAGE, scale_factor_height=2, scale_factor_width=3, align_corners=align)
      for align in (False, True)),
    # Codes.
    case("quantize", input=4 * A, scale=np.float32(0.05), output_dtype="int8"),
    case("quantize", input=HALVES, scale=np.float32(1), zero_point=np.uint8(2), output_dtype="uint8"),
    case("quantize", input=A, scale=np.abs(ROW[:3]), zero_point=np.array([1, -2, 3], np.int8), axis=1,
         output_dtype="int8"),
    case("dequantize", input=CODES, scale=np.float32(0.05)),
    case("dequantize", input=CODES, scale=np.float32(0.05), zero_point=np.int8(-7)),
    case("dequantize", input=CODES, scale=np.abs(BIAS), zero_point=whole(6, low=-9, dtype=np.int8), axis=0),
    case("constexpr_affine_dequantize", quantized_data=CODES, zero_point=np.int8(3), scale=np.float32(0.1), axis=0),
    case("constexpr_affine_dequantize", quantized_data=whole(6, 8, high=256, dtype=np.uint8),
         zero_point=whole(8, dtype=np.uint8), scale=normal(8), axis=1),
    case("constexpr_cast", source_val=normal(3, 4, dtype=np.float16), output_dtype="fp32"),
    *(case("constexpr_blockwise_shift_scale", data=data, scale=normal(6, 2), target="iOS18")
      for data in (CODES, NIBBLES)),
    case("constexpr_blockwise_shift_scale", data=FEW, scale=normal(2, 1), target="iOS18"),
    case("constexpr_blockwise_shift_scale", data=NIBBLES, scale=normal(2, 8, dtype=np.float16), target="iOS18",
         error=0, offset=whole(2, 8, low=-8, high=8).astype(types.np_int4_dtype)),
    *(case("constexpr_lut_to_dense", indices=unsigned(bits, 6, 8), lut=normal(3, 2, 1 << bits, 1), target="iOS18")
      for bits in (1, 2, 3, 4, 6, 8)),
    *(case("constexpr_lut_to_dense", indices=unsigned(2, 3, 4, 2), lut=normal(1, 2, 1, 4, 3), vector_axis=axis,
           target="iOS18") for axis in (0, 1, -1)),
    *(case("constexpr_lut_to_dense", indices=whole(-(-35 * bits // 8), high=256, dtype=np.uint8), lut=normal(1 << bits),
           shape=np.array([5, 7], np.uint32)) for bits in (1, 2, 4, 6, 8)),
    case("constexpr_sparse_to_dense", nonzero_data=normal(4), mask=np.array([0b1010, 0b110], np.uint8),
         shape=np.array([2, 8], np.uint32)),
    case("constexpr_sparse_to_dense", nonzero_data=normal(4), target="iOS18",
         mask=np.array([[0, 1, 0, 1], [1, 1, 0, 0]]).astype(types.np_uint1_dtype)),
]  # fmt: skip


def test_every_operator_has_a_case():
    assert {own.kind for own in CASES} == set(OPERATORS)


@pytest.mark.parametrize("kind", OPERATORS)
def test_arguments_are_those_of_coremltools(kind):
    """By name, in every version of the operator, and none more is asked for."""
    given = signature(OPERATORS[kind]).parameters
    for version in SSAOpRegistry.core_ops[kind].values():
        known = version.input_spec.input_types
        assert set(known) <= set(given)
        required = {name for name, own in given.items() if own.default is own.empty}
        assert required <= {name for name, own in known.items() if not own.optional}


@pytest.mark.parametrize("own", CASES, ids=lambda own: f"{own.kind}-{'-'.join(own.arguments)}")
def test_an_operator_is_what_it_is_elsewhere(own, tmp_path):
    target = getattr(ct.target, own.target)
    if own.expected is None:
        expected = [torch.as_tensor(np.array(value, order="C")) for value in inferred(own.kind, own.arguments, target)]
    else:
        given = own.expected()
        expected = list(given) if isinstance(given, tuple) else [given]
    function = load(package(function_of(own.kind, own.arguments, target), tmp_path / "x.mlpackage", target))["main"]
    found = function(inputs_of(own.kind, own.arguments))
    assert len(found) == len(expected)
    for actual, exact in zip(found.values(), expected, strict=True):
        if own.kind != "cast":  # whose inference knows no bytes
            assert actual.is_floating_point() == exact.is_floating_point()
        torch.testing.assert_close(actual, exact, rtol=own.error, atol=own.error, check_dtype=False)


@pytest.mark.parametrize("own", CASES, ids=lambda own: f"{own.kind}-{'-'.join(own.arguments)}")
def test_an_operator_is_the_same_in_float64(own, tmp_path):
    """Beyond the rounding of its result, and of the sums and series in it."""
    target = getattr(ct.target, own.target)
    path = package(function_of(own.kind, own.arguments, target), tmp_path / "x.mlpackage", target)
    inputs = inputs_of(own.kind, own.arguments)
    rounded, exact = (load(path, precision)["main"](inputs) for precision in ("declared", "float64"))
    for name, value in exact.items():
        floating = rounded[name].is_floating_point()
        assert value.dtype == (torch.float64 if floating else rounded[name].dtype)
        error = 16 * torch.finfo(rounded[name].dtype).eps if floating else 0
        torch.testing.assert_close(rounded[name], value, rtol=error, atol=error, check_dtype=False)
