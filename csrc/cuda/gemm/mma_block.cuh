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
using MmaLong = MmaBlock<2, 4, 64, 48, 1>;    // 128 x 192: for 192 columns, where two wide ones waste 64
using MmaTall = MmaBlock<4, 1, 64, 64, 2>;    // 256 x  64: for 64 columns
using MmaSmall = MmaBlock<4, 1, 32, 64, 3>;   // 128 x  64: for short products
using MmaStrict = MmaBlock<4, 1, 32, 64, 2>;  // 128 x  64: for 3xTF32, which needs twice the registers

template <class Block>
int64_t tiles_of(const MmaExtents& extents) {
  return ceil_div(extents.rows, Block::kRows) * ceil_div(extents.columns, Block::kColumns) * extents.groups;
}

// The number of columns decides. Layers of AlexNet and ResNet have 64, 192, or a multiple of 128.
inline bool is_64_columns(const MmaExtents& extents) {
  return extents.columns <= 64;
}
inline bool is_192_columns(const MmaExtents& extents) {
  return extents.columns > 128 && extents.columns <= 192;
}

// Calls body(Block{}) for a product over windows. Three tall blocks for 192 columns, not a long one: by calculation
// that costs a tenth, and saves a kernel. A small block where others would leave multiprocessors without a tile.
template <class Body>
void dispatch_window_block(const MmaExtents& extents, Body body) {
  const bool tall = is_64_columns(extents) || is_192_columns(extents);
  const int64_t tiles = tall ? tiles_of<MmaTall>(extents) : tiles_of<MmaWide>(extents);
  if (tiles < kMultiprocessors) return body(MmaSmall{});
  if (tall) return body(MmaTall{});
  body(MmaWide{});
}

// The same for a gradient by the weight. Too few tiles are no matter here: the depth is cut until there are enough. It
// has no tall block, whose 128 threads are too few to copy lines of 256 rows (DepthOuterTile).
template <class Body>
void dispatch_grad_weight_block(const MmaExtents& extents, Body body) {
  if (is_64_columns(extents) || extents.rows <= 128) return body(MmaSmall{});
  if (is_192_columns(extents)) return body(MmaLong{});
  body(MmaWide{});
}

}  // namespace tmc
