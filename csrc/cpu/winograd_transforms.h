// The transforms of Winograd's convolution (eq. 28), a vector of channels, or of filters, at a time.
//
// Points a, -a, b, -b and infinity with a = 3/8, b = 5/4: of the pairs of eighths these amplify rounding errors least
// (eq. 28), and every constant of A^T and B^T below is exact in float32. The reciprocals are all in G, which is applied
// in double.
//
// Bound: a transform is 10 instructions for each 5 values in or out, on operands in L2: together below a tenth of the
// time of the products for 64 channels and more.
#pragma once
#include "winograd_multiply.h"
#include "winograd_stage.h"

namespace tmc {
namespace {

constexpr float kA = 0.375f, kB = 1.25f, kA2 = kA * kA, kB2 = kB * kB;
// 1 / prod_{q != p} (p - q) over the finite points q, for p = a and p = b; for -a and -b it has the other sign.
constexpr double kScaleA = 1 / (2.0 * kA * (kA2 - kB2)), kScaleB = 1 / (2.0 * kB * (kB2 - kA2));

// B^T d: the coefficients of eq. 28's polynomials, two of a pair at a time.
inline void input_points(const FloatLanes (&d)[5], FloatLanes (&v)[5]) {
  const FloatLanes even_a = d[2] - kB2 * d[0], odd_a = d[3] - kB2 * d[1];
  const FloatLanes even_b = d[2] - kA2 * d[0], odd_b = d[3] - kA2 * d[1];
  v[0] = odd_a + kA * even_a, v[1] = odd_a - kA * even_a;
  v[2] = odd_b + kB * even_b, v[3] = odd_b - kB * even_b;
  v[4] = (d[4] - kB2 * d[2]) - kA2 * even_a;
}

// A dy, the values of the polynomial with these three coefficients.
inline void output_points(const FloatLanes (&y)[3], FloatLanes (&g)[5]) {
  const FloatLanes even_a = y[0] + kA2 * y[2], even_b = y[0] + kB2 * y[2];
  g[0] = even_a + kA * y[1], g[1] = even_a - kA * y[1];
  g[2] = even_b + kB * y[1], g[3] = even_b - kB * y[1];
  g[4] = y[2];
}

// A^T m.
inline void output_values(const FloatLanes (&m)[5], FloatLanes (&y)[3]) {
  const FloatLanes even_a = m[0] + m[1], odd_a = m[0] - m[1], even_b = m[2] + m[3], odd_b = m[2] - m[3];
  y[0] = even_a + even_b;
  y[1] = kB * odd_b + kA * odd_a;
  y[2] = m[4] + kA2 * even_a + kB2 * even_b;
}

// The kernel's transforms are made in double: they run once a call, not once a tile.
using DoubleLanes = Lanes<double>;
using HalfLanes = Vector<float, kLanes<double>>;

inline DoubleLanes widen(const float* from) {
  return __builtin_convertvector(load_raw<float, kLanes<double>>(from, kLanes<double>), DoubleLanes);
}
inline HalfLanes narrow(DoubleLanes values, float* to) {
  const HalfLanes rounded = __builtin_convertvector(values, HalfLanes);
  __builtin_memcpy(to, &rounded, sizeof rounded);
  return rounded;
}

// G g.
inline void filter_points(const DoubleLanes (&g)[3], DoubleLanes (&u)[5]) {
  const DoubleLanes even_a = g[0] + double{kA2} * g[2], odd_a = double{kA} * g[1];
  const DoubleLanes even_b = g[0] + double{kB2} * g[2], odd_b = double{kB} * g[1];
  u[0] = kScaleA * (even_a + odd_a), u[1] = -kScaleA * (even_a - odd_a);
  u[2] = kScaleB * (even_b + odd_b), u[3] = -kScaleB * (even_b - odd_b);
  u[4] = g[2];
}

// G^T u.
inline void filter_values(const DoubleLanes (&u)[5], DoubleLanes (&g)[3]) {
  const DoubleLanes even_a = kScaleA * (u[0] - u[1]), odd_a = kScaleA * (u[0] + u[1]);
  const DoubleLanes even_b = kScaleB * (u[2] - u[3]), odd_b = kScaleB * (u[2] + u[3]);
  g[0] = even_a + even_b;
  g[1] = double{kA} * odd_a + double{kB} * odd_b;
  g[2] = double{kA2} * even_a + double{kB2} * even_b + u[4];
}

// The two-dimensional transform T x T^T: `along` on each column, then on each row. load(i, j) gives x.
template <int kFrom, int kTo, class Lanes_, class Load, class Along, class Store>
inline void transform(const Load& load, const Along& along, const Store& store) {
  Lanes_ half[kTo][kFrom];
#pragma GCC unroll 8
  for (int j = 0; j < kFrom; ++j) {
    Lanes_ column[kFrom], values[kTo];
#pragma GCC unroll 8
    for (int i = 0; i < kFrom; ++i) column[i] = load(i, j);
    along(column, values);
#pragma GCC unroll 8
    for (int i = 0; i < kTo; ++i) half[i][j] = values[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTo; ++i) {
    Lanes_ values[kTo];
    along(half[i], values);
#pragma GCC unroll 8
    for (int j = 0; j < kTo; ++j) store(i, j, values[j]);
  }
}

// Every tile of a staged region, every vector of its channels.
template <int kFrom, class Along>
inline void transform_tiles(const float* pixels, int64_t columns, int64_t channels, int64_t tile_rows,
                            int64_t tile_columns, Planes to, const Along& along) {
  for (int64_t i = 0; i < tile_rows; ++i)
    for (int64_t j = 0; j < tile_columns; ++j) {
      const float* tile = pixels + (i * kTile * columns + j * kTile) * channels;
      float* transformed = to.data + (i * tile_columns + j) * to.tile;
      for (int64_t c = 0; c < channels; c += kLanes<float>, transformed += to.vector)
        transform<kFrom, kPoints, FloatLanes>(
            [&](int y, int x) { return load_lanes(tile + (y * columns + x) * channels + c); }, along,
            [&](int y, int x, FloatLanes value) { store_lanes(value, transformed + (y * kPoints + x) * to.plane); });
    }
}

void transform_input(const float* pixels, int64_t columns, int64_t channels, int64_t tile_rows, int64_t tile_columns,
                     Planes v) {
  transform_tiles<kPoints>(pixels, columns, channels, tile_rows, tile_columns, v,
                           [](const auto& d, auto& points) { input_points(d, points); });
}

void transform_grad_output(const float* pixels, int64_t columns, int64_t channels, int64_t tile_rows,
                           int64_t tile_columns, Planes g) {
  transform_tiles<kTile>(pixels, columns, channels, tile_rows, tile_columns, g,
                         [](const auto& y, auto& points) { output_points(y, points); });
}

// Infinity and NaN times zero are NaN: a sum that has met one is not equal to itself.
template <class Lanes_>
inline bool all_finite(const Lanes_& zeros) {
  bool finite = true;
  for (unsigned i = 0; i < sizeof zeros / sizeof zeros[0]; ++i) finite &= zeros[i] == zeros[i];
  return finite;
}

bool transform_output(Planes m, const float* bias, const Pixels& pixels) {
  FloatLanes zeros = {};
  for (int64_t row = 0; row < pixels.rows; row += kTile)
    for (int64_t column = 0; column < pixels.columns; column += kTile, m.data += m.tile) {
      const int64_t rows = pixels.rows - row, columns = pixels.columns - column;
      for (int64_t c = 0; c < pixels.channels; c += kLanes<float>) {
        const float* transformed = m.data + c / kLanes<float> * m.vector;
        float* tile = pixels.data + row * pixels.row + column * pixels.column + c;
        const int64_t count = at_most(pixels.channels - c, kLanes<float>);
        const FloatLanes bias_c = load_lanes(bias + c);
        transform<kPoints, kTile, FloatLanes>(
            [&](int y, int x) { return load_lanes(transformed + (y * kPoints + x) * m.plane); },
            [](const auto& points, auto& y) { output_values(points, y); },
            [&](int y, int x, FloatLanes value) {
              value += bias_c;
              zeros += 0.f * value;
              if (y < rows && x < columns) store(value, tile + y * pixels.row + x * pixels.column, count);
            });
      }
    }
  return all_finite(zeros);
}

template <class T>
void transform_filters_as(const Image& weight, int64_t k0, int64_t r0, int64_t s0, float* u, int64_t plane) {
  const T* from =
      reinterpret_cast<const T*>(weight.data) + k0 * weight.n_stride + r0 * weight.h_stride + s0 * weight.w_stride;
  const int64_t filters = at_most(weight.n - k0, kWidth);
  const int64_t rows = at_most(weight.h - r0, kTile), columns = at_most(weight.w - s0, kTile);
  alignas(kVectorBytes) float taps[kTile * kTile][kWidth] = {};
  for (int64_t c = 0; c < weight.c; ++c) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < columns; ++s)
        for (int64_t k = 0; k < filters; ++k)
          convert(from[k * weight.n_stride + c * weight.c_stride + r * weight.h_stride + s * weight.w_stride],
                  taps[r * kTile + s][k]);
    for (int64_t k = 0; k < kWidth; k += kLanes<double>)
      transform<kTile, kPoints, DoubleLanes>(
          [&](int y, int x) { return widen(taps[y * kTile + x] + k); },
          [](const auto& g, auto& points) { filter_points(g, points); },
          [&](int y, int x, DoubleLanes value) { narrow(value, u + (y * kPoints + x) * plane + c * kWidth + k); });
  }
}

void transform_filters(const Image& weight, DType dtype, int64_t k0, int64_t r0, int64_t s0, float* u, int64_t plane) {
  switch (dtype) {
    case DType::bfloat16: return transform_filters_as<BFloat16>(weight, k0, r0, s0, u, plane);
    case DType::float16: return transform_filters_as<Float16>(weight, k0, r0, s0, u, plane);
    default: return transform_filters_as<float>(weight, k0, r0, s0, u, plane);
  }
}

template <class T>
bool transform_grad_weight_as(Planes u, int64_t r0, int64_t s0, const Image& grad_weight) {
  T* to = reinterpret_cast<T*>(grad_weight.data) + r0 * grad_weight.h_stride + s0 * grad_weight.w_stride;
  const int64_t rows = at_most(grad_weight.h - r0, kTile), columns = at_most(grad_weight.w - s0, kTile);
  HalfLanes zeros = {};
  for (int64_t k = 0; k < grad_weight.n; ++k) {
    alignas(kVectorBytes) float taps[kTile * kTile][kWidth];
    for (int64_t c = 0; c < kWidth; c += kLanes<double>)
      transform<kPoints, kTile, DoubleLanes>(
          [&](int y, int x) {
            return skipped(y, rows) || skipped(x, columns)
                       ? DoubleLanes{}
                       : widen(u.data + (y * kPoints + x) * u.plane + k * u.tile + c);
          },
          [](const auto& points, auto& g) { filter_values(points, g); },
          [&](int y, int x, DoubleLanes value) { zeros += 0.f * narrow(value, taps[y * kTile + x] + c); });
    for (int64_t c = 0; c < grad_weight.c; ++c)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t s = 0; s < columns; ++s)
          convert(taps[r * kTile + s][c], to[k * grad_weight.n_stride + c * grad_weight.c_stride +
                                             r * grad_weight.h_stride + s * grad_weight.w_stride]);
  }
  return all_finite(zeros);
}

bool transform_grad_weight(Planes u, int64_t r0, int64_t s0, DType dtype, const Image& grad_weight) {
  switch (dtype) {
    case DType::bfloat16: return transform_grad_weight_as<BFloat16>(u, r0, s0, grad_weight);
    case DType::float16: return transform_grad_weight_as<Float16>(u, r0, s0, grad_weight);
    default: return transform_grad_weight_as<float>(u, r0, s0, grad_weight);
  }
}

}  // namespace
}  // namespace tmc

#define TMC_DEFINE_WINOGRAD_KERNELS(isa)                                                \
  const tmc::WinogradKernels tmc::winograd_kernels_##isa = {tmc::kLanes<float>,         \
                                                            tmc::kWidth,                \
                                                            tmc::stage,                 \
                                                            tmc::unstage,               \
                                                            tmc::transform_input,       \
                                                            tmc::transform_grad_output, \
                                                            tmc::transform_filters,     \
                                                            tmc::multiply,              \
                                                            tmc::transform_output,      \
                                                            tmc::transform_grad_weight};
