// The one-dimensional transforms of Winograd's convolution F(m, r) (eq. 27, 28), a vector of channels, or of filters,
// at a time: values of polynomials at opposite pairs of points a, -a and at infinity.
//
//   B^T x     m_{a,l} are the coefficients of (t + a) * prod (t^2 - b^2) over the other pairs b: the same sums over the
//             even and the odd x serve a and -a
//   A z       z(a) = even(a^2) + a * odd(a^2) by Horner's rule; at infinity the last coefficient
//   A^T m     sum over pairs of a^j * (m(a) + m(-a)), or the difference for odd j
//   G, G^T    as A and A^T, divided by M_a(a)
//
// Points: of all pairs of eighths these amplify rounding errors least (eq. 28), and every constant of A^T and B^T is
// exact in float32, but for the highest powers of eleven points. The reciprocals are all in G.
#pragma once
#include "cpu/lanes/lanes.h"

namespace tmc {
namespace {

template <int kPoints>
constexpr float kPointPairs[kPoints / 2] = {};
template <>
constexpr float kPointPairs<5>[] = {0.375f, 1.25f};
template <>
constexpr float kPointPairs<9>[] = {0.25f, 0.625f, 1.125f, 2.25f};
template <>
constexpr float kPointPairs<11>[] = {0.25f, 0.625f, 0.875f, 1.375f, 2.625f};

// What the transforms multiply by, for each pair.
template <int kPoints>
struct PointConstants {
  static constexpr int kPairs = kPoints / 2;
  float power[kPairs][kPoints];
  float others[kPairs][kPairs];  // the product over the other pairs, by powers of t^2
  double scale[kPairs];          // 1 / M_a(a); M_-a(-a) has the other sign

  constexpr PointConstants() : power{}, others{}, scale{} {
    for (int i = 0; i < kPairs; ++i) {
      const float point = kPointPairs<kPoints>[i];
      power[i][0] = 1;
      for (int j = 1; j < kPoints; ++j) power[i][j] = power[i][j - 1] * point;
      double distance = 2 * double{point};
      others[i][0] = 1;
      int degree = 0;
      for (const float other : kPointPairs<kPoints>) {
        if (other == point) continue;
        distance *= double{point} * point - double{other} * other;
        ++degree;
        for (int l = degree; l >= 0; --l)
          others[i][l] = (l > 0 ? others[i][l - 1] : 0) - (l < degree ? other * other * others[i][l] : 0);
      }
      scale[i] = 1 / distance;
    }
  }
};

template <int kPoints>
struct Points {
  static constexpr int kPairs = kPoints / 2;
  static constexpr PointConstants<kPoints> k = {};

  // B^T x.
  template <class V>
  static void of_input(const V (&d)[kPoints], V (&v)[kPoints]) {
#pragma GCC unroll 5
    for (int i = 0; i < kPairs; ++i) {
      V even = d[2 * kPairs - 2], odd = d[2 * kPairs - 1];
#pragma GCC unroll 5
      for (int l = kPairs - 2; l >= 0; --l) even += k.others[i][l] * d[2 * l], odd += k.others[i][l] * d[2 * l + 1];
      v[2 * i] = odd + k.power[i][1] * even, v[2 * i + 1] = odd - k.power[i][1] * even;
      if (i > 0) continue;
      V last = d[2 * kPairs];  // t^2 - a^2 times the product over the others
#pragma GCC unroll 5
      for (int l = kPairs - 2; l >= 0; --l) last += k.others[0][l] * d[2 * l + 2];
      v[2 * kPairs] = last - k.power[0][2] * even;
    }
  }

  // A y: the values of the polynomial with these coefficients.
  template <int kCount, class V>
  static void of_polynomial(const V (&y)[kCount], V (&at)[kPoints]) {
    using Real = decltype(y[0][0] + 0);
    constexpr int kLastEven = (kCount - 1) / 2 * 2, kLastOdd = kCount / 2 * 2 - 1;
#pragma GCC unroll 5
    for (int i = 0; i < kPairs; ++i) {
      const Real point = k.power[i][1], square = k.power[i][2];
      V even = y[kLastEven], odd = y[kLastOdd];
#pragma GCC unroll 5
      for (int j = kLastEven - 2; j >= 0; j -= 2) even = y[j] + square * even;
#pragma GCC unroll 5
      for (int j = kLastOdd - 2; j > 0; j -= 2) odd = y[j] + square * odd;
      at[2 * i] = even + point * odd, at[2 * i + 1] = even - point * odd;
    }
    at[kPoints - 1] = y[kCount - 1];
  }

  // A^T m.
  template <int kCount, class V>
  static void to_coefficients(const V (&m)[kPoints], V (&y)[kCount]) {
    using Real = decltype(m[0][0] + 0);
    V even[kPairs], odd[kPairs];
#pragma GCC unroll 5
    for (int i = 0; i < kPairs; ++i) even[i] = m[2 * i] + m[2 * i + 1], odd[i] = m[2 * i] - m[2 * i + 1];
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) {
      const V(&sums)[kPairs] = j % 2 == 0 ? even : odd;
      V sum = Real{k.power[0][j]} * sums[0];
      if (j == kCount - 1) sum += m[kPoints - 1];
#pragma GCC unroll 5
      for (int i = 1; i < kPairs; ++i) sum += Real{k.power[i][j]} * sums[i];
      y[j] = sum;
    }
  }

  // G w.
  template <int kCount, class V>
  static void of_filter(const V (&g)[kCount], V (&u)[kPoints]) {
    of_polynomial(g, u);
    divide(u);
  }

  // G^T u.
  template <int kCount, class V>
  static void to_filter(const V (&u)[kPoints], V (&g)[kCount]) {
    V divided[kPoints];
#pragma GCC unroll 11
    for (int i = 0; i < kPoints; ++i) divided[i] = u[i];
    divide(divided);
    to_coefficients(divided, g);
  }

 private:
  // By M_a(a); at infinity by 1.
  template <class V>
  static void divide(V (&u)[kPoints]) {
    using Real = decltype(u[0][0] + 0);
#pragma GCC unroll 5
    for (int i = 0; i < kPairs; ++i) {
      const Real scale = static_cast<Real>(k.scale[i]);
      u[2 * i] *= scale, u[2 * i + 1] *= -scale;
    }
  }
};

}  // namespace
}  // namespace tmc
