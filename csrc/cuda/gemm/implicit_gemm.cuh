// Room gemm: convolution and its gradients as one matrix product (eq. 17). Its operands are never laid out as matrices:
//
//   result[row, column] = sum over depth of image(row, depth) * matrix(depth, column)        for each group
//
//                        rows       columns   depth      image         matrix
//   conv2d               n, p, q    k         c, r, s    input         weight          eq. 1   (fprop)
//   conv2d_grad_input    n, h, w    c         k, r, s    grad_output   weight          eq. 5   (dgrad)
//   conv2d_grad_weight   c, r, s    k         n, p, q    input         grad_output     eq. 3   (wgrad)
//
// The room has three main loops: this one for every dtype, layout and shape, on ordinary arithmetic; mma_gemm.cuh on
// tensor cores since sm_80; wgmma_gemm.cuh on those of sm_90a. What goes in is a problem: a type that says what a row,
// a column and a depth are (cuda/conv2d). What comes out are sums, which the problem stores. What bounds them:
// arithmetic.
//
// Here, `image` is read through the sliding window: its address depends on row and depth together, and may lie in the
// padding. `matrix` is a plain product of strides. Rows, columns and depths are decoded once, into tables in shared
// memory, so that the loads do no division. A block owns kTileRows x kTileColumns results, and a thread kThreadRows x
// kThreadColumns of them in registers. Tiles of both operands pass through shared memory, kTileDepth at a time. Sums
// are in accumulate_t.
#pragma once
#include "cuda/machine/launch.h"
#include "cuda/machine/layout.h"

namespace tmc {

// Chosen on paper, for two blocks on a multiprocessor: 32 sums a thread, 19 KB of shared memory (float). Not yet tuned
// on a GPU.
constexpr int kTileRows = 128, kTileColumns = 64, kTileDepth = 16;
constexpr int kThreadRows = 8, kThreadColumns = 4;
constexpr int kGemmThreads = (kTileRows / kThreadRows) * (kTileColumns / kThreadColumns);
constexpr int kPad = 4;  // spreads a column of a tile over the banks, and keeps its rows aligned to 16 bytes

// What each coordinate adds to the addresses of the operands and of the result; y and x are its place in the window
// geometry (a pixel or a tap).
struct Row {
  int64_t image, result, y, x;
};
struct Depth {
  int64_t image, matrix, y, x;
};
struct Column {
  int64_t matrix, result, channel;
};

// One of the products, as a kernel argument. A Problem adds to it:
//   scalar_t, accumulate type aside, the element type
//   row(group, i), column(group, j), depth(group, d)    coordinates of an index
//   image_offset(row, depth)                            where the image is read, or -1 in the padding
//   store(row, column, part, sum)
template <class T>
struct GemmProblem {
  using scalar_t = T;
  const T* image;
  const T* matrix;
  bool image_depth_is_inner, matrix_depth_is_inner;  // do neighbours in depth stand side by side in memory?
  int64_t groups, rows, columns, depth_extent;       // of one group
  int64_t parts, part_depth;                         // the depth is cut into `parts` pieces of `part_depth`
};

template <class T>
HOST_DEVICE int64_t row_tiles(const GemmProblem<T>& problem) {
  return ceil_div(problem.rows, kTileRows);
}
template <class T>
HOST_DEVICE int64_t column_tiles(const GemmProblem<T>& problem) {
  return ceil_div(problem.columns, kTileColumns);
}

template <class A>
struct GemmTiles {
  Row rows[kTileRows];
  Column columns[kTileColumns];
  Depth depths[kTileDepth];
  A image[kTileDepth][kTileRows + kPad];
  A matrix[kTileDepth][kTileColumns + kPad];
};

// Which element of a tile of `extent` x kTileDepth a thread loads: neighbouring threads take neighbours in memory.
struct TileElement {
  int at, depth;
};
__device__ inline TileElement tile_element(int i, int extent, bool depth_is_inner) {
  return depth_is_inner ? TileElement{i / kTileDepth, i % kTileDepth} : TileElement{i % extent, i / extent};
}

template <class Problem>
__global__ void __launch_bounds__(kGemmThreads) implicit_gemm_kernel(const Problem problem) {
  using scalar_t = typename Problem::scalar_t;
  using acc_t = accumulate_t<scalar_t>;
  auto& tiles = shared_memory<GemmTiles<acc_t>>();
  const int thread = threadIdx.x;

  // Block -> (part, group, column tile, row tile), the row tile fastest: blocks that run together share `matrix`.
  int64_t block = block_index();
  const int64_t first_row = block % row_tiles(problem) * kTileRows;
  block /= row_tiles(problem);
  const int64_t first_column = block % column_tiles(problem) * kTileColumns;
  block /= column_tiles(problem);
  const int64_t group = block % problem.groups, part = block / problem.groups;
  if (part >= problem.parts) return;
  const int64_t rows_left = problem.rows - first_row, columns_left = problem.columns - first_column;
  const int64_t part_begin = part * problem.part_depth;
  const int64_t part_end =
      part_begin + problem.part_depth < problem.depth_extent ? part_begin + problem.part_depth : problem.depth_extent;

  for (int i = thread; i < kTileRows && i < rows_left; i += kGemmThreads)
    tiles.rows[i] = problem.row(group, first_row + i);
  for (int j = thread; j < kTileColumns && j < columns_left; j += kGemmThreads)
    tiles.columns[j] = problem.column(group, first_column + j);

  const int row = thread / (kTileColumns / kThreadColumns) * kThreadRows;
  const int column = thread % (kTileColumns / kThreadColumns) * kThreadColumns;
  acc_t sums[kThreadRows][kThreadColumns] = {};

  for (int64_t begin = part_begin; begin < part_end; begin += kTileDepth) {
    const int64_t depth_left = part_end - begin;
    if (thread < kTileDepth && thread < depth_left) tiles.depths[thread] = problem.depth(group, begin + thread);
    __syncthreads();  // the tables are written, and nobody still reads the previous tiles

#pragma unroll
    for (int i = thread; i < kTileRows * kTileDepth; i += kGemmThreads) {
      const TileElement e = tile_element(i, kTileRows, problem.image_depth_is_inner);
      acc_t value = 0;
      if (e.at < rows_left && e.depth < depth_left) {
        const int64_t offset = problem.image_offset(tiles.rows[e.at], tiles.depths[e.depth]);
        if (offset >= 0) value = static_cast<acc_t>(problem.image[offset]);
      }
      tiles.image[e.depth][e.at] = value;
    }
#pragma unroll
    for (int i = thread; i < kTileColumns * kTileDepth; i += kGemmThreads) {
      const TileElement e = tile_element(i, kTileColumns, problem.matrix_depth_is_inner);
      acc_t value = 0;
      if (e.at < columns_left && e.depth < depth_left)
        value = static_cast<acc_t>(problem.matrix[tiles.columns[e.at].matrix + tiles.depths[e.depth].matrix]);
      tiles.matrix[e.depth][e.at] = value;
    }
    __syncthreads();  // the tiles are complete

#pragma unroll
    for (int d = 0; d < kTileDepth; ++d)
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
        for (int j = 0; j < kThreadColumns; ++j) sums[i][j] += tiles.image[d][row + i] * tiles.matrix[d][column + j];
  }
  __syncthreads();  // the tables of a block whose depth is empty

#pragma unroll
  for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < kThreadColumns; ++j)
      if (row + i < rows_left && column + j < columns_left)
        problem.store(tiles.rows[row + i], tiles.columns[column + j], part, sums[i][j]);
}

template <class Problem>
void launch_implicit_gemm(const Problem& problem, void* stream) {
  const int64_t blocks = row_tiles(problem) * column_tiles(problem) * problem.groups * problem.parts;
  launch(implicit_gemm_kernel<Problem>, grid_of(blocks), kGemmThreads, stream, problem);
}

}  // namespace tmc
