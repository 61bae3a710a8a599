// The kernels of sigmoid, over flat dense memory.
//
//   eq. 11   y = 1 / (1 + exp(-x))          eq. 12   dJ/dx = dJ/dy * (1 - y) * y
//
// Each element alone: its bits do not depend on where a thread's share begins. Bound: memory, but for tensors that
// caches hold, where the exponential takes as long as moving them, and double, where it takes longer.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/elementwise/sigmoid_plan.h"
#include "cpu/lanes/exponential.h"
#include "cpu/lanes/pairs.h"

namespace tmc {
namespace {

// To the accuracy of T. Numerator and denominator are made small by one power of two, so that exp(-x) is in range
// wherever the result is not zero, subnormal results included.
template <class T>
inline Lanes<accumulate_t<T>> sigmoid_of(Lanes<accumulate_t<T>> x) {
  using Real = accumulate_t<T>;
  constexpr Real kSmall = sizeof(Real) == 4 ? Real(0x1p-24) : Real(0x1p-53);
  return kSmall / one_plus_exp_for<T>(-x, kSmall);
}

template <class T>
KERNEL void sigmoid_range(const void* input, void* output, int64_t begin, int64_t end, bool streams) {
  using Real = accumulate_t<T>;
  map_elements<Ties::up>(
      streams, end - begin, [](Lanes<Real> x) { return sigmoid_of<T>(x); }, static_cast<T*>(output) + begin,
      static_cast<const T*>(input) + begin);
}

template <class T>
KERNEL void sigmoid_gradient_range(const void* grad_output, const void* output, void* grad_input, int64_t begin,
                                   int64_t end, bool streams) {
  using Real = accumulate_t<T>;
  map_elements<Ties::to_even>(
      streams, end - begin, [](Lanes<Real> dy, Lanes<Real> y) { return dy * (1 - y) * y; },
      static_cast<T*>(grad_input) + begin, static_cast<const T*>(grad_output) + begin,
      static_cast<const T*>(output) + begin);
}

template <class T>
constexpr SigmoidLoops kLoops = {sigmoid_range<T>, sigmoid_gradient_range<T>};

}  // namespace
}  // namespace tmc
