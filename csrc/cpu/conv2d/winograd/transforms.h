// The two-dimensional transforms of Winograd's convolution F(m x m, r x r) (eq. 28), a vector of channels, or of
// filters, at a time: cpu/conv2d/winograd/points.h along the columns, then along the rows.
//
// Bound: five points cost 10 instructions for each 5 values in or out, nine points 36 for each 9, eleven 55 for each
// 11, on operands in L2: together below a tenth of the time of the products for 64 channels and more.
#pragma once
#include "cpu/conv2d/winograd/multiply.h"
#include "cpu/conv2d/winograd/points.h"
#include "cpu/image/kernels.h"

namespace tmc {
namespace {

// T X T^T: `along` on each column, then on each row. load(i, j) gives X; store_row(i, values) takes a row.
template <int kFrom, int kTo, class Lanes_, class Load, class Along, class StoreRow>
inline void transform(const Load& load, const Along& along, const StoreRow& store_row) {
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
    store_row(i, values);
  }
}

// Where a plane goes on, while the present line is written or read: 81 planes are more streams than the hardware
// follows, and grad_weight is 1.2 times faster so (AlexNet in bfloat16, Zen 5); 25 it does follow.
template <int kPoints, Prefetch kFor>
inline void prefetch_next_line(const float* line) {
  if constexpr (kPoints > 5) prefetch<kFor>(line + kLanes<float>);
}

template <int kPoints>
inline void store_points(const FloatLanes (&values)[kPoints], float* to, int64_t plane) {
#pragma GCC unroll 11
  for (int x = 0; x < kPoints; ++x) {
    prefetch_next_line<kPoints, Prefetch::write>(to + x * plane);
    store(values[x], to + x * plane);
  }
}

// Every tile of a staged region, every vector of its channels.
template <int kTile, int kPoints>
void transform_input(const float* pixels, int64_t columns, int64_t channels, AxisTiles down, AxisTiles across,
                     const int64_t* places, Planes v) {
  for (int64_t i = 0; i < down.count; ++i)
    for (int64_t j = 0; j < across.count; ++j) {
      const float* tile = pixels + (down.begin(i, kTile) * columns + across.begin(j, kTile)) * channels;
      float* transformed = v.data + (places ? *places++ : i * across.count + j) * v.tile;
      for (int64_t c = 0; c < channels; c += kLanes<float>, transformed += v.vector)
        transform<kPoints, kPoints, FloatLanes>(
            [&](int y, int x) { return load(tile + (y * columns + x) * channels + c); },
            [](const auto& d, auto& at) { Points<kPoints>::of_input(d, at); },
            [&](int y, const auto& values) { store_points(values, transformed + y * kPoints * v.plane, v.plane); });
    }
}

template <int kTile, int kPoints>
void transform_grad_output(const float* pixels, int64_t columns, int64_t channels, AxisTiles down, AxisTiles across,
                           const int64_t* places, Planes g) {
  for (int64_t i = 0; i < down.count; ++i)
    for (int64_t j = 0; j < across.count; ++j) {
      const float* tile = pixels + (down.begin(i, kTile) * columns + across.begin(j, kTile)) * channels;
      float* transformed = g.data + *places++ * g.tile;
      const int rows = kTile - (i >= down.whole), tile_columns = kTile - (j >= across.whole);
      for (int64_t c = 0; c < channels; c += kLanes<float>, transformed += g.vector)
        transform<kTile, kPoints, FloatLanes>(
            [&](int y, int x) {
              return y < rows && x < tile_columns ? load(tile + (y * columns + x) * channels + c) : FloatLanes{};
            },
            [](const auto& y, auto& at) { Points<kPoints>::of_polynomial(y, at); },
            [&](int y, const auto& values) { store_points(values, transformed + y * kPoints * g.plane, g.plane); });
    }
}

// NaN is larger than nothing.
inline FloatLanes larger_magnitude(FloatLanes largest, FloatLanes values) {
  const FloatLanes magnitude = bits_as<FloatLanes>(bits_as<Bits32>(values) & 0x7FFFFFFFu);
  return magnitude > largest ? magnitude : largest;
}

// As many pixels as lanes at a time. Their vectors are zipped and compared two by two, until one is left: as in
// transpose(), which leaves the pixels in their order.
inline void largest_of_pixels(const float* pixels, int64_t count, int64_t channels, float* largest) {
  constexpr int64_t kCount = kLanes<float>;
  for (int64_t first = 0; first < count; first += kCount, pixels += kCount * channels) {
    const int64_t present = min(count - first, kCount);
    FloatLanes values[kCount] = {};
    for (int64_t i = 0; i < present; ++i)
      for (int64_t c = 0; c < channels; c += kCount)
        values[i] = larger_magnitude(values[i], load(pixels + i * channels + c));
#pragma GCC unroll 4
    for (int64_t half = kCount / 2; half > 0; half /= 2)
#pragma GCC unroll 8
      for (int64_t i = 0; i < half; ++i)
        values[i] = larger_magnitude(zip<0>(values[i], values[i + half], AllLanes<kCount>{}),
                                     zip<kCount / 2>(values[i], values[i + half], AllLanes<kCount>{}));
    store(values[0], largest + first, present);
  }
}

// Infinity and NaN times zero are NaN: a sum that has met one is not equal to itself.
template <class Lanes_>
inline bool no_nan(const Lanes_& zeros) {
  bool finite = true;
  for (unsigned i = 0; i < sizeof zeros / sizeof zeros[0]; ++i) finite &= zeros[i] == zeros[i];
  return finite;
}

// What a tile with one output fewer has not been given, at infinity, is in none of the outputs that it has.
template <int kTile, int kPoints>
KERNEL bool transform_output(Planes m, const int64_t* places, AxisTiles down, AxisTiles across, const float* bias,
                             const PixelGrid& pixels) {
  FloatLanes zeros = {};
  for (int64_t i = 0; i < down.count; ++i)
    for (int64_t j = 0; j < across.count; ++j) {
      const int64_t row = down.begin(i, kTile), column = across.begin(j, kTile), place = *places++;
      const int64_t rows = min(pixels.rows - row, kTile - (i >= down.whole));
      const int64_t columns = min(pixels.columns - column, kTile - (j >= across.whole));
      for (int64_t c = 0; c < pixels.channels; c += kLanes<float>) {
        const float* transformed = m.data + place * m.tile + c / kLanes<float> * m.vector;
        float* tile = pixels.data + row * pixels.row + column * pixels.column + c;
        const int64_t count = min(pixels.channels - c, kLanes<float>);
        const FloatLanes bias_c = load(bias + c);
        transform<kPoints, kTile, FloatLanes>(
            [&](int y, int x) {
              const float* const from = transformed + (y * kPoints + x) * m.plane;
              prefetch_next_line<kPoints, Prefetch::read>(from);
              return load(from);
            },
            [](const auto& at, auto& y) { Points<kPoints>::to_coefficients(at, y); },
            [&](int y, auto& values) {
              if (y >= rows) return;
              FloatLanes zeros_of_row = {};  // for each row its own: one chain of all additions would take longest
#pragma GCC unroll 8
              for (int x = 0; x < kTile; ++x) {
                if (x >= columns) break;
                values[x] += bias_c;
                zeros_of_row += 0.f * values[x];
                store(values[x], tile + y * pixels.row + x * pixels.column, count);
              }
              zeros += zeros_of_row;
            });
      }
    }
  return no_nan(zeros);
}

}  // namespace
}  // namespace tmc
