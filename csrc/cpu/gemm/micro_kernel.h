// The micro-kernel: where the multiplications are.
//
//   tile[i, j] += sum_l a[i, l] * b[l, j]        kRows x kWidth results, all in registers; depth up to kBlockDepth
//
// a: rows of kBlockDepth elements, one broadcast each; b: one packed panel, kVectors loads a step of l.
// Registers: kRows * kVectors sums + kVectors of b + 1 broadcast: 31 of AVX-512's 32, 15 of AVX2's and SSE's 16.
// Cache (float, AVX-512): the panel is 32 KiB and stays in L1 for all rows of a block, which come from L2.
// Bound: compute. A step is 28 multiply-adds to 16 loads (AVX-512), 12 to 8 (AVX2). On a Zen 5 core the micro-kernel
// alone reaches 248 GFLOP/s, and 240 within a block (multiply). No intrinsics, no assembly.
#pragma once
#include "cpu/gemm/gemm.h"
#include "cpu/lanes/lanes.h"

namespace tmc {
namespace {

#if defined(__AVX512F__)
constexpr int kMaxRows = 14;
#else
constexpr int kMaxRows = 6;
#endif
constexpr int kVectors = 2;
template <class T>
constexpr int64_t kWidth = kVectors * kLanes<T>;

// Terms that are summed in registers before they join the tile. Rounding errors grow with the length of such a run:
// runs of 32 keep float32 near torch's error or below, where runs of 256 had three times (python -m
// torch_manual_conv.verify). The price is one addition in 32 multiply-adds to a tile that is in L1.
constexpr int64_t kSumRun = 32;

template <int kRows, class T>
void micro_kernel(int64_t depth, const T* a, const T* b, T* tile, int64_t tile_stride) {
  for (int64_t begin = 0; begin < depth; begin += kSumRun) {
    const int64_t end = min(begin + kSumRun, depth);
    Lanes<T> sum[kRows][kVectors] = {};
    for (int64_t l = begin; l < end; ++l) {
      Lanes<T> b_l[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) b_l[v] = load(b + l * kWidth<T> + v * kLanes<T>);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[i][v] += a[i * kBlockDepth + l] * b_l[v];
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        T* const to = tile + i * tile_stride + v * kLanes<T>;
        store(load(to) + sum[i][v], to);
      }
  }
}

// The instance for `rows` <= kRows.
template <int kRows, class T>
void micro_kernel_of(int64_t rows, int64_t depth, const T* a, const T* b, T* tile, int64_t tile_stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return micro_kernel_of<kRows - 1>(rows, depth, a, b, tile, tile_stride);
  }
  micro_kernel<kRows>(depth, a, b, tile, tile_stride);
}

template <class T>
constexpr int64_t tile_stride(int64_t columns) {
  return (columns + kWidth<T> - 1) / kWidth<T> * kWidth<T>;
}

// All micro-kernels of one packed block. Panels are the outer loop: each stays in L1 while the strips of a pass by.
template <class T>
void multiply(int64_t rows, int64_t columns, int64_t depth, const void* packed_a, const void* packed_b, void* tile) {
  if (rows == 0) return;
  const int64_t strips = (rows + kMaxRows - 1) / kMaxRows;
  const int64_t strip = (rows + strips - 1) / strips;  // equal strips: no thin last one
  const int64_t stride = tile_stride<T>(columns);
  for (int64_t j = 0; j < columns; j += kWidth<T>)
    for (int64_t i = 0; i < rows; i += strip)
      micro_kernel_of<kMaxRows>(min(strip, rows - i), depth, static_cast<const T*>(packed_a) + i * kBlockDepth,
                                static_cast<const T*>(packed_b) + j * kBlockDepth,
                                static_cast<T*>(tile) + i * stride + j, stride);
}

}  // namespace
}  // namespace tmc
