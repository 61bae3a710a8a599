// The kernels of sigmoid, over flat dense memory.
//
//   eq. 11   y = 1 / (1 + exp(-x))          eq. 12   dJ/dx = dJ/dy * (1 - y) * y
//
// Each element alone: its bits do not depend on where a thread's share begins. Bound: memory in float, the
// exponential in double.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "lanes.h"
#include "sigmoid_plan.h"

namespace tmc {
namespace {

// What exp needs to know of a type's format, and how far it must go.
template <class Real>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr int kFractionBits = 23, kBias = 127;
  static constexpr float kLeast = -104;  // exp below is less than half of the least subnormal
  static constexpr float kLn2High = 0x1.63p-1f, kLn2Low = -0x1.bd0106p-13f;  // high: 9 bits, exact times n
  static constexpr int kDegree = 7;                                          // 0.35^8 / 8! = 5e-9
};
template <>
struct ExpConstants<double> {
  static constexpr int kFractionBits = 52, kBias = 1023;
  static constexpr double kLeast = -746;
  static constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;  // high: 42 bits
  static constexpr int kDegree = 13;                                                         // 0.35^14 / 14! = 5e-18
};

// Adding this rounds to an integer: 1.5 * 2^kFractionBits.
template <class Real>
constexpr Real kToInteger = Real(3ll << (ExpConstants<Real>::kFractionBits - 1));

// values * 2^n for an integer n from kLeast / ln 2 to 0, rounded once if the result is subnormal.
template <class Real>
inline Lanes<Real> scale(Lanes<Real> values, Lanes<Real> n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) {
    return _mm512_maskz_scalef_ps(-1, values, n);
  } else {
    return _mm512_maskz_scalef_pd(-1, values, n);
  }
#else  // in two steps, since 2^n itself may be subnormal; kToInteger leaves n in the lowest bits
  using Constants = ExpConstants<Real>;
  const auto power_of_two = [](IntegerLanes<Real> m) {
    return bits_as<Lanes<Real> >((m + Constants::kBias) << Constants::kFractionBits);
  };
  const IntegerLanes<Real> bits = bits_as<IntegerLanes<Real> >(n + kToInteger<Real>);
  const IntegerLanes<Real> whole = bits - bits_as<Integer<Real> >(kToInteger<Real>), half = whole >> 1;
  return values * power_of_two(half) * power_of_two(whole - half);
#endif
}

// exp(x) for x <= 0 or NaN: exp(x) = 2^n exp(r), where n is the integer next to x / ln 2, and r = x - n ln 2 in
// [-0.35, 0.35] goes through Taylor's polynomial. About one unit in the last place.
template <class Real>
inline Lanes<Real> exp_of_negative(Lanes<Real> x) {
  using Constants = ExpConstants<Real>;
  x = x < Constants::kLeast ? Lanes<Real>{} + Constants::kLeast : x;
  const Lanes<Real> n = (x * Real(0x1.71547652b82fep+0) + kToInteger<Real>)-kToInteger<Real>;
  const Lanes<Real> r = x - n * Constants::kLn2High - n * Constants::kLn2Low;

  Real factorial[Constants::kDegree + 1] = {1};
  for (int k = 1; k <= Constants::kDegree; ++k) factorial[k] = factorial[k - 1] * k;
  Lanes<Real> sum = Lanes<Real>{} + 1 / factorial[Constants::kDegree];
  for (int k = Constants::kDegree - 1; k >= 0; --k) sum = sum * r + 1 / factorial[k];

  return scale<Real>(sum, n);
}

// Written with e = exp(-|x|), which cannot overflow: 1 / (1 + e) or e / (1 + e).
template <class Real>
inline Lanes<Real> sigmoid_of(Lanes<Real> x) {
  const Lanes<Real> e = exp_of_negative<Real>(x < 0 ? x : -x);
  return (x < 0 ? e : Lanes<Real>{} + 1) / (1 + e);
}

// Calls body(i, count) for whole vectors of [begin, end), then for the part of one that is left.
template <class Real, class F>
inline void for_vectors(int64_t begin, int64_t end, F body) {
  int64_t i = begin;
  for (; i + kLanes<Real> <= end; i += kLanes<Real>) body(i, kLanes<Real>);
  if (i < end) body(i, end - i);
}

template <class T>
KERNEL void sigmoid_range(const void* input, void* output, int64_t begin, int64_t end) {
  using Real = accumulate_t<T>;
  const T* x = static_cast<const T*>(input);
  T* y = static_cast<T*>(output);
  for_vectors<Real>(begin, end,
                    [=](int64_t i, int64_t count) { store(sigmoid_of<Real>(load(x + i, count)), y + i, count); });
}

template <class T>
KERNEL void sigmoid_gradient_range(const void* grad_output, const void* output, void* grad_input, int64_t begin,
                                   int64_t end) {
  using Real = accumulate_t<T>;
  const T* dy = static_cast<const T*>(grad_output);
  const T* y = static_cast<const T*>(output);
  T* dx = static_cast<T*>(grad_input);
  for_vectors<Real>(begin, end, [=](int64_t i, int64_t count) {
    const Lanes<Real> value = load(y + i, count);
    store(load(dy + i, count) * (1 - value) * value, dx + i, count);
  });
}

template <class T>
constexpr SigmoidLoops kLoops = {sigmoid_range<T>, sigmoid_gradient_range<T>};
constexpr SigmoidKernels kKernels = {kLoops<double>, kLoops<float>, kLoops<BFloat16>, kLoops<Float16>};

}  // namespace
}  // namespace tmc
