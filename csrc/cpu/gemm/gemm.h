// The packed matrix product (GEMM) of matrices that are never stored:
//
//   result[i, j] = bias + sum_l a[i, l] * b[l, j]
//
// In: `a` and `b` as MatrixViews, maps from (row, column) to the elements of an image in memory; an optional bias. Out:
// the result, written through a MatrixView of its own. A convolution is three choices of views, "implicit GEMM"
// (cpu/conv2d/matrix_product.cpp); this room knows no convolutions. gemm.cpp cuts the result into tiles, one task each;
// pack.h copies blocks of `a` and `b` into packed form, micro_kernel.h multiplies these. Bound: compute.
//
//   packed a   [rows][kBlockDepth]             a row is a run of the sum: what a broadcast, or an AMX tile, loads
//   packed b   [panels][kBlockDepth][width]    a panel is `width` columns: what vector registers load
//
// bfloat16 instructions want other packed forms (bfloat16.h, split.h). Sums are double for float64 and float for the
// other dtypes. A result is the sum over depth blocks, in order, of sums over runs of l, in order. Its bits depend on
// its own row of `a` and column of `b` only: not on tiles, threads, or the rest of the batch.
#pragma once
#include "common.h"
#include "cpu/machine/machine.h"
#include "dtype.h"
#include "precision.h"

namespace tmc {

// One factor of an index. A step of it moves the address by `offset` elements, and the position in the image by h rows
// and w columns. An innermost factor may be two merged ones: then h and w move once in `grain` steps.
struct IndexFactor {
  int64_t size = 1, offset = 0, h = 0, w = 0, grain = 1;
};
// An index in mixed radix, (outer * middle.size + middle) * inner.size + inner.
struct FactoredIndex {
  IndexFactor outer, middle, inner;
  int64_t size() const { return outer.size * middle.size * inner.size; }
};

// A matrix in an image: element (i, j) is at the position (h0, w0), moved by the factors of i and j. Outside
// [0, h_extent) x [0, w_extent) the matrix reads zero and drops writes.
struct MatrixView {
  void* data;  // the image's element (0, 0), of the operands' dtype; only a result is written
  FactoredIndex rows, columns;
  int64_t h0, w0, h_extent, w_extent;
  int64_t h_stride, w_stride;  // elements from one image row, or column, to the next
};

static inline MatrixView transposed(MatrixView view) {
  const FactoredIndex rows = view.rows;
  view.rows = view.columns, view.columns = rows;
  return view;
}

// Merges factors that are contiguous in memory, so that runs are as long as they can be. Changes no element.
void simplify(MatrixView& view);

enum class BiasAlong { none, rows, columns };

struct Gemm {
  MatrixView a, b, result;
  const void* bias = nullptr;  // operands' dtype
  BiasAlong bias_along = BiasAlong::none;
  int64_t tile_rows, tile_columns;      // the largest tile of the result that one task computes
  bool keep_a = false, keep_b = false;  // pack this operand once for all tiles: worth its memory for weights
};

struct GemmKernels;

// The kernels for operands of this dtype on the instruction set in use (cpu/machine/machine.h). They use no matrix unit
// beyond `unit`.
const GemmKernels& gemm_kernels(DType dtype, Precision precision, MatrixUnit unit);

// result = a * b + bias, in parallel over tiles of the result. All gemms must have the same extents.
void gemm(const Gemm* gemms, int64_t count, const GemmKernels& kernels);

// The same without bias, for few results and very long sums. The sum is cut into chunks that depend on the extents
// only. The partial results of the chunks are added in order.
void gemm_long_sum(const Gemm* gemms, int64_t count, const GemmKernels& kernels);

// ---- What is compiled for each instruction set (cpu/gemm/kernels.h) and called by the two drivers above.

inline constexpr int64_t kBlockDepth = 256;  // l of one packed block

struct IndexRange {  // [begin, begin + size) of an index
  int64_t begin, size;
};

struct GemmKernels {
  const char* name;      // what multiplies, for users
  int64_t compute_size;  // bytes of the compute type
  int64_t packed_size;   // bytes of a row of packed a, and of a column of packed b, with its whole depth block
  int64_t row_quantum;   // rows of packed a that are read together, beyond the last one too
  int64_t panel_width;   // columns of a packed b panel
  // Packs rows x depth of `a`, depth x columns of `b` (depth.size <= kBlockDepth).
  void (*pack_a)(const MatrixView& a, IndexRange rows, IndexRange depth, void* packed);
  void (*pack_b)(const MatrixView& b, IndexRange depth, IndexRange columns, void* packed);
  // tile[i, j] += packed a * packed b; the tile's row stride is columns rounded up to whole panels.
  void (*multiply)(int64_t rows, int64_t columns, int64_t depth, const void* packed_a, const void* packed_b,
                   void* tile);
  // tile = bias (or 0); tile += other; result = tile, rounded to the operands' dtype.
  void (*start)(const Gemm& gemm, IndexRange rows, IndexRange columns, void* tile);
  void (*add)(int64_t count, const void* other, void* tile);
  void (*finish)(const MatrixView& result, IndexRange rows, IndexRange columns, const void* tile);
};

using GemmKernelTable = GemmKernels[4];  // by DType

// Kernels on bfloat16 instructions, for the dtypes and precisions that gain by them; null for the others.
const GemmKernels* gemm_kernels_avx512_bf16(DType dtype, Precision precision);
const GemmKernels* gemm_kernels_amx(DType dtype, Precision precision);

}  // namespace tmc
