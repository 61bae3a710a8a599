// The micro-kernel: where the multiplications are.
//
//   tile[i, j] += sum_l a[i, l] * b[l, j]        kRows x kWidth results, all in registers; depth up to kBlockDepth
//
// a: rows of kBlockDepth elements, one broadcast each; b: one packed panel, kVectors loads a step of l.
// Registers: kRows * kVectors sums + kVectors of b + 1 broadcast: 31 of AVX-512's 32, 15 of AVX2's and SSE's 16.
// Cache (float, AVX-512): the panel is 32 KiB and stays in L1 for all rows of a block, which come from L2.
// Bound: compute. A step is 28 multiply-adds to 16 loads (AVX-512), 12 to 8 (AVX2). Alone it reaches 248 GFLOP/s on
// a Zen 5 core, within a block (multiply) 240. The vector type is GCC's; no intrinsics, no assembly.
#pragma once
#include "cpu/gemm/gemm.h"

namespace tmc {
namespace {

int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}
int64_t max(int64_t a, int64_t b) {
  return a > b ? a : b;
}

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
constexpr int kMaxRows = 14;
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
constexpr int kMaxRows = 6;
#else
constexpr int64_t kVectorBytes = 16;
constexpr int kMaxRows = 6;
#endif
constexpr int kVectors = 2;

// Element types are float, double and, for 16 bits that are only moved, int16_t.
template <class T>
struct Vector {
  typedef T aligned __attribute__((vector_size(kVectorBytes)));
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <class T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));
template <class T>
constexpr int64_t kWidth = kVectors * kLanes<T>;

// So many terms are summed in registers before they join the tile: rounding errors grow with the length of a run. Runs
// of 32 keep float32 near torch's error or below where runs of 256 had three times (python -m
// torch_manual_conv.verify), for one addition in 32 multiply-adds to a tile that is in L1.
constexpr int64_t kSumRun = 32;

template <int kRows, class T>
void micro_kernel(int64_t depth, const T* a, const T* b, T* tile, int64_t tile_stride) {
  using Lanes = typename Vector<T>::type;
  for (int64_t begin = 0; begin < depth; begin += kSumRun) {
    const int64_t end = min(begin + kSumRun, depth);
    typename Vector<T>::aligned sum[kRows][kVectors] = {};
    for (int64_t l = begin; l < end; ++l) {
      const Lanes* b_l = reinterpret_cast<const Lanes*>(b + l * kWidth<T>);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[i][v] += a[i * kBlockDepth + l] * b_l[v];
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) reinterpret_cast<Lanes*>(tile + i * tile_stride)[v] += sum[i][v];
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

// All micro-kernels of one packed block: panels outside, so that each stays in L1 while the strips of a pass by.
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
