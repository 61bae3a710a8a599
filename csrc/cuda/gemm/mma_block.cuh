// How many results a block of cuda/gemm/mma_gemm.cuh computes, and which size is best for a product: a function of its
// extents alone. The bits of a result do not depend on it.
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
struct BlockShape {
  static constexpr int kRowWarps = kRowWarps_, kColumnWarps = kColumnWarps_;
  static constexpr int kWarpRows = kWarpRows_, kWarpColumns = kWarpColumns_;
  static constexpr int kRows = kRowWarps * kWarpRows, kColumns = kColumnWarps * kWarpColumns;
  static constexpr int kWarps = kRowWarps * kColumnWarps, kThreads = kWarps * kWarpThreads;
  static constexpr int kBlocksPerMultiprocessor = kBlocksPerMultiprocessor_;

  // What a step takes a multiprocessor when blocks keep it busy. Tensor cores: 1126 multiplications a clock, 55 % of
  // an H100's peak, which is what mma.sync is said to reach. Shared memory: 128 bytes a clock, for the warps' reads and
  // the copies that land, those of the image through L1. Calculated, not measured.
  static constexpr int kStepClocks = std::max(
      kRows * kColumns * 16 / 1126, (kWarps * (kWarpRows + kWarpColumns) + 2 * kRows + kColumns) * kStepBytes / 128);
};
using WideBlock = BlockShape<4, 2, 64, 64, 1>;    // 256 x 128, 465 clocks
using LongBlock = BlockShape<2, 4, 64, 48, 1>;    // 128 x 192, 349 clocks: for 192 columns, where wide ones waste 64
using TallBlock = BlockShape<4, 1, 64, 64, 2>;    // 256 x  64, 272 clocks: for 64 columns
using NarrowBlock = BlockShape<4, 1, 32, 64, 3>;  // 128 x  64, 176 clocks: the same where a tall one cannot be copied
// Strict products keep tensor cores busy three times as long as others, so that reads are no bound.
struct StrictBlock : BlockShape<4, 1, 32, 64, 2> {
  static constexpr int kStepClocks = 3 * kRows * kColumns * 16 / 1126;
};

template <class Block>
int64_t tiles_of(const MmaExtents& extents) {
  return ceil_div(extents.rows, Block::kRows) * ceil_div(extents.columns, Block::kColumns) * extents.groups;
}

// What a product takes in blocks of this shape: the multiprocessor with most tiles ends last.
template <class Block>
int64_t clocks_of(const MmaExtents& extents) {
  return ceil_div(tiles_of<Block>(extents) * extents.parts, kMultiprocessors) * Block::kStepClocks;
}

// Runs body(Block{}) for the one of the Blocks that takes least.
template <class Block, class... Blocks, class Body>
void dispatch_block(const MmaExtents& extents, Body body) {
  const bool is_best = (... && (clocks_of<Block>(extents) <= clocks_of<Blocks>(extents)));
  if constexpr (sizeof...(Blocks) > 0) {
    if (!is_best) return dispatch_block<Blocks...>(extents, body);
  }
  body(Block{});
}

// ---- A depth that is far longer than there are results is cut into parts, whose sums are added in order.

// A shorter part would cost more to add than to compute [estimate]. An H100 copies so many bytes a clock.
constexpr int64_t kMinPartDepth = 1024, kCopiedBytes = 1700, kMostWaves = 4;

// So many parts that their tiles fill all multiprocessors for some waves.
template <class Block>
MmaExtents cut_for(MmaExtents extents, int waves) {
  const int64_t most = std::max<int64_t>(extents.depth / kMinPartDepth, 1);
  const int64_t parts = std::clamp<int64_t>(waves * kMultiprocessors / tiles_of<Block>(extents), 1, most);
  constexpr int64_t kMultiple = kTileDepthElements<bfloat16>;  // of a float tile's depth, too
  const int64_t part_depth = std::max<int64_t>(ceil_div(ceil_div(extents.depth, parts), kMultiple), 1) * kMultiple;
  extents.part_depth = static_cast<int>(part_depth);
  extents.parts = static_cast<int>(std::max<int64_t>(ceil_div(extents.depth, part_depth), 1));
  return extents;
}

// What a product that is cut takes: its steps, as many as half types have, and its partial sums written and read.
template <class Block>
int64_t clocks_in_parts(const MmaExtents& extents) {
  const int64_t results = int64_t{extents.groups} * extents.rows * extents.columns;
  const int64_t sums = 2 * int64_t{sizeof(float)} * results * extents.parts / kCopiedBytes;
  return clocks_of<Block>(extents) * ceil_div(extents.part_depth, kTileDepthElements<bfloat16> / kSteps) + sums;
}

// The bits depend on the parts: the best of these cuts, which the shape alone decides, not the GPU at hand.
template <class... Blocks>
MmaExtents best_cut(const MmaExtents& extents) {
  MmaExtents best = extents;
  int64_t least = INT64_MAX;
  const auto consider = [&](const MmaExtents& cut, int64_t clocks) {
    if (clocks < least) best = cut, least = clocks;
  };
  for (int waves = 1; waves <= kMostWaves; ++waves)
    (..., consider(cut_for<Blocks>(extents, waves), clocks_in_parts<Blocks>(cut_for<Blocks>(extents, waves))));
  return best;
}

}  // namespace tmc
