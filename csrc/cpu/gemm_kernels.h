// The kernels of gemm.h, compiled once for each instruction set by gemm_<isa>.cpp; everything has internal linkage.
#pragma once
#include "gemm.h"
#include "half.h"

namespace tmc {
namespace {

// ---- Micro-kernel ---------------------------------------------------------------------------------------------
//
//   tile[i, j] += sum_l a[i, l] * b[l, j]        kRows x kWidth results, all in registers; depth up to kBlockDepth
//
// a: rows of kBlockDepth elements, one broadcast each; b: one packed panel, kVectors loads a step of l.
// Registers: kRows * kVectors sums + kVectors of b + 1 broadcast: 31 of AVX-512's 32, 15 of AVX2's and SSE's 16.
// Cache (float, AVX-512): the panel is 32 KiB and stays in L1 for all rows of a block, which come from L2.
// Bound: compute. A step is 28 multiply-adds to 16 loads (AVX-512), 12 to 8 (AVX2).

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

template <class T>
struct Vector {
  typedef T aligned __attribute__((vector_size(kVectorBytes)));
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <class T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));
template <class T>
constexpr int64_t kWidth = kVectors * kLanes<T>;

template <int kRows, class T>
void micro_kernel(int64_t depth, const T* a, const T* b, T* tile, int64_t tile_stride) {
  using Lanes = typename Vector<T>::type;
  typename Vector<T>::aligned sum[kRows][kVectors] = {};
  for (int64_t l = 0; l < depth; ++l) {
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
      micro_kernel_of<kMaxRows>(rows - i < strip ? rows - i : strip, depth,
                                static_cast<const T*>(packed_a) + i * kBlockDepth,
                                static_cast<const T*>(packed_b) + j * kBlockDepth,
                                static_cast<T*>(tile) + i * stride + j, stride);
}

// ---- Walking a MatrixView -------------------------------------------------------------------------------------

// What the indices on one side (rows or columns) add to address and position.
struct Place {
  int64_t offset, h, w;
};

// Walks along three axes from any index on.
struct Cursor {
  const Axes& axes;
  int64_t outer, middle, inner;

  Cursor(const Axes& axes_, int64_t index) : axes(axes_) {
    inner = index % axes.inner.size, index /= axes.inner.size;
    middle = index % axes.middle.size, outer = index / axes.middle.size;
  }
  // Of the current index, leaving out the innermost axis.
  Place outer_place() const {
    return {outer * axes.outer.offset + middle * axes.middle.offset, outer * axes.outer.h + middle * axes.middle.h,
            outer * axes.outer.w + middle * axes.middle.w};
  }
  Place place() const {  // of rows, whose axes are never merged
    const Place place = outer_place();
    return {place.offset + inner * axes.inner.offset, place.h + inner * axes.inner.h, place.w + inner * axes.inner.w};
  }
  void advance(int64_t count) {  // not past the end of the innermost axis
    inner += count;
    if (inner < axes.inner.size) return;
    inner = 0;
    if (++middle < axes.middle.size) return;
    middle = 0, ++outer;
  }
};

// A stretch of columns along the innermost axis, [inner, inner + count) of it.
struct Run {
  Place place;  // of the outer axes
  int64_t column, inner, count;
};

// The steps t of an axis for which 0 <= start + t * step < extent.
Block steps_inside(int64_t start, int64_t step, int64_t extent) {
  if (step == 0) return {0, start >= 0 && start < extent ? INT64_MAX : 0};
  if (step < 0) start = extent - 1 - start, step = -step;  // mirror
  const int64_t begin = start >= 0 ? 0 : (step - 1 - start) / step;
  const int64_t end = start >= extent ? 0 : (extent - start + step - 1) / step;
  return {begin, end > begin ? end - begin : 0};
}

constexpr int64_t kMaxRuns = 512;

// Elements between neighbours of one run.
int64_t run_stride(const MatrixView& view) {
  const Axis& axis = view.columns.inner;
  return axis.grain > 1 ? axis.offset : axis.offset + axis.h * view.h_stride + axis.w * view.w_stride;
}

// Calls visit(row, column, count, offset, inside) for every stretch of every row of the block whose elements follow
// each other at the distance run_stride(view), `offset` being the first one's; rows and columns are counted from the
// block's corner. `inside` is false for a stretch outside the image.
template <class Visit>
void walk(const MatrixView& view, Block rows, Block columns, const Visit& visit) {
  const Axis& axis = view.columns.inner;
  const int64_t stride = run_stride(view);
  // The stretches are the same in every row: list them once (for as many columns as the list holds).
  Run runs[kMaxRuns];
  Cursor column(view.columns, columns.begin);
  for (int64_t done = 0; done < columns.size;) {
    int64_t count = 0;
    for (; count < kMaxRuns && done < columns.size; ++count) {
      const int64_t left = axis.size - column.inner, wanted = columns.size - done;
      runs[count] = {column.outer_place(), done, column.inner, left < wanted ? left : wanted};
      column.advance(runs[count].count);
      done += runs[count].count;
    }
    Cursor row(view.rows, rows.begin);
    for (int64_t i = 0; i < rows.size; ++i, row.advance(1)) {
      const Place start = row.place();
      int64_t clipped_h = INT64_MIN, clipped_w = INT64_MIN;
      Block valid = {0, 0};
      for (const Run* run = runs; run < runs + count; ++run) {
        const int64_t h = view.h0 + start.h + run->place.h, w = view.w0 + start.w + run->place.w;
        if (h != clipped_h || w != clipped_w) {  // almost always the same as in the run before
          const Block inside_h = steps_inside(h, axis.h, view.h_extent), inside_w = steps_inside(w, axis.w, view.w_extent);
          // In a conv2d map the innermost axis moves along h or w, never both: one of the two is all or nothing.
          valid = axis.h != 0 ? inside_h : inside_w;
          if ((axis.h != 0 ? inside_w : inside_h).size == 0) valid.size = 0;
          clipped_h = h, clipped_w = w;
        }
        const int64_t end = run->inner + run->count;
        int64_t low = run->inner, high = run->inner;
        if (valid.size > 0) {
          const int64_t valid_begin = valid.begin * axis.grain;
          const int64_t valid_end = valid.size == INT64_MAX ? end : valid_begin + valid.size * axis.grain;
          low = valid_begin < low ? low : valid_begin < end ? valid_begin : end;
          high = valid_end > end ? end : valid_end < low ? low : valid_end;
        }
        const int64_t offset = start.offset + run->place.offset + h * view.h_stride + w * view.w_stride + low * stride;
        if (low > run->inner) visit(i, run->column, low - run->inner, 0, false);
        if (high > low) visit(i, run->column + low - run->inner, high - low, offset, true);
        if (end > high) visit(i, run->column + high - run->inner, end - high, 0, false);
      }
    }
  }
}

// ---- Packing, and the tile's beginning and end ----------------------------------------------------------------

// Copies a block, row after row `stride` apart. Bound: memory; every run is one loop the compiler vectorises.
template <class T, class Stored>
void pack(const MatrixView& view, Block rows, Block columns, T* packed, int64_t stride) {
  const Stored* data = static_cast<const Stored*>(view.data);
  const int64_t distance = run_stride(view);
  walk(view, rows, columns, [=](int64_t row, int64_t column, int64_t count, int64_t offset, bool inside) {
    T* to = packed + row * stride + column;
    const Stored* from = data + offset;
    if (!inside)
      for (int64_t i = 0; i < count; ++i) to[i] = 0;
    else if (distance == 1)
      for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
    else
      for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i * distance]);
  });
}

template <class T, class Stored>
void pack_a(const MatrixView& a, Block rows, Block depth, void* packed) {
  pack<T, Stored>(a, rows, depth, static_cast<T*>(packed), kBlockDepth);
}

template <class T, class Stored>
void pack_b(const MatrixView& b, Block depth, Block columns, void* packed) {
  for (int64_t j = 0; j < columns.size; j += kWidth<T>) {
    T* panel = static_cast<T*>(packed) + j * kBlockDepth;
    const int64_t width = columns.size - j < kWidth<T> ? columns.size - j : kWidth<T>;
    pack<T, Stored>(b, depth, {columns.begin + j, width}, panel, kWidth<T>);
    for (int64_t l = 0; width < kWidth<T> && l < depth.size; ++l)  // the columns that fill up the last panel
      for (int64_t i = width; i < kWidth<T>; ++i) panel[l * kWidth<T> + i] = 0;
  }
}

template <class T, class Stored>
void start(const Gemm& gemm, Block rows, Block columns, void* tile) {
  const Stored* bias = static_cast<const Stored*>(gemm.bias);
  const int64_t stride = tile_stride<T>(columns.size);
  for (int64_t i = 0; i < rows.size; ++i) {
    T* row = static_cast<T*>(tile) + i * stride;
    const T value = gemm.bias_along == BiasAlong::rows ? widen(bias[rows.begin + i]) : T(0);
    for (int64_t j = 0; j < stride; ++j) row[j] = value;
    if (gemm.bias_along == BiasAlong::columns)
      for (int64_t j = 0; j < columns.size; ++j) row[j] = widen(bias[columns.begin + j]);
  }
}

template <class T>
void add(int64_t count, const void* other, void* tile) {
  for (int64_t i = 0; i < count; ++i) static_cast<T*>(tile)[i] += static_cast<const T*>(other)[i];
}

template <class T, class Stored>
void finish(const MatrixView& result, Block rows, Block columns, const void* tile) {
  Stored* data = static_cast<Stored*>(result.data);
  const int64_t distance = run_stride(result), stride = tile_stride<T>(columns.size);
  walk(result, rows, columns, [=](int64_t row, int64_t column, int64_t count, int64_t offset, bool inside) {
    if (!inside) return;
    const T* from = static_cast<const T*>(tile) + row * stride + column;
    Stored* to = data + offset;
    if (distance == 1)
      for (int64_t i = 0; i < count; ++i) narrow(from[i], to[i]);
    else
      for (int64_t i = 0; i < count; ++i) narrow(from[i], to[i * distance]);
  });
}

template <class Stored, class T = accumulate_t<Stored>>
constexpr GemmKernels kernels_of() {
  return {sizeof(T),       kWidth<T>,        pack_a<T, Stored>, pack_b<T, Stored>,
          multiply<T>,     start<T, Stored>, add<T>,            finish<T, Stored>};
}

}  // namespace
}  // namespace tmc

#define TMC_DEFINE_GEMM_KERNELS(isa)                                                                            \
  const tmc::GemmKernelTable tmc::gemm_kernels_##isa = {tmc::kernels_of<double>(), tmc::kernels_of<float>(), \
                                                        tmc::kernels_of<tmc::BFloat16>(), tmc::kernels_of<tmc::Float16>()};
