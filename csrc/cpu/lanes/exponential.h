// exp in lanes, to the accuracy that the type of a result asks for.
//
//   exp(x) = 2^t, t = x / ln 2        2^t = 2^n 2^f, n a whole number: a polynomial of f, and n added to its exponent
//
// Bound: arithmetic.
//
// For sources compiled per instruction set (see cpu/lanes/lanes.h).
#pragma once
#include "cpu/lanes/lanes.h"

namespace tmc {
namespace {

// A polynomial, from the highest power down.
template <class Real, int kCount>
struct Polynomial {
  Real coefficients[kCount];

  // Times `factor`, which is known at compile time wherever this is called and then costs nothing.
  Lanes<Real> operator()(Lanes<Real> x, Real factor) const {
    Lanes<Real> sum = Lanes<Real>{} + factor * coefficients[0];
    for (int i = 1; i < kCount; ++i) sum = sum * x + factor * coefficients[i];
    return sum;
  }
};
// Taylor's for (exp(r) - 1) / r.
template <int kCount>
constexpr Polynomial<double, kCount> taylor_of_exp() {
  Polynomial<double, kCount> result{};
  double factorial = 1;
  for (int k = 1; k <= kCount; ++k) result.coefficients[kCount - k] = 1 / (factorial *= k);
  return result;
}

// What exp needs to know of a type's format, how far it must go, and (exp(r) - 1) / r on |r| <= ln 2 / 2.
template <class Real>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr int kFractionBits = 23, kBias = 127;
  static constexpr float kMost = 104;  // exp(-kMost) is less than half of the least subnormal
  static constexpr float kLn2High = 0x1.63p-1f, kLn2Low = -0x1.bd0106p-13f;  // high: 9 bits, exact times n
  static constexpr Polynomial<float, 6> kPolynomial = {
      // of least relative error in exp, 2^-28
      0.00138146131f, 0.00836870983f, 0.0416683874f, 0.166665207f, 0.499999935f, 1};
};
template <>
struct ExpConstants<double> {
  static constexpr int kFractionBits = 52, kBias = 1023;
  static constexpr double kMost = 746;
  static constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;  // high: 42 bits
  static constexpr Polynomial<double, 13> kPolynomial = taylor_of_exp<13>();                 // 0.35^14 / 14! = 5e-18
};
template <class Real>
constexpr Real kReciprocalOfLn2 = Real(0x1.71547652b82fep+0);

// Adding this rounds to an integer: 1.5 * 2^kFractionBits.
template <class Real>
constexpr Real kToInteger = Real(3ll << (ExpConstants<Real>::kFractionBits - 1));

// values * 2^floor(n), rounded once if the result is subnormal. Without AVX-512, n is an integer of at most kMost /
// ln 2, and the power is taken in two steps, since 2^n itself may be out of range.
template <class Real>
inline Lanes<Real> scale(Lanes<Real> values, Lanes<Real> n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) {
    return _mm512_maskz_scalef_ps(-1, values, n);
  } else {
    return _mm512_maskz_scalef_pd(-1, values, n);
  }
#else
  using Constants = ExpConstants<Real>;
  const auto power_of_two = [](IntegerLanes<Real> m) {
    return bits_as<Lanes<Real>>((m + Constants::kBias) << Constants::kFractionBits);
  };
  const IntegerLanes<Real> bits = bits_as<IntegerLanes<Real>>(n + kToInteger<Real>);  // n, in the lowest bits
  const IntegerLanes<Real> whole = bits - bits_as<Integer<Real>>(kToInteger<Real>), half = whole >> 1;
  return values * power_of_two(half) * power_of_two(whole - half);
#endif
}

// NaN stays.
template <class Real>
inline Lanes<Real> clamp(Lanes<Real> x, Real most) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) {  // GCC 12 makes comparisons and selections of the general form
    const __m512 limit = _mm512_set1_ps(most);
    return _mm512_maskz_max_ps(-1, _mm512_sub_ps(_mm512_setzero_ps(), limit), _mm512_maskz_min_ps(-1, limit, x));
  }
#endif
  x = x > most ? Lanes<Real>{} + most : x;
  return x < -most ? Lanes<Real>{} - most : x;
}

// factor * exp(x) = power * (1 + rest), power = factor * 2^n: n is the integer next to t, and r = f ln 2 = x - n ln 2.
template <class Real>
struct Exponential {
  Lanes<Real> power, rest;
};
template <class Real>
inline Exponential<Real> exp_to_last_place(Lanes<Real> x, Real factor) {
  using Constants = ExpConstants<Real>;
  x = clamp<Real>(x, Constants::kMost);
  const Lanes<Real> n = (x * kReciprocalOfLn2<Real> + kToInteger<Real>)-kToInteger<Real>;
  const Lanes<Real> r = x - n * Constants::kLn2High - n * Constants::kLn2Low;
  return {scale<Real>(Lanes<Real>{} + factor, n), r * Constants::kPolynomial(r, 1)};
}

// factor * exp(x) for results in half precision (eq. 31): a polynomial of degree 4 for 2^f on [0, 1], whose relative
// error is 2^-18.6, where half a unit of float16 is 2^-12 and of bfloat16 2^-9.
inline FloatLanes exp_to_half_precision(FloatLanes x, float factor) {
#if defined(__AVX512F__)
  constexpr int kFromFloor = 0x9;  // t - floor(t), 0 for infinite t
  const FloatLanes n = x * kReciprocalOfLn2<float>, f = _mm512_maskz_reduce_ps(-1, n, kFromFloor);
#else
  const FloatLanes t = clamp<float>(x, ExpConstants<float>::kMost) * kReciprocalOfLn2<float>;
  const FloatLanes n = (t - 0.5f + kToInteger<float>)-kToInteger<float>, f = t - n;
#endif
  constexpr Polynomial<float, 5> kPower = {0.0135341678f, 0.0520114608f, 0.241442757f, 0.693003834f, 1.00000259f};
  return scale<float>(kPower(f, factor), n);
}

// exp(x) for a result of type T: about one unit in the last place, or enough for a half type.
template <class T>
inline Lanes<accumulate_t<T>> exp_for(Lanes<accumulate_t<T>> x) {
  if constexpr (sizeof(T) == 2) return exp_to_half_precision(x, 1);
  const auto [power, rest] = exp_to_last_place<accumulate_t<T>>(x, 1);
  return power + power * rest;
}

// small * (1 + exp(x)): a small power of two keeps sums in range that are not. small + power, of two powers of two, is
// exact while float holds both; what it leaves of `small` where it does not is added with the rest, and one rounding
// remains.
template <class T>
inline Lanes<accumulate_t<T>> one_plus_exp_for(Lanes<accumulate_t<T>> x, accumulate_t<T> small) {
  if constexpr (sizeof(T) == 2) return small + exp_to_half_precision(x, small);
  const auto [power, rest] = exp_to_last_place<accumulate_t<T>>(x, small);
  const auto sum = power + small, left = small - (sum - power);
  return sum + (power * rest + left);
}

}  // namespace
}  // namespace tmc
