// The functions that elementwise formulas are made of, in lanes.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/lanes/exponential.h"

namespace tmc {
namespace {

// The Taylor coefficients of tanh(z) / z in z^2, from tanh' = 1 - tanh^2: (2n + 1) c_n = -(sum of c_i c_j, i + j = n -
// 1).
template <class Real>
struct TanhSeries {
  // At |z| = 1/2 a term is a tenth of the one before: 0.1^8 and 0.1^17 are below half a unit in the last place.
  static constexpr int kTerms = sizeof(Real) == 4 ? 9 : 18;
  Real terms[kTerms];
  constexpr TanhSeries() : terms{1} {
    double exact[kTerms] = {1};
    for (int n = 1; n < kTerms; ++n) {
      for (int i = 0; i < n; ++i) exact[n] -= exact[i] * exact[n - 1 - i];
      exact[n] /= 2 * n + 1;
      terms[n] = static_cast<Real>(exact[n]);
    }
  }
};

// To the accuracy of T.
template <class T>
struct LaneMath {
  using Real = accumulate_t<T>;
  using X = Lanes<Real>;

  // Numerator and denominator are made small by one power of two, so that exp(-x) is in range wherever the result is
  // not zero, subnormal results included.
  static X sigmoid(X x) {
    constexpr Real kSmall = sizeof(Real) == 4 ? Real(0x1p-24) : Real(0x1p-53);
    return kSmall / one_plus_exp_for<T>(-x, kSmall);
  }

  // With e = exp(-2 |x|), tanh |x| = (1 - e) / (1 + e) = 1 - 2 e / (1 + e), which cancels near zero: there, the series.
  static X tanh(X x) {
    constexpr TanhSeries<Real> kSeries;
    const X square = x * x;
    X sum = X{} + kSeries.terms[kSeries.kTerms - 1];
    for (int n = kSeries.kTerms - 2; n >= 0; --n) sum = sum * square + kSeries.terms[n];
    const X magnitude = x < 0 ? -x : x, e = exp_for<T>(-2 * magnitude);
    const X far = 1 - 2 * e / (1 + e);
    return magnitude < Real(0.5) ? x * sum : x < 0 ? -far : far;
  }
};

}  // namespace
}  // namespace tmc
