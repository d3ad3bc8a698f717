// Standard normal noise: edge_hadanorm/pipelines/noise.py, which defines the bits. Compile with -ffp-contract=off.

#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace noise {

// Ten rounds of Philox4x32 on block `index` of a seed's stream.
inline std::array<uint32_t, 4> philox(uint64_t seed, uint32_t stream, uint64_t index) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), stream, 0};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * c[0], second = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(second >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(second),
         static_cast<uint32_t>(first >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(first)};
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  return c;
}

template <size_t N>
double horner(double y, const std::array<double, N>& terms) {
  double total = terms[N - 1];
  for (size_t i = N - 1; i-- > 0;) total = total * y + terms[i];
  return total;
}

inline double factorial(int n) { return n < 2 ? 1 : n * factorial(n - 1); }

// Inverse odd numbers; terms of the sine (first = 1) and of the cosine (first = 0).
inline std::array<double, 12> log_terms() {
  std::array<double, 12> terms;
  for (int j = 0; j < 12; ++j) terms[j] = 1.0 / (2 * j + 1);
  return terms;
}
inline std::array<double, 9> wave_terms(int first) {
  std::array<double, 9> terms;
  for (int j = 0; j < 9; ++j) terms[j] = (j % 2 ? -1.0 : 1.0) / factorial(2 * j + first);
  return terms;
}

inline double logarithm(double u) {
  static const auto terms = log_terms();
  int e;
  double f = std::frexp(u, &e);
  if (f < 0.7071067811865476) f = f + f, e = e - 1;
  const double s = (f - 1) / (f + 1);
  return e * 0.6931471805599453 + (s + s) * horner(s * s, terms);
}

// The first `count` normals of a seed's stream.
inline std::vector<float> normal(uint64_t seed, uint32_t stream, size_t count) {
  static const auto sines = wave_terms(1), cosines = wave_terms(0);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; i += 4) {
    const auto words = philox(seed, stream, i / 4);
    for (size_t pair = 0; pair < 2 && i + 2 * pair < count; ++pair) {
      const uint32_t v = words[2 * pair];
      const int64_t w = words[2 * pair + 1], quarter = (w + (int64_t{1} << 29)) >> 30;
      const double radius = std::sqrt(-2 * logarithm((v + 0.5) * 0x1p-32));
      const double x = static_cast<double>(w - (quarter << 30)) * 0x1p-32 * 6.283185307179586;
      const double sine = x * horner(x * x, sines), cosine = horner(x * x, cosines);
      const double both[4][2] = {{cosine, sine}, {-sine, cosine}, {-cosine, -sine}, {sine, -cosine}};
      values[i + 2 * pair] = static_cast<float>(radius * both[quarter & 3][0]);
      if (i + 2 * pair + 1 < count) values[i + 2 * pair + 1] = static_cast<float>(radius * both[quarter & 3][1]);
    }
  }
  return values;
}

}  // namespace noise
