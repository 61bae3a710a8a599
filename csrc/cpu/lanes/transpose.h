// Square tiles turned in registers: between planes, where neighbours along a row adjoin in memory, and pixels, where
// the channels do.
//
// For sources compiled per instruction set (see cpu/lanes/lanes.h).
#pragma once
#include "cpu/lanes/lanes.h"
#include "cpu/lanes/shuffle.h"

namespace tmc {
namespace {

// to[j * to_stride + i] = from[i * from_stride + j] for i < height, j < width; both at most kLanes. What lies beyond
// in a whole column of `to` is set to zero.
template <class Stored, class T = accumulate_t<Stored>>
inline void gather_tile(const Stored* from, int64_t from_stride, int64_t height, int64_t width, T* to,
                        int64_t to_stride) {
  Lanes<T> rows[kLanes<T>];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i) rows[i] = i < height ? load(from + i * from_stride, width) : Lanes<T>{};
  transpose(rows);
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
  transpose(rows);
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i)
    if (i < height) store(rows[i], to + i * to_stride, width);
}

}  // namespace
}  // namespace tmc
