// The two-dimensional transforms of Winograd's convolution F(m x m, r x r) (eq. 28), a vector of channels, or of
// filters, at a time: winograd_points.h along the columns, then along the rows.
//
// Bound: five points cost 10 instructions for each 5 values in or out, nine points 36 for each 9, on operands in L2:
// together below a tenth of the time of the products for 64 channels and more.
#pragma once
#include "winograd_multiply.h"
#include "winograd_points.h"
#include "winograd_stage.h"

namespace tmc {
namespace {

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

// T x T^T: `along` on each column, then on each row. load(i, j) gives x.
template <int kFrom, int kTo, class Lanes_, class Load, class Along, class Store>
inline void transform(const Load& load, const Along& along, const Store& store) {
  Lanes_ half[kTo][kFrom];
#pragma GCC unroll 5
  for (int j = 0; j < kFrom; ++j) {
    Lanes_ column[kFrom], values[kTo];
#pragma GCC unroll 16
    for (int i = 0; i < kFrom; ++i) column[i] = load(i, j);
    along(column, values);
#pragma GCC unroll 16
    for (int i = 0; i < kTo; ++i) half[i][j] = values[i];
  }
#pragma GCC unroll 5
  for (int i = 0; i < kTo; ++i) {
    Lanes_ values[kTo];
    along(half[i], values);
#pragma GCC unroll 16
    for (int j = 0; j < kTo; ++j) store(i, j, values[j]);
  }
}

// Every tile of a staged region, kTile pixels apart, every vector of its channels.
template <int kTile, int kFrom, int kPoints, class Along>
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

template <int kTile, int kPoints>
void transform_input(const float* pixels, int64_t columns, int64_t channels, int64_t tile_rows, int64_t tile_columns,
                     Planes v) {
  transform_tiles<kTile, kPoints, kPoints>(pixels, columns, channels, tile_rows, tile_columns, v,
                                           [](const auto& d, auto& at) { Points<kPoints>::of_input(d, at); });
}

template <int kTile, int kPoints>
void transform_grad_output(const float* pixels, int64_t columns, int64_t channels, int64_t tile_rows,
                           int64_t tile_columns, Planes g) {
  transform_tiles<kTile, kTile, kPoints>(pixels, columns, channels, tile_rows, tile_columns, g,
                                         [](const auto& y, auto& at) { Points<kPoints>::of_polynomial(y, at); });
}

// Infinity and NaN times zero are NaN: a sum that has met one is not equal to itself.
template <class Lanes_>
inline bool all_finite(const Lanes_& zeros) {
  bool finite = true;
  for (unsigned i = 0; i < sizeof zeros / sizeof zeros[0]; ++i) finite &= zeros[i] == zeros[i];
  return finite;
}

template <int kTile, int kPoints>
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
            [](const auto& at, auto& y) { Points<kPoints>::to_coefficients(at, y); },
            [&](int y, int x, FloatLanes value) {
              value += bias_c;
              zeros += 0.f * value;
              if (y < rows && x < columns) store(value, tile + y * pixels.row + x * pixels.column, count);
            });
      }
    }
  return all_finite(zeros);
}

template <int kTaps, int kPoints, class T>
void transform_filters_as(const Image& weight, int64_t k0, int64_t r0, int64_t s0, float* u, int64_t plane) {
  const T* from =
      reinterpret_cast<const T*>(weight.data) + k0 * weight.n_stride + r0 * weight.h_stride + s0 * weight.w_stride;
  const int64_t filters = at_most(weight.n - k0, kWidth);
  const int64_t rows = at_most(weight.h - r0, kTaps), columns = at_most(weight.w - s0, kTaps);
  alignas(kVectorBytes) float taps[kTaps * kTaps][kWidth] = {};
  for (int64_t c = 0; c < weight.c; ++c) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < columns; ++s)
        for (int64_t k = 0; k < filters; ++k)
          convert(from[k * weight.n_stride + c * weight.c_stride + r * weight.h_stride + s * weight.w_stride],
                  taps[r * kTaps + s][k]);
    for (int64_t k = 0; k < kWidth; k += kLanes<double>)
      transform<kTaps, kPoints, DoubleLanes>(
          [&](int y, int x) { return widen(taps[y * kTaps + x] + k); },
          [](const auto& g, auto& at) { Points<kPoints>::of_filter(g, at); },
          [&](int y, int x, DoubleLanes value) { narrow(value, u + (y * kPoints + x) * plane + c * kWidth + k); });
  }
}

template <int kTaps, int kPoints>
void transform_filters(const Image& weight, DType dtype, int64_t k0, int64_t r0, int64_t s0, float* u, int64_t plane) {
  switch (dtype) {
    case DType::bfloat16: return transform_filters_as<kTaps, kPoints, BFloat16>(weight, k0, r0, s0, u, plane);
    case DType::float16: return transform_filters_as<kTaps, kPoints, Float16>(weight, k0, r0, s0, u, plane);
    default: return transform_filters_as<kTaps, kPoints, float>(weight, k0, r0, s0, u, plane);
  }
}

template <int kTaps, int kPoints, class T>
bool transform_grad_weight_as(Planes u, int64_t r0, int64_t s0, const Image& grad_weight) {
  T* to = reinterpret_cast<T*>(grad_weight.data) + r0 * grad_weight.h_stride + s0 * grad_weight.w_stride;
  const int64_t rows = at_most(grad_weight.h - r0, kTaps), columns = at_most(grad_weight.w - s0, kTaps);
  HalfLanes zeros = {};
  for (int64_t k = 0; k < grad_weight.n; ++k) {
    alignas(kVectorBytes) float taps[kTaps * kTaps][kWidth];
    for (int64_t c = 0; c < kWidth; c += kLanes<double>)
      transform<kPoints, kTaps, DoubleLanes>(
          [&](int y, int x) {
            const bool skipped = (y == kPoints - 1 && rows < kTaps) || (x == kPoints - 1 && columns < kTaps);
            return skipped ? DoubleLanes{} : widen(u.data + (y * kPoints + x) * u.plane + k * u.tile + c);
          },
          [](const auto& at, auto& g) { Points<kPoints>::to_filter(at, g); },
          [&](int y, int x, DoubleLanes value) { zeros += 0.f * narrow(value, taps[y * kTaps + x] + c); });
    for (int64_t c = 0; c < grad_weight.c; ++c)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t s = 0; s < columns; ++s)
          convert(taps[r * kTaps + s][c], to[k * grad_weight.n_stride + c * grad_weight.c_stride +
                                             r * grad_weight.h_stride + s * grad_weight.w_stride]);
  }
  return all_finite(zeros);
}

template <int kTaps, int kPoints>
bool transform_grad_weight(Planes u, int64_t r0, int64_t s0, DType dtype, const Image& grad_weight) {
  switch (dtype) {
    case DType::bfloat16: return transform_grad_weight_as<kTaps, kPoints, BFloat16>(u, r0, s0, grad_weight);
    case DType::float16: return transform_grad_weight_as<kTaps, kPoints, Float16>(u, r0, s0, grad_weight);
    default: return transform_grad_weight_as<kTaps, kPoints, float>(u, r0, s0, grad_weight);
  }
}

template <int kTile, int kTaps>
constexpr WinogradKernels winograd_kernels() {
  constexpr int kPoints = kTile + kTaps - 1;
  return {.tile = kTile,
          .taps = kTaps,
          .lanes = kLanes<float>,
          .width = kWidth,
          .stage = stage,
          .unstage = unstage,
          .transform_input = transform_input<kTile, kPoints>,
          .transform_grad_output = transform_grad_output<kTile, kPoints>,
          .transform_filters = transform_filters<kTaps, kPoints>,
          .multiply = multiply,
          .transform_output = transform_output<kTile, kPoints>,
          .transform_grad_weight = transform_grad_weight<kTaps, kPoints>};
}

}  // namespace
}  // namespace tmc

#define TMC_DEFINE_WINOGRAD_KERNELS(isa)                         \
  const tmc::WinogradKernelTable tmc::winograd_kernels_##isa = { \
      tmc::winograd_kernels<3, 3>(), tmc::winograd_kernels<7, 3>(), tmc::winograd_kernels<5, 5>()};
