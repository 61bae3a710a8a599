// CUDA's half-precision types on a CPU: storage, and conversions rounded to nearest even as the GPU does.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace tmc {

struct bfloat16 {
  uint16_t bits = 0;

  bfloat16() = default;
  explicit bfloat16(float value) {
    const uint32_t wide = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = wide + 0x7FFF + ((wide >> 16) & 1);
    bits = std::isnan(value) ? 0x7FFF : static_cast<uint16_t>(rounded >> 16);
  }
  operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

struct float16 {
  uint16_t bits = 0;

  float16() = default;
  explicit float16(float value) {
    constexpr int kMantissaBits = 10, kBias = 15;
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float magnitude = std::fabs(value);
    if (std::isnan(value)) {
      bits = 0x7FFF;
    } else if (magnitude >= 65520) {  // half a step above the largest
      bits = sign | 0x7C00;
    } else if (magnitude < 0x1p-14f) {  // subnormal: steps of 2^-24
      bits = sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
    } else {
      const int exponent = std::ilogb(magnitude);
      const float mantissa = std::nearbyint(std::ldexp(magnitude, kMantissaBits - exponent));  // 1024 ... 2048
      bits = sign | static_cast<uint16_t>(((exponent + kBias - 1) << kMantissaBits) + static_cast<int>(mantissa));
    }
  }
  operator float() const {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float magnitude = exponent == 0 ? std::ldexp(float(mantissa), -24) : std::ldexp(1024.0f + mantissa, exponent - 25);
    if (exponent == 31) magnitude = mantissa ? NAN : INFINITY;
    return bits & 0x8000 ? -magnitude : magnitude;
  }
};

}  // namespace tmc
