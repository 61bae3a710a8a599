// The table of kernels of cpu/gemm/gemm.h, compiled once for each instruction set by kernels.isa.cpp. Here are those
// that begin and end a tile. All have internal linkage (cpu/lanes/lanes.h says why).
#pragma once
#include "cpu/gemm/pack.h"

namespace tmc {
namespace {

template <class T, class Stored>
void start(const Gemm& gemm, IndexRange rows, IndexRange columns, void* tile) {
  const Stored* bias = static_cast<const Stored*>(gemm.bias);
  const int64_t stride = tile_stride<T>(columns.size);
  for (int64_t i = 0; i < rows.size; ++i) {
    T* row = static_cast<T*>(tile) + i * stride;
    T value = 0;
    if (gemm.bias_along == BiasAlong::rows) convert(bias[rows.begin + i], value);
    for (int64_t j = 0; j < stride; ++j) row[j] = value;
    if (gemm.bias_along == BiasAlong::columns)
      for (int64_t j = 0; j < columns.size; ++j) convert(bias[columns.begin + j], row[j]);
  }
}

template <class T>
void add(int64_t count, const void* other, void* tile) {
  for (int64_t i = 0; i < count; ++i) static_cast<T*>(tile)[i] += static_cast<const T*>(other)[i];
}

template <class T, class Stored>
void finish(const MatrixView& result, IndexRange rows, IndexRange columns, const void* tile) {
  Stored* data = static_cast<Stored*>(result.data);
  const int64_t distance = run_stride(result, result.columns.inner), stride = tile_stride<T>(columns.size);
  walk(result, rows, columns, [=](int64_t row, int64_t column, int64_t count, int64_t offset, bool inside) {
    if (!inside) return;
    const T* from = static_cast<const T*>(tile) + row * stride + column;
    Stored* to = data + offset;
    if (distance == 1)
      copy_run<kLanes<T>>(from, count, to);
    else
      for (int64_t i = 0; i < count; ++i) convert(from[i], to[i * distance]);
  });
}

template <class Stored, class T = accumulate_t<Stored>>
constexpr GemmKernels kernels_of() {
  return {.name = "multiply-adds of vectors",
          .compute_size = sizeof(T),
          .packed_size = kBlockDepth * sizeof(T),
          .row_quantum = 1,
          .panel_width = kWidth<T>,
          .pack_a = pack_a<T, Stored>,
          .pack_b = pack_b<T, Stored>,
          .multiply = multiply<T>,
          .start = start<T, Stored>,
          .add = add<T>,
          .finish = finish<T, Stored>};
}

}  // namespace
}  // namespace tmc
