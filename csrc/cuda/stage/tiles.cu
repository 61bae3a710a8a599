// How a stage's map is cut into tiles, by calculated clocks (cuda/gemm/mma_block.cuh), on the host. Nothing of it is
// measured.
//
// The map's pixels of m neighbouring windows are (m - 1) stride + kernel along an axis: what neighbouring tiles share
// is computed twice, and a tile is a rectangle, which seldom fills a block. Against that stand the map's ways through
// memory.
#include "cuda/stage/blocks.cuh"
#include "cuda/stage/plan.h"

namespace tmc {
namespace {

// An element through memory once: 3.0 TB/s are 13 bytes a clock for each of an H100's multiprocessors.
constexpr double kBytesAClock = 13;
constexpr int kSplitProducts = 3;

// Of one block and step of depth.
template <class Block>
int64_t step_clocks(bool split) {
  const int64_t products = Block::kRows * Block::kColumns * 16 / 1126;
  return split ? kSplitProducts * products : Block::kStepClocks;
}

template <class Block>
int64_t column_blocks(const Conv2dShape& conv) {
  return ceil_div(filters_per_group(conv), Block::kColumns) * conv.groups;
}

// Pixels of the map that belong to no window, behind the last or between two, are kept as well.
int64_t pixels_between(const PoolAxis& axis, bool keeps_map) {
  const int64_t covered = (axis.out - 1) * axis.stride + axis.kernel - axis.pad;
  return keeps_map && (axis.stride > axis.kernel || covered < axis.in) ? axis.stride - 1 : 0;
}

}  // namespace

StageTiles plan_stage_tiles(DType dtype, const ConvActPool2dShape& shape, const Conv2dPlan& plan, bool keeps_map,
                            double* gain) {
  const Conv2dShape& conv = plan.shape;
  const PoolAxis &h = shape.pool.h, &w = shape.pool.w;
  const int64_t more_h = h.kernel + pixels_between(h, keeps_map), more_w = w.kernel + pixels_between(w, keeps_map);
  StageTiles tiles{};
  int64_t fused = INT64_MAX, apart = INT64_MAX;
  dispatch_stage(dtype, plan.strict, [&](auto type, auto split) {
    using Blocks = StageBlocks<decltype(type), split>;
    Blocks::for_each([&](int i, auto block) {
      using Block = decltype(block);
      for (int64_t pooled_h = 1; pooled_h <= h.out; ++pooled_h) {
        const int64_t map_h = (pooled_h - 1) * h.stride + more_h;
        if (map_h * more_w > Block::kRows) break;
        const int64_t widest = std::min((Block::kRows / map_h - more_w) / w.stride + 1, w.out);
        const int64_t count_h = ceil_div(h.out, pooled_h), count_w = ceil_div(w.out, widest);
        const int64_t clocks = count_h * count_w * column_blocks<Block>(conv) * step_clocks<Block>(split);
        if (clocks >= fused) continue;
        const int64_t pooled_w = ceil_div(w.out, count_w), map_w = (pooled_w - 1) * w.stride + more_w;
        fused = clocks;
        tiles.block = i, tiles.rows = Block::kRows, tiles.columns = Block::kColumns;
        tiles.pooled_h = static_cast<int>(pooled_h), tiles.pooled_w = static_cast<int>(pooled_w);
        tiles.map_h = static_cast<int>(map_h), tiles.map_w = static_cast<int>(map_w);
        tiles.count_h = static_cast<int>(count_h), tiles.count_w = static_cast<int>(count_w);
      }
    });
    PlainBlocks<split>::for_each([&](int, auto block) {  // pixels of a large batch: blocks are full
      using Block = decltype(block);
      apart = std::min(apart, conv.p * conv.q * column_blocks<Block>(conv) * step_clocks<Block>(split) / Block::kRows);
    });
  });
  if (tiles.rows == 0) return tiles;
  const bool activates_map = shape.activation != Activation::none && !activates_output(shape);
  const int64_t bytes = dtype == DType::float32 ? 4 : 2, step = kStepBytes / bytes;
  const double steps = static_cast<double>(ceil_div(conv.r * conv.s * channels_per_group(conv), step));
  const double pass = static_cast<double>(conv.p * conv.q * conv.k * bytes) / kBytesAClock;
  const int passes = activates_map ? 4 : 2, kept = keeps_map ? 1 : 0;
  *gain = (static_cast<double>(apart) * steps + passes * pass) / (static_cast<double>(fused) * steps + kept * pass);
  return tiles;
}

}  // namespace tmc
