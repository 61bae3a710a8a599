// Division of many values by one small integer, the divisor of an average.
#pragma once
#include <cmath>

#include "cuda/machine/primitives.h"

namespace tmc {

// At the cost of one division for all of them: by the reciprocal. The error of that is far below the rounding of half
// types; for others a step of correction gives the rounded quotient (Markstein, "Computation of elementary functions on
// the IBM RISC System/6000 processor", 1990).
template <class T>
struct Quotient {
  using acc_t = accumulate_t<T>;
  static constexpr bool kIsHalf = sizeof(T) == 2;
  acc_t divisor, reciprocal;

  __device__ Quotient(int64_t value) : divisor(static_cast<acc_t>(value)) {
    if constexpr (kIsHalf)
      reciprocal = approximate_reciprocal(divisor);
    else
      reciprocal = 1 / divisor;
  }
  __device__ acc_t of(acc_t value) const {
    const acc_t quotient = value * reciprocal;
    if constexpr (kIsHalf) return quotient;
    const acc_t remainder = std::fma(-quotient, divisor, value);
    return std::isfinite(quotient) ? std::fma(remainder, reciprocal, quotient) : quotient;
  }
};

}  // namespace tmc
