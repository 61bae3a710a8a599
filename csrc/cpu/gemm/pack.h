// Packing: copies blocks of a MatrixView into the two packed forms of cpu/gemm/gemm.h. Bound: memory.
#pragma once
#include "cpu/gemm/matrix_walk.h"
#include "cpu/lanes/transpose.h"

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
// GCC 12 takes the loop over convert apart into scalars, which cost a tenth of a whole convolution.
template <int64_t kCount>
  requires(kCount % kLanes<float> == 0)
void convert_vector(const float* from, BFloat16* to) {
  for (int64_t i = 0; i < kCount; i += kLanes<float>) store(load(from + i), to + i);
}
#endif

// to[i] = from[i] for i < count, in vectors of kCount. The last vector may overlap the one before; shorter runs take
// shorter vectors. There is no scalar tail: runs are often shorter than a vector, or a little longer.
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

// Walks along rows: the usual case, in which rows are contiguous, and any other that pack_columns cannot take.
template <int64_t kPanel, class T, class Stored>
void pack_rows(const MatrixView& view, IndexRange rows, IndexRange columns, T* packed) {
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

// The same where columns, not rows, are contiguous: kLanes columns at a time are staged as rows and transposed.
template <int64_t kPanel, class T, class Stored>
void pack_columns(const MatrixView& view, IndexRange rows, IndexRange columns, T* packed) {
  alignas(kVectorBytes) T stage[kLanes<T> * kBlockDepth];
  const MatrixView by_columns = transposed(view);
  for (int64_t i = 0; i < rows.size; i += kBlockDepth)
    for (int64_t j = 0; j < columns.size; j += kLanes<T>) {
      const int64_t height = min(kBlockDepth, rows.size - i), width = min(kLanes<T>, columns.size - j);
      pack_rows<kBlockDepth, T, Stored>(by_columns, {columns.begin + j, width}, {rows.begin + i, height}, stage);
      T* to = packed_at<kPanel>(packed, i, j);
      int64_t row = 0;
      for (; width == kLanes<T> && row + kLanes<T> <= height; row += kLanes<T>)
        transpose_tile(stage + row, kBlockDepth, to + row * kPanel, kPanel);
      for (; row < height; ++row)
        for (int64_t column = 0; column < width; ++column)
          to[row * kPanel + column] = stage[column * kBlockDepth + row];
    }
}

// Whether only the columns are contiguous, and may be walked: the factors of walk's rows must not be merged ones.
bool columns_are_runs(const MatrixView& view) {
  return run_stride(view, view.columns.inner) != 1 && run_stride(view, view.rows.inner) == 1 &&
         view.columns.inner.grain == 1;
}

template <int64_t kPanel, class T, class Stored>
void pack(const MatrixView& view, IndexRange rows, IndexRange columns, T* packed) {
  (columns_are_runs(view) ? pack_columns<kPanel, T, Stored> : pack_rows<kPanel, T, Stored>)(view, rows, columns,
                                                                                            packed);
}

template <class T, class Stored>
void pack_a(const MatrixView& a, IndexRange rows, IndexRange depth, void* packed) {
  pack<kBlockDepth, T, Stored>(a, rows, depth, static_cast<T*>(packed));
}

template <class T, class Stored>
void pack_b(const MatrixView& b, IndexRange depth, IndexRange columns, void* packed) {
  T* panels = static_cast<T*>(packed);
  pack<kWidth<T>, T, Stored>(b, depth, columns, panels);
  for (int64_t l = 0; l < depth.size; ++l)  // zeros fill up the last panel
    for (int64_t j = columns.size; j % kWidth<T> != 0; ++j) *packed_at<kWidth<T>>(panels, l, j) = 0;
}

}  // namespace
}  // namespace tmc
