// Square tiles transposed in registers: from planes, where the pixels of a row are contiguous in memory, to pixels,
// where the channels are, and back.
//
// For sources compiled per instruction set (see cpu/lanes/lanes.h).
#pragma once
#include "cpu/lanes/lanes.h"
#include "cpu/lanes/shuffle.h"

namespace tmc {
namespace {

// rows[i][j] becomes rows[j][i]: row i is zipped with row i + half, log2(count) times over. Every step takes the same
// two orders of lanes, which stay in registers. Exchanging blocks would take two more for each distance: AlexNet's
// first layer, on contiguous images, took 24 ms with it instead of 17 (batch 32, float32, Zen 5, 2026-11-23).
template <class V, int64_t kCount>
inline void transpose(V (&rows)[kCount]) {
  static_assert(sizeof(rows[0]) == kCount * sizeof(rows[0][0]));
#pragma GCC unroll 4
  for (int64_t done = 1; done < kCount; done *= 2) {
    V zipped[kCount];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kCount / 2; ++i) {
      zipped[2 * i] = zip<0>(rows[i], rows[i + kCount / 2], AllLanes<kCount>{});
      zipped[2 * i + 1] = zip<kCount / 2>(rows[i], rows[i + kCount / 2], AllLanes<kCount>{});
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kCount; ++i) rows[i] = zipped[i];
  }
}

// to[j * to_stride + i] = from[i * from_stride + j] for i, j < kLanes, of one type.
template <class T>
inline void transpose_tile(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  Lanes<T> rows[kLanes<T>];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i) rows[i] = load(from + i * from_stride);
  transpose(rows);
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i) store(rows[i], to + i * to_stride);
}

// to[j * to_stride + i] = from[i * from_stride + j] for i < height, j < width; both at most kLanes. Whole columns
// of `to` are written, with zeros from `height` on.
template <class Stored, class T = accumulate_t<Stored>>
inline void transpose_tile(const Stored* from, int64_t from_stride, int64_t height, int64_t width, T* to,
                           int64_t to_stride) {
  Lanes<T> rows[kLanes<T>];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i) rows[i] = i < height ? load(from + i * from_stride, width) : Lanes<T>{};
  transpose(rows);
#pragma GCC unroll 16
  for (int64_t j = 0; j < kLanes<T>; ++j)
    if (j < width) store(rows[j], to + j * to_stride);
}

}  // namespace
}  // namespace tmc
