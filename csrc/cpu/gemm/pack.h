// Packing: from a MatrixView into the two forms that cpu/gemm/gemm.h describes.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "cpu/gemm/matrix_walk.h"
#include "cpu/lanes/half.h"
#include "cpu/lanes/shuffle.h"

namespace tmc {
namespace {

template <int64_t kCount, class To, class From>
void convert_vector(const From* from, To* to) {
  From read[kCount];
  To written[kCount];
  __builtin_memcpy(read, from, sizeof read);
  for (int64_t i = 0; i < kCount; ++i) convert(read[i], written[i]);
  __builtin_memcpy(to, written, sizeof written);
}
template <int64_t kCount, class T>
void convert_vector(const T* from, T* to) {
  __builtin_memcpy(to, from, kCount * sizeof(T));
}
#if defined(__AVX512F__)
// As convert says; GCC 12 takes that loop apart into scalars, which cost a tenth of a whole convolution.
template <int64_t kCount>
  requires(kCount % 16 == 0)
void convert_vector(const float* from, BFloat16* to) {
  typedef uint32_t Words __attribute__((vector_size(64)));
  for (int64_t i = 0; i < kCount; i += 16) {
    Vector<float>::aligned values;
    __builtin_memcpy(&values, from + i, sizeof values);
    const Words words = reinterpret_cast<Words>(values);
    const Words rounded = (words + 0x7FFFu + (words >> 16 & 1u)) >> 16;
    const Words quiet = values == values ? rounded : Words{} + 0x7FC0u;
    const __m256i halves = _mm512_maskz_cvtepi32_epi16(-1, reinterpret_cast<__m512i>(quiet));
    __builtin_memcpy(to + i, &halves, sizeof halves);
  }
}
#endif

// to[i] = from[i] for i < count, in vectors of kCount, the last of which may overlap the one before; shorter runs in
// shorter vectors. Runs of a convolution are often shorter than a vector or a little longer: no scalar remainder.
template <int64_t kCount, class To, class From>
[[gnu::noinline]] void copy_any_run(const From* from, int64_t count, To* to) {
  if (count < kCount) {
    if constexpr (kCount > 1) copy_any_run<kCount / 2>(from, count, to);
    return;
  }
  for (int64_t i = 0; i + kCount <= count; i += kCount) convert_vector<kCount>(from + i, to + i);
  if (count % kCount != 0) convert_vector<kCount>(from + count - kCount, to + count - kCount);
}
// Whole vectors, the usual case within a panel, without a call.
template <int64_t kCount, class To, class From>
[[gnu::always_inline]] inline void copy_run(const From* from, int64_t count, To* to) {
  if (count % kCount != 0) return copy_any_run<kCount>(from, count, to);
  for (int64_t i = 0; i < count; i += kCount) convert_vector<kCount>(from + i, to + i);
}

// Both packed forms are panels of kPanel columns, each of up to kBlockDepth rows: b's panels of kWidth, and a's single
// one of kBlockDepth (whose rows may be more).
template <int64_t kPanel, class T>
T* packed_at(T* packed, int64_t row, int64_t column) {
  return packed + column / kPanel * kPanel * kBlockDepth + row * kPanel + column % kPanel;
}

// Copies a block whose rows are contiguous in memory, or whatever they are. Bound: memory.
template <int64_t kPanel, class T, class Stored>
void pack_rows(const MatrixView& view, Block rows, Block columns, T* packed) {
  const Stored* data = static_cast<const Stored*>(view.data);
  const int64_t distance = run_stride(view, view.columns.inner);
  walk(view, rows, columns, [=](int64_t row, int64_t column, int64_t count, int64_t offset, bool inside) {
    const Stored* from = data + offset;
    for (int64_t part; count > 0; count -= part, column += part, from += part * distance) {
      T* to = packed_at<kPanel>(packed, row, column);
      part = min(count, kPanel - column % kPanel);
      if (!inside)
        for (int64_t i = 0; i < part; ++i) to[i] = T{};
      else if (distance == 1)
        copy_run<kLanes<T>>(from, part, to);
      else
        for (int64_t i = 0; i < part; ++i) convert(from[i * distance], to[i]);
    }
  });
}

// to[j][i] = from[i][j] for kLanes x kLanes elements, in registers.
template <class T>
void transpose_square(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  using Lanes = typename Vector<T>::type;
  typename Vector<T>::aligned rows[kLanes<T>];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i) rows[i] = *reinterpret_cast<const Lanes*>(from + i * from_stride);
  transpose(rows);
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i) *reinterpret_cast<Lanes*>(to + i * to_stride) = rows[i];
}

// The same where columns, not rows, are contiguous: kLanes columns at a time are staged as rows and turned.
template <int64_t kPanel, class T, class Stored>
void pack_columns(const MatrixView& view, Block rows, Block columns, T* packed) {
  alignas(kVectorBytes) T stage[kLanes<T> * kBlockDepth];
  MatrixView turned = view;
  turned.rows = view.columns, turned.columns = view.rows;
  for (int64_t i = 0; i < rows.size; i += kBlockDepth)
    for (int64_t j = 0; j < columns.size; j += kLanes<T>) {
      const int64_t height = min(kBlockDepth, rows.size - i), width = min(kLanes<T>, columns.size - j);
      pack_rows<kBlockDepth, T, Stored>(turned, {columns.begin + j, width}, {rows.begin + i, height}, stage);
      T* to = packed_at<kPanel>(packed, i, j);
      int64_t row = 0;
      for (; width == kLanes<T> && row + kLanes<T> <= height; row += kLanes<T>)
        transpose_square(stage + row, kBlockDepth, to + row * kPanel, kPanel);
      for (; row < height; ++row)
        for (int64_t column = 0; column < width; ++column)
          to[row * kPanel + column] = stage[column * kBlockDepth + row];
    }
}

template <int64_t kPanel, class T, class Stored>
void pack(const MatrixView& view, Block rows, Block columns, T* packed) {
  const bool turn = run_stride(view, view.columns.inner) != 1 && run_stride(view, view.rows.inner) == 1 &&
                    view.columns.inner.grain == 1;  // the axes of walk's rows must not be merged ones
  (turn ? pack_columns<kPanel, T, Stored> : pack_rows<kPanel, T, Stored>)(view, rows, columns, packed);
}

template <class T, class Stored>
void pack_a(const MatrixView& a, Block rows, Block depth, void* packed) {
  pack<kBlockDepth, T, Stored>(a, rows, depth, static_cast<T*>(packed));
}

template <class T, class Stored>
void pack_b(const MatrixView& b, Block depth, Block columns, void* packed) {
  T* panels = static_cast<T*>(packed);
  pack<kWidth<T>, T, Stored>(b, depth, columns, panels);
  for (int64_t l = 0; l < depth.size; ++l)  // zeros fill up the last panel
    for (int64_t j = columns.size; j % kWidth<T> != 0; ++j) *packed_at<kWidth<T>>(panels, l, j) = 0;
}

}  // namespace
}  // namespace tmc
