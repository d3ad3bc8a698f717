// The rotation of a linear's input as one operator of its own: scale and block Hadamard in one pass over the input.
//
//     edge_hadanorm::scaled_hadamard.out(Tensor x, Tensor scale, *, Tensor(a!) out) -> Tensor(a!)
//
// out[..., block] = (x[..., block] * scale[block]) S for every contiguous block of 128 features, float32, with x and out
// [..., d], scale [d], 128 dividing d, and S Sylvester's matrix of entries +-1. The factor 1 / sqrt(128) that makes it a
// rotation belongs in the scale, where it costs nothing.

#include <cstdint>
#include <cstring>
#include <utility>

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::KernelRuntimeContext;

constexpr int kBlock = 128;

#ifdef __AVX__
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Indices __attribute__((vector_size(kLanes * sizeof(int32_t))));

inline Lanes load(const float* from) {
  Lanes v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Lanes v) { std::memcpy(to, &v, sizeof v); }

// Butterflies between the lanes of one vector that lie `distance` apart.
template <int distance, int... i>
inline Lanes transform_lanes(Lanes v, std::integer_sequence<int, i...>) {
  constexpr Indices partner = {(i ^ distance)...};
  constexpr Lanes sign = {(i & distance ? -1.0f : 1.0f)...};
  return __builtin_shuffle(v, partner) + sign * v;
}

inline Lanes transform_lanes(Lanes v) {
  constexpr std::make_integer_sequence<int, kLanes> lanes;
  v = transform_lanes<1>(v, lanes);
  v = transform_lanes<2>(v, lanes);
  return kLanes == 8 ? transform_lanes<kLanes / 2>(v, lanes) : v;
}

// Butterflies between `count` vectors (a power of two).
template <int count>
inline void transform_vectors(Lanes (&v)[count]) {
  for (int half = 1; half < count; half *= 2)
    for (int i = 0; i < count; ++i)
      if (!(i & half)) {
        const Lanes sum = v[i] + v[i + half];
        v[i + half] = v[i] - v[i + half];
        v[i] = sum;
      }
}

// Two passes instead of the seven of a textbook butterfly, as loads and stores are what bounds it, and neither of them
// with more vectors at a time than a processor has registers.
inline void transform_block(const float* x, const float* scale, float* y) {
  constexpr int near = 4, chunk = near * kLanes, far = kBlock / chunk;
  for (int start = 0; start < kBlock; start += chunk) {
    Lanes v[near];
    for (int i = 0; i < near; ++i) {
      const int at = start + i * kLanes;
      v[i] = transform_lanes(load(x + at) * load(scale + at));
    }
    transform_vectors(v);
    for (int i = 0; i < near; ++i) store(y + start + i * kLanes, v[i]);
  }
  for (int start = 0; start < chunk; start += kLanes) {
    Lanes v[far];
    for (int i = 0; i < far; ++i) v[i] = load(y + start + i * chunk);
    transform_vectors(v);
    for (int i = 0; i < far; ++i) store(y + start + i * chunk, v[i]);
  }
}

Tensor& scaled_hadamard_out(KernelRuntimeContext& context, const Tensor& x, const Tensor& scale, Tensor& out) {
  ET_KERNEL_CHECK(context, executorch::runtime::resize_tensor(out, x.sizes()) == Error::Ok, InvalidArgument, out);
  const int64_t width = scale.numel();
  const bool is_float = x.scalar_type() == ScalarType::Float && scale.scalar_type() == ScalarType::Float &&
      out.scalar_type() == ScalarType::Float;
  ET_KERNEL_CHECK(context, is_float, InvalidArgument, out);
  ET_KERNEL_CHECK(context, x.dim() > 0 && x.size(x.dim() - 1) == width, InvalidArgument, out);
  ET_KERNEL_CHECK(context, width % kBlock == 0, InvalidArgument, out);
  const float* from = x.const_data_ptr<float>();
  const float* factors = scale.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  for (int64_t row = 0; row < x.numel(); row += width)
    for (int64_t block = 0; block < width; block += kBlock)
      transform_block(from + row + block, factors + block, to + row + block);
  return out;
}

}  // namespace

EXECUTORCH_LIBRARY(edge_hadanorm, "scaled_hadamard.out", scaled_hadamard_out);
