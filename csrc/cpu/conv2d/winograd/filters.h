// The transforms of Winograd's kernels, G w G^T and G^T u G (eq. 28), made in double for five points: they run once a
// call, or once a panel of filters, not once a tile.
//
// Bound: compute. 16 filters and one channel of 3 x 3 taps take 51 ns, and 43 to 46 more where neither filters nor
// channels adjoin in memory, for the shuffles that turn taps into vectors (Zen 5, weights in cache): as long as the
// micro-kernel takes for 14, or 26, tiles.
#pragma once
#include "cpu/conv2d/winograd/transforms.h"
#include "cpu/lanes/transpose.h"

namespace tmc {
namespace {

// What they are made in: the error of more points leaves nothing to gain by double.
template <int kPoints>
struct FilterRealType {
  using type = float;
};
template <>
struct FilterRealType<5> {
  using type = double;
};
template <int kPoints>
using FilterReal = typename FilterRealType<kPoints>::type;

template <class Real>
inline Lanes<Real> widen(const float* from) {
  return __builtin_convertvector(load_raw<float, kLanes<Real>>(from, kLanes<Real>), Lanes<Real>);
}
template <class Real>
inline Vector<float, kLanes<Real>> narrow(Lanes<Real> values, float* to) {
  const auto rounded = __builtin_convertvector(values, Vector<float, kLanes<Real>>);
  store_raw<float, kLanes<Real>>(rounded, to, kLanes<Real>);
  return rounded;
}

inline int64_t span(int64_t count, int64_t stride) {
  return (count - 1) * (stride < 0 ? -stride : stride) + 1;
}

// taps[c][kTaps * r + s] = tap (r, s) of channel c, at most kLanes of them, of a panel's filters; `from` is the first
// of all. Filters that adjoin in memory, or channels, are read as vectors. Else the taps of a filter are near each
// other: those within a vector's length are read at once.
template <int kTaps, class T>
void stage_taps_as(const Image& weight, int64_t rows, int64_t columns,
                   float (&taps)[kLanes<float>][kTaps * kTaps][kWidth]) {
  const T* from = reinterpret_cast<const T*>(weight.data);
  const int64_t filters = weight.n, channels = weight.c;
  const int64_t k_stride = weight.n_stride, c_stride = weight.c_stride;
  const int64_t r_stride = weight.h_stride, s_stride = weight.w_stride;
  const bool row_at_once = span(columns, s_stride) <= kLanes<float>;
  const bool block_at_once = span(rows, r_stride) + span(columns, s_stride) - 1 <= kLanes<float>;
  const int64_t r_step = block_at_once ? rows : 1, s_step = row_at_once ? columns : 1;
  const int64_t first = min((r_step - 1) * r_stride, 0) + min((s_step - 1) * s_stride, 0);
  const int64_t length = span(r_step, r_stride) + span(s_step, s_stride) - 1;
  for (int64_t k = 0; k < kWidth; k += kLanes<float>, from += kLanes<float> * k_stride) {
    const int64_t count = min(filters - k, kLanes<float>);
    if (k_stride == 1) {
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t s = 0; s < columns; ++s)
            store(count > 0 ? load(from + c * c_stride + r * r_stride + s * s_stride, count) : FloatLanes{},
                  taps[c][r * kTaps + s] + k);
    } else if (c_stride == 1) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t s = 0; s < columns; ++s)
          transpose_tile(from + r * r_stride + s * s_stride, k_stride, count, channels, taps[0][r * kTaps + s] + k,
                         kTaps * kTaps * kWidth);
    } else {
      alignas(kVectorBytes) float together[kLanes<float>][kLanes<float>];
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t r0 = 0; r0 < rows; r0 += r_step)
          for (int64_t s0 = 0; s0 < columns; s0 += s_step) {
            transpose_tile(from + c * c_stride + r0 * r_stride + s0 * s_stride + first, k_stride, count, length,
                           together[0], kLanes<float>);
            for (int64_t r = 0; r < r_step; ++r)
              for (int64_t s = 0; s < s_step; ++s)
                store(load(together[r * r_stride + s * s_stride - first]), taps[c][(r0 + r) * kTaps + s0 + s] + k);
          }
    }
  }
}

template <int kTaps>
void stage_taps(const Image& weight, DType dtype, int64_t rows, int64_t columns,
                float (&taps)[kLanes<float>][kTaps * kTaps][kWidth]) {
  switch (dtype) {
    case DType::bfloat16: return stage_taps_as<kTaps, BFloat16>(weight, rows, columns, taps);
    case DType::float16: return stage_taps_as<kTaps, Float16>(weight, rows, columns, taps);
    default: return stage_taps_as<kTaps, float>(weight, rows, columns, taps);
  }
}

template <int kTaps, int kPoints>
void transform_filters(const Image& weight, DType dtype, int64_t k0, int64_t r0, int64_t s0, float* u, int64_t plane) {
  using Real = FilterReal<kPoints>;
  Image from = weight;
  from.data += (k0 * weight.n_stride + r0 * weight.h_stride + s0 * weight.w_stride) * weight.element_size;
  from.n = min(weight.n - k0, kWidth);
  const int64_t rows = min(weight.h - r0, kTaps), columns = min(weight.w - s0, kTaps);
  alignas(kVectorBytes) float taps[kLanes<float>][kTaps * kTaps][kWidth] = {};
  for (int64_t c0 = 0; c0 < weight.c; c0 += kLanes<float>) {
    const int64_t channels = min(weight.c - c0, kLanes<float>);
    stage_taps<kTaps>(from.channels_from(c0, channels), dtype, rows, columns, taps);
    for (int64_t c = 0; c < channels; ++c, u += kWidth)
      for (int64_t k = 0; k < kWidth; k += kLanes<Real>) {
        const auto store_row = [&](int y, const auto& values) {
#pragma GCC unroll 11
          for (int x = 0; x < kPoints; ++x) narrow<Real>(values[x], u + (y * kPoints + x) * plane + k);
        };
        transform<kTaps, kPoints, Lanes<Real>>([&](int y, int x) { return widen<Real>(taps[c][y * kTaps + x] + k); },
                                               [](const auto& g, auto& at) { Points<kPoints>::of_filter(g, at); },
                                               store_row);
      }
  }
}

// The block of taps of one filter, each channel's rounded to T.
template <int kTaps, class T>
void store_taps_as(const float (&taps)[kTaps * kTaps][kWidth], const Image& grad_weight, int64_t rows,
                   int64_t columns) {
  T* const to = reinterpret_cast<T*>(grad_weight.data);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0; s < columns; ++s)
      for (int64_t c0 = 0; c0 < grad_weight.c; c0 += kLanes<float>) {
        const FloatLanes values = load(taps[r * kTaps + s] + c0);
        const int64_t count = min(grad_weight.c - c0, kLanes<float>);
        T* const to_c0 = to + c0 * grad_weight.c_stride + r * grad_weight.h_stride + s * grad_weight.w_stride;
        if (grad_weight.c_stride == 1) {
          store(values, to_c0, count);
          continue;
        }
        T rounded[kLanes<float>];
        store(values, rounded);
        for (int64_t c = 0; c < count; ++c) to_c0[c * grad_weight.c_stride] = rounded[c];
      }
}

template <int kTaps>
void store_taps(const float (&taps)[kTaps * kTaps][kWidth], DType dtype, const Image& filter, int64_t rows,
                int64_t columns) {
  switch (dtype) {
    case DType::bfloat16: return store_taps_as<kTaps, BFloat16>(taps, filter, rows, columns);
    case DType::float16: return store_taps_as<kTaps, Float16>(taps, filter, rows, columns);
    default: return store_taps_as<kTaps, float>(taps, filter, rows, columns);
  }
}

template <int kTaps, int kPoints>
bool transform_grad_weight(Planes u, int64_t r0, int64_t s0, DType dtype, const Image& grad_weight) {
  using Real = FilterReal<kPoints>;
  Image filter = grad_weight;
  filter.data += (r0 * grad_weight.h_stride + s0 * grad_weight.w_stride) * grad_weight.element_size;
  const int64_t rows = min(grad_weight.h - r0, kTaps), columns = min(grad_weight.w - s0, kTaps);
  Vector<float, kLanes<Real>> zeros = {};
  for (int64_t k = 0; k < grad_weight.n; ++k) {
    alignas(kVectorBytes) float taps[kTaps * kTaps][kWidth];
    for (int64_t c = 0; c < kWidth; c += kLanes<Real>)
      transform<kPoints, kTaps, Lanes<Real>>(
          [&](int y, int x) {
            const bool skipped = (y == kPoints - 1 && rows < kTaps) || (x == kPoints - 1 && columns < kTaps);
            const float* const from = u.data + (y * kPoints + x) * u.plane + k * u.tile + c;
            if constexpr (kPoints > 5) prefetch(from + u.tile);  // cf. prefetch_next_line
            return skipped ? Lanes<Real>{} : widen<Real>(from);
          },
          [](const auto& at, auto& g) { Points<kPoints>::to_filter(at, g); },
          [&](int y, const auto& values) {
#pragma GCC unroll 5
            for (int x = 0; x < kTaps; ++x) zeros += 0.f * narrow<Real>(values[x], taps[y * kTaps + x] + c);
          });
    store_taps<kTaps>(taps, dtype, filter, rows, columns);
    filter.data += grad_weight.n_stride * grad_weight.element_size;
  }
  return no_nan(zeros);
}

template <int kTile, int kTaps>
constexpr WinogradKernels winograd_kernels() {
  constexpr int kPoints = kTile + kTaps - 1;
  return {.tile = kTile,
          .taps = kTaps,
          .lanes = kLanes<float>,
          .width = kWidth,
          .transform_input = transform_input<kTile, kPoints>,
          .largest_of_pixels = largest_of_pixels,
          .transform_grad_output = transform_grad_output<kTile, kPoints>,
          .transform_filters = transform_filters<kTaps, kPoints>,
          .multiply = multiply,
          .transform_output = transform_output<kTile, kPoints>,
          .transform_grad_weight = transform_grad_weight<kTaps, kPoints>};
}

}  // namespace
}  // namespace tmc
