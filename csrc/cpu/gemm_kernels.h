// The kernels of gemm.h, compiled once for each instruction set by gemm_<isa>.cpp; everything has internal linkage.
#pragma once
#include "gemm.h"
#include "half.h"

namespace tmc {
namespace {

int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t clamp(int64_t value, int64_t low, int64_t high) { return min(max(value, low), high); }

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

template <int kBytes>
struct IndexOf {
  using type = int32_t;
};
template <>
struct IndexOf<8> {
  using type = int64_t;
};

template <class T>
struct Vector {
  typedef T aligned __attribute__((vector_size(kVectorBytes)));
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
  typedef typename IndexOf<sizeof(T)>::type index __attribute__((vector_size(kVectorBytes)));
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
      micro_kernel_of<kMaxRows>(min(strip, rows - i), depth,
                                static_cast<const T*>(packed_a) + i * kBlockDepth,
                                static_cast<const T*>(packed_b) + j * kBlockDepth,
                                static_cast<T*>(tile) + i * stride + j, stride);
}

// ---- Walking a MatrixView -------------------------------------------------------------------------------------

// Positions far outside the image may wrap here; their elements are never touched.
int64_t stretch(int64_t steps, int64_t stride) {
  return static_cast<int64_t>(static_cast<uint64_t>(steps) * static_cast<uint64_t>(stride));
}

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
  Place place() const {  // of the current index without its innermost part
    return {outer * axes.outer.offset + middle * axes.middle.offset, outer * axes.outer.h + middle * axes.middle.h,
            outer * axes.outer.w + middle * axes.middle.w};
  }
  void advance(int64_t count) {  // not past the end of the innermost axis
    inner += count;
    if (inner < axes.inner.size) return;
    inner = 0;
    if (++middle < axes.middle.size) return;
    middle = 0, ++outer;
  }
};

// The steps t of an axis for which 0 <= start + t * step < extent.
Block steps_inside(int64_t start, int64_t step, int64_t extent) {
  if (step == 0) return {0, start >= 0 && start < extent ? INT64_MAX : 0};
  if (step < 0) start = extent - 1 - start, step = -step;  // mirror
  const int64_t begin = start >= 0 ? 0 : (step - 1 - start) / step;
  const int64_t end = start >= extent ? 0 : (extent - start + step - 1) / step;
  return {begin, end > begin ? end - begin : 0};
}

// Elements between neighbours along the innermost axis.
int64_t run_stride(const MatrixView& view, const Axis& inner) {
  return inner.grain > 1 ? inner.offset : inner.offset + inner.h * view.h_stride + inner.w * view.w_stride;
}

// A stretch of columns along the innermost axis, [inner, inner + count) of it.
struct Run {
  int64_t offset, h, w;  // h and w: of the innermost axis' beginning
  int64_t column, inner, count;
};
constexpr int64_t kMaxRuns = 512;

// Calls visit(row, column, count, offset, inside) for every stretch of every row of the block whose elements follow
// each other at the distance run_stride(view), `offset` being the first one's; rows and columns are counted from the
// block's corner. `inside` is false for a stretch outside the image.
template <class Visit>
void walk(const MatrixView& view, Block rows, Block columns, const Visit& visit) {
  const Axis& axis = view.columns.inner;
  const int64_t stride = run_stride(view, axis);
  Cursor column(view.columns, columns.begin);
  for (int64_t done = 0; done < columns.size;) {
    // The stretches are the same in every row: list them once (for as many columns as the list holds).
    Run runs[kMaxRuns];
    int64_t count = 0, low_h = INT64_MAX, high_h = INT64_MIN, low_w = INT64_MAX, high_w = INT64_MIN;
    for (; count < kMaxRuns && done < columns.size; ++count) {
      const Place place = column.place();
      const int64_t left = axis.size - column.inner, wanted = columns.size - done;
      const int64_t offset = place.offset + stretch(place.h, view.h_stride) + stretch(place.w, view.w_stride) + column.inner * stride;
      runs[count] = {offset, place.h, place.w, done, column.inner, left < wanted ? left : wanted};
      const int64_t moved_h = place.h + (axis.size - 1) / axis.grain * axis.h, moved_w = place.w + (axis.size - 1) / axis.grain * axis.w;
      low_h = min(low_h, min(place.h, moved_h)), high_h = max(high_h, max(place.h, moved_h));
      low_w = min(low_w, min(place.w, moved_w)), high_w = max(high_w, max(place.w, moved_w));
      column.advance(runs[count].count);
      done += runs[count].count;
    }
    Cursor row(view.rows, rows.begin);
    for (int64_t i = 0; i < rows.size; ++i, row.advance(1)) {
      const Place place = row.place();
      const int64_t h0 = view.h0 + place.h + row.inner * view.rows.inner.h, w0 = view.w0 + place.w + row.inner * view.rows.inner.w;
      const int64_t offset = place.offset + row.inner * view.rows.inner.offset + stretch(h0, view.h_stride) + stretch(w0, view.w_stride);
      if (h0 + low_h >= 0 && h0 + high_h < view.h_extent && w0 + low_w >= 0 && w0 + high_w < view.w_extent) {
        for (const Run* run = runs; run < runs + count; ++run) visit(i, run->column, run->count, offset + run->offset, true);
        continue;
      }
      int64_t clipped_h = INT64_MIN, clipped_w = INT64_MIN;
      Block valid = {0, 0};
      for (const Run* run = runs; run < runs + count; ++run) {
        // In a conv2d map the innermost axis moves along h or w, never both: the other one is all or nothing. The
        // clipping of the moving one is almost always the same as in the run before.
        const int64_t h = h0 + run->h, w = w0 + run->w;
        if (axis.h != 0 ? h != clipped_h : w != clipped_w)
          valid = axis.h != 0 ? steps_inside(h, axis.h, view.h_extent) : steps_inside(w, axis.w, view.w_extent);
        clipped_h = h, clipped_w = w;
        const bool all = axis.h != 0 ? w >= 0 && w < view.w_extent : h >= 0 && h < view.h_extent;
        const int64_t begin = run->inner, end = begin + run->count;
        const int64_t low = all ? clamp(valid.begin * axis.grain, begin, end) : begin;
        const int64_t high = !all ? begin : valid.size == INT64_MAX ? end : clamp((valid.begin + valid.size) * axis.grain, low, end);
        if (low > begin) visit(i, run->column, low - begin, 0, false);
        if (high > low) visit(i, run->column + low - begin, high - low, offset + run->offset + (low - begin) * stride, true);
        if (end > high) visit(i, run->column + high - begin, end - high, 0, false);
      }
    }
  }
}

// ---- Packing, and the tile's beginning and end ----------------------------------------------------------------

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

// to[i] = from[i] for i < count, in vectors of kCount, the last of which may overlap the one before; shorter runs in
// shorter vectors. Runs of a convolution are often shorter than a vector or a little longer: no scalar remainder.
template <int64_t kCount, class To, class From>
void copy_run(const From* from, int64_t count, To* to) {
  if (count < kCount) {
    if constexpr (kCount > 1) copy_run<kCount / 2>(from, count, to);
    return;
  }
  for (int64_t i = 0; i + kCount <= count; i += kCount) convert_vector<kCount>(from + i, to + i);
  if (count % kCount != 0) convert_vector<kCount>(from + count - kCount, to + count - kCount);
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
        for (int64_t i = 0; i < part; ++i) to[i] = 0;
      else if (distance == 1)
        copy_run<kLanes<T>>(from, part, to);
      else
        for (int64_t i = 0; i < part; ++i) convert(from[i * distance], to[i]);
    }
  });
}

// to[j][i] = from[i][j] for kLanes x kLanes elements, in registers: in the stage of distance d, the blocks of d x d
// beside the diagonal change places.
template <class T>
void transpose_square(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  using Lanes = typename Vector<T>::type;
  typename Vector<T>::aligned rows[kLanes<T>];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<T>; ++i) rows[i] = *reinterpret_cast<const Lanes*>(from + i * from_stride);
#pragma GCC unroll 4
  for (int64_t d = 1; d < kLanes<T>; d *= 2) {
    typename Vector<T>::index low, high;
    for (int64_t e = 0; e < kLanes<T>; ++e) {
      low[e] = e & d ? kLanes<T> + e - d : e;
      high[e] = e & d ? kLanes<T> + e : e + d;
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes<T>; ++i)
      if ((i & d) == 0) {
        const auto a = rows[i], b = rows[i + d];
        rows[i] = __builtin_shuffle(a, b, low), rows[i + d] = __builtin_shuffle(a, b, high);
      }
  }
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
        for (int64_t column = 0; column < width; ++column) to[row * kPanel + column] = stage[column * kBlockDepth + row];
    }
}

template <int64_t kPanel, class T, class Stored>
void pack(const MatrixView& view, Block rows, Block columns, T* packed) {
  const bool turn = run_stride(view, view.columns.inner) != 1 && run_stride(view, view.rows.inner) == 1;
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

template <class T, class Stored>
void start(const Gemm& gemm, Block rows, Block columns, void* tile) {
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
void finish(const MatrixView& result, Block rows, Block columns, const void* tile) {
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
  return {sizeof(T),       kWidth<T>,        pack_a<T, Stored>, pack_b<T, Stored>,
          multiply<T>,     start<T, Stored>, add<T>,            finish<T, Stored>};
}

}  // namespace
}  // namespace tmc

#define TMC_DEFINE_GEMM_KERNELS(isa)                                                                            \
  const tmc::GemmKernelTable tmc::gemm_kernels_##isa = {tmc::kernels_of<double>(), tmc::kernels_of<float>(), \
                                                        tmc::kernels_of<tmc::BFloat16>(), tmc::kernels_of<tmc::Float16>()};
