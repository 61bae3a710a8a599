// Square tiles turned in registers: between planes, where neighbours along a row adjoin in memory, and pixels, where
// the channels do.
//
// For sources compiled per instruction set (see lanes.h).
#pragma once
#include "lanes.h"

namespace tmc {
namespace {

// rows[i][j] becomes rows[j][i]: in the stage of distance d, the blocks of d x d beside the diagonal change places.
template <class T>
inline void transpose_lanes(Lanes<T> (&rows)[kLanes<T>]) {
#pragma GCC unroll 4
  for (int64_t d = 1; d < kLanes<T>; d *= 2) {
    IntegerLanes<T> low, high;
    for (int64_t e = 0; e < kLanes<T>; ++e) {
      low[e] = e & d ? kLanes<T> + e - d : e;
      high[e] = e & d ? kLanes<T> + e : e + d;
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes<T>; ++i)
      if ((i & d) == 0) {
        const Lanes<T> a = rows[i], b = rows[i + d];
        rows[i] = __builtin_shuffle(a, b, low), rows[i + d] = __builtin_shuffle(a, b, high);
      }
  }
}

// to[j * to_stride + i] = from[i * from_stride + j] for i < height, j < width; both at most kLanes. What lies beyond
// in a whole column of `to` is set to zero.
template <class Stored, class T = accumulate_t<Stored>>
inline void gather_tile(const Stored* from, int64_t from_stride, int64_t height, int64_t width, T* to,
                        int64_t to_stride) {
  Lanes<T> rows[kLanes<T>];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i) rows[i] = i < height ? load(from + i * from_stride, width) : Lanes<T>{};
  transpose_lanes<T>(rows);
#pragma GCC unroll 16
  for (int64_t j = 0; j < kLanes<T>; ++j)
    if (j < width) store(rows[j], to + j * to_stride);
}

// The inverse: to[i * to_stride + j] = from[j * from_stride + i]; reads whole columns of `from`.
template <class Stored, class T = accumulate_t<Stored>>
inline void scatter_tile(const T* from, int64_t from_stride, int64_t height, int64_t width, Stored* to,
                         int64_t to_stride) {
  Lanes<T> rows[kLanes<T>];
#pragma GCC unroll 16
  for (int64_t j = 0; j < kLanes<T>; ++j) rows[j] = j < width ? load(from + j * from_stride) : Lanes<T>{};
  transpose_lanes<T>(rows);
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i)
    if (i < height) store(rows[i], to + i * to_stride, width);
}

}  // namespace
}  // namespace tmc
