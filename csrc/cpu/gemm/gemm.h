// The matrix product under every convolution, of matrices that are never stored:
//
//   result[i, j] = bias + sum_l a[i, l] * b[l, j]
//
// a, b and result are MatrixViews: affine maps from (row, column) to the elements of a strided image tensor, so
// that "implicit GEMM" is this GEMM and three choices of map (conv2d.cpp). Blocks of a and b are copied into packed
// buffers on the way (zeros where the map leaves the image), and only those are multiplied:
//
//   packed a   [rows][kBlockDepth]             one row is one run of the sum: what a broadcast, or an AMX tile, loads
//   packed b   [panels][kBlockDepth][width]    one panel is `width` columns: what vector registers load
//
// (bfloat16 instructions want other forms: cpu/gemm/bfloat16.h, cpu/gemm/split.h.) The compute type is double for
// float64 and float for the other three. A result element is the sum over depth blocks, in order, of sums over runs of
// l within the block, in order: its bits depend on its own row of a and column of b only, never on the tiling, the
// batch around it or the number of threads.
#pragma once
#include "conv2d.h"
#include "cpu/machine/machine.h"
#include "dtype.h"

namespace tmc {

// One factor of an index. A step along it moves the address by `offset` elements and the position by h rows and w
// columns of the image. The innermost axis may be two merged ones: then h and w move once in `grain` steps.
struct Axis {
  int64_t size = 1, offset = 0, h = 0, w = 0, grain = 1;
};
struct Axes {  // the inner one runs fastest
  Axis outer, middle, inner;
  int64_t size() const { return outer.size * middle.size * inner.size; }
};

// Element (i, j): i and j are split over three axes each; the position starts at (h0, w0) and all six move it. Outside
// [0, h_extent) x [0, w_extent) the matrix reads zero and drops writes.
struct MatrixView {
  void* data;  // the image's element (0, 0), of the operands' dtype; only a result is written
  Axes rows, columns;
  int64_t h0, w0, h_extent, w_extent;
  int64_t h_stride, w_stride;  // elements from one image row, or column, to the next
};

// Merges axes that are contiguous in memory, so that runs are as long as they can be. Changes no element.
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

// The kernels for operands of this dtype on the instruction set in use (cpu/machine/machine.h), and on no matrix unit
// beyond `unit`.
const GemmKernels& gemm_kernels(DType dtype, Precision precision, MatrixUnit unit);

// result = a * b + bias, in parallel over tiles of the result. All gemms must have the same extents.
void gemm(const Gemm* gemms, int64_t count, const GemmKernels& kernels);

// The same without bias, for few results and a very long sum (grad_weight): the sum is cut into chunks that depend
// on the extents only, and their partial results are added in order.
void gemm_long_sum(const Gemm* gemms, int64_t count, const GemmKernels& kernels);

// ---- What is compiled for each instruction set (cpu/gemm/kernels.h) and called by the two drivers above.

inline constexpr int64_t kBlockDepth = 256;  // l of one packed block

struct Block {
  int64_t begin, size;
};

struct GemmKernels {
  const char* name;      // what multiplies, for users
  int64_t compute_size;  // bytes of the compute type
  int64_t packed_size;   // bytes of a row of packed a, and of a column of packed b, with its whole depth block
  int64_t row_quantum;   // rows of packed a that are read together, beyond the last one too
  int64_t panel_width;   // columns of a packed b panel
  // Packs rows x depth of `a`, depth x columns of `b` (depth.size <= kBlockDepth).
  void (*pack_a)(const MatrixView& a, Block rows, Block depth, void* packed);
  void (*pack_b)(const MatrixView& b, Block depth, Block columns, void* packed);
  // tile[i, j] += packed a * packed b; the tile's row stride is columns rounded up to whole panels.
  void (*multiply)(int64_t rows, int64_t columns, int64_t depth, const void* packed_a, const void* packed_b,
                   void* tile);
  // tile = bias (or 0); tile += other; result = tile, rounded to the operands' dtype.
  void (*start)(const Gemm& gemm, Block rows, Block columns, void* tile);
  void (*add)(int64_t count, const void* other, void* tile);
  void (*finish)(const MatrixView& result, Block rows, Block columns, const void* tile);
};

using GemmKernelTable = GemmKernels[4];  // by DType

// Kernels on bfloat16 instructions, for the dtypes and precisions that gain by them; null for the others.
const GemmKernels* gemm_kernels_avx512_bf16(DType dtype, Precision precision);
const GemmKernels* gemm_kernels_amx(DType dtype, Precision precision);

}  // namespace tmc
