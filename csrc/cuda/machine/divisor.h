// Division of 32-bit integers by a number that the host knows. It takes a high product, an addition and a shift; a
// GPU's own integer division takes some twenty instructions.
#pragma once
#include "cuda/machine/primitives.h"

namespace tmc {

// Granlund and Montgomery, "Division by invariant integers using multiplication" (1994), figure 4.1: with
// shift = ceil(log2 d) and multiplier = 2^32 (2^shift - d) / d + 1, n / d = (n * multiplier / 2^32 + n) >> shift for
// 0 <= n < 2^31, which leaves room for the addition.
struct Divisor {
  int32_t value;
  uint32_t multiplier;
  int32_t shift;

  __device__ operator int32_t() const { return value; }
};

// For 0 <= value < 2^31. One that is 0 may only be read.
inline Divisor divisor(int64_t value) {
  Divisor d{static_cast<int32_t>(value), 0, 0};
  if (value == 0) return d;
  while ((int64_t{1} << d.shift) < value) ++d.shift;
  d.multiplier = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << d.shift) - value)) / value + 1);
  return d;
}

__device__ inline int32_t operator/(int32_t n, const Divisor& d) {
  const uint32_t dividend = static_cast<uint32_t>(n);
  const uint32_t high = static_cast<uint32_t>((uint64_t{dividend} * d.multiplier) >> 32);
  return static_cast<int32_t>((high + dividend) >> d.shift);
}
__device__ inline int32_t operator%(int32_t n, const Divisor& d) {
  return n - n / d * d.value;
}
__device__ inline int32_t ceil_div(int32_t n, const Divisor& d) {
  const int32_t quotient = n / d;
  return quotient + (quotient * d.value < n);
}

}  // namespace tmc
