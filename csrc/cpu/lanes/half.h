// bfloat16 and float16 as the kernels read them: their bits, and conversions in plain integer and float arithmetic,
// which every compiler vectorises. No library header is included, so that sources compiled per instruction set may use
// it.
#pragma once
#include <cstdint>

#include "common.h"

namespace tmc {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

HOST_DEVICE void convert(float from, float& to) {
  to = from;
}
HOST_DEVICE void convert(double from, double& to) {
  to = from;
}

HOST_DEVICE void convert(BFloat16 from, BFloat16& to) {
  to = from;
}
HOST_DEVICE void convert(BFloat16 from, float& to) {
  to = __builtin_bit_cast(float, static_cast<uint32_t>(from.bits) << 16);
}

// float16's exponent is moved into place and rebiased by a multiplication; subnormals come out of a subtraction
// that lets the float unit normalise them.
HOST_DEVICE void convert(Float16 from, float& to) {
  const uint32_t word = static_cast<uint32_t>(from.bits) << 16;
  const uint32_t sign = word & 0x80000000u, twice = word + word;
  const float normal = __builtin_bit_cast(float, (twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const float subnormal = __builtin_bit_cast(float, (twice >> 17) | (126u << 23)) - 0.5f;
  const float magnitude = twice < (1u << 27) ? subnormal : normal;
  to = __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, magnitude));
}

// The upper half of the result is the bfloat16 nearest to the float with these bits, ties to even, as torch rounds.
// What the lower half holds has no meaning. A NaN may come out as anything. Word: uint32_t, or a vector of them.
template <class Word>
HOST_DEVICE Word round_to_upper_half(Word bits) {
  return bits + 0x7FFFu + ((bits >> 16) & 1u);
}

// Every NaN becomes the quiet one.
HOST_DEVICE void convert(float from, BFloat16& to) {
  const uint32_t rounded = round_to_upper_half(__builtin_bit_cast(uint32_t, from)) >> 16;
  to.bits = static_cast<uint16_t>(from != from ? 0x7FC0u : rounded);
}

// The rounding is done by the float unit: adding 2^(exponent + 13) leaves exactly float16's bits of the significand.
HOST_DEVICE void convert(float from, Float16& to) {
  const uint32_t word = __builtin_bit_cast(uint32_t, from);
  const uint32_t sign = word & 0x80000000u, twice = word + word;
  const float magnitude = __builtin_bit_cast(float, word & 0x7FFFFFFFu);
  const float clamped = (magnitude * 0x1.0p+112f) * 0x1.0p-110f;  // overflows to infinity where float16 does
  const uint32_t exponent = twice & 0xFF000000u;
  const uint32_t bias = exponent < 0x71000000u ? 0x71000000u : exponent;
  const uint32_t bits = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, (bias >> 1) + 0x07800000u) + clamped);
  const uint32_t rounded = ((bits >> 13) & 0x7C00u) + (bits & 0x0FFFu);
  to.bits = static_cast<uint16_t>((sign >> 16) | (twice > 0xFF000000u ? 0x7E00u : rounded));
}

}  // namespace tmc
