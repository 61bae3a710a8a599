// The sizes of a block of cuda/gemm/mma_gemm.cuh, and which one a product takes. The bits of a result do not depend on
// it. The thresholds were chosen on paper: not measured on a GPU.
#pragma once
#include "cuda/gemm/mma_tile.cuh"

namespace tmc {

// The extents of a product: result[row, column] = sum over depth of image(row, depth) * matrix(depth, column).
struct MmaExtents {
  int groups, rows, columns, depth;  // of one group
  int parts, part_depth;             // the depth is cut into `parts` pieces of part_depth, a multiple of a tile's
};

// kRowWarps x kColumnWarps warps of kWarpRows x kWarpColumns results each. A thread holds 1/32 of a warp's in
// registers, and a warp reads (kWarpRows + kWarpColumns) * kStepBytes from shared memory for each step: 64 x 64 asks
// least of it and leaves registers enough.
template <int kRowWarps_, int kColumnWarps_, int kWarpRows_, int kWarpColumns_, int kBlocksPerMultiprocessor_>
struct MmaBlock {
  static constexpr int kRowWarps = kRowWarps_, kColumnWarps = kColumnWarps_;
  static constexpr int kWarpRows = kWarpRows_, kWarpColumns = kWarpColumns_;
  static constexpr int kRows = kRowWarps * kWarpRows, kColumns = kColumnWarps * kWarpColumns;
  static constexpr int kThreads = kRowWarps * kColumnWarps * kWarpThreads;
  static constexpr int kBlocksPerMultiprocessor = kBlocksPerMultiprocessor_;
};
using MmaWide = MmaBlock<4, 2, 64, 64, 1>;    // 256 x 128: the fewest reads of shared memory for a multiplication
using MmaTall = MmaBlock<4, 1, 64, 64, 2>;    // 256 x  64: for few columns
using MmaSmall = MmaBlock<4, 1, 32, 64, 3>;   // 128 x  64: for short products, and where few columns forbid a tall one
using MmaStrict = MmaBlock<4, 1, 32, 64, 2>;  // 128 x  64: for 3xTF32, which needs twice the registers

template <class Block>
int64_t tiles_of(const MmaExtents& extents) {
  return ceil_div(extents.rows, Block::kRows) * ceil_div(extents.columns, Block::kColumns) * extents.groups;
}

// Calls body(Block{}) for a product over windows. A tall block where half of the last wide one would be empty, as with
// 64 or 192 columns. A small one where the others would leave multiprocessors without a tile.
template <class Body>
void dispatch_window_block(const MmaExtents& extents, Body body) {
  const bool few_columns = extents.columns <= 64 || (extents.columns > 128 && extents.columns <= 192);
  const int64_t tiles = few_columns ? tiles_of<MmaTall>(extents) : tiles_of<MmaWide>(extents);
  if (tiles < kMultiprocessors) return body(MmaSmall{});
  if (few_columns) return body(MmaTall{});
  body(MmaWide{});
}

// The same for a gradient by the weight. Too few tiles are no matter here: the depth is cut until there are enough. A
// tall block's 64 columns are too few for its 128 threads to copy lines of 256 rows (DepthOuterTile).
template <class Body>
void dispatch_grad_weight_block(const MmaExtents& extents, Body body) {
  const bool half_empty = extents.columns <= 64 || extents.rows <= 128;
  if (half_empty) return body(MmaSmall{});
  body(MmaWide{});
}

}  // namespace tmc
