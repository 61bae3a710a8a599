#include "cuda/stage/plan.h"

#include <algorithm>

namespace tmc {
namespace {

// The blocks of cuda/stage/mma.cu, the largest first.
struct BlockSize {
  int rows, columns;
};
constexpr BlockSize kBlocks[] = {{192, 128}, {256, 64}, {128, 64}};
constexpr BlockSize kStrictBlocks[] = {{256, 64}, {128, 64}};  // float32 by 3xTF32

// What tiles multiply, in units of what the map has. More than that would cost more than the map's ways through memory,
// which a fused stage saves: a threshold chosen on paper, not measured on a GPU. It fuses AlexNet's first and last
// stage (1.27 and 1.14), not its second (1.40).
constexpr double kMostWork = 4.0 / 3;
constexpr int64_t kColumnGranule = 64;  // every block of a convolution fills up filters to a multiple of this

// The tiles of one size of block that multiply least; 0 rows if a window is larger than a tile.
//
// m neighbouring windows cover (m - 1) stride + kernel pixels of the map along an axis: what neighbouring tiles share
// is computed twice, and a tile is a rectangle, which seldom fills a block.
StageTiles best_tiles(const ConvActPool2dShape& shape, bool keeps_map, BlockSize block, double& work) {
  const Conv2dShape& conv = shape.conv;
  const PoolAxis &h = shape.pool.h, &w = shape.pool.w;
  // Pixels of the map that belong to no window, behind the last or between two, are kept as well.
  const auto least = [&](const PoolAxis& axis) {
    const int64_t covered = (axis.out - 1) * axis.stride + axis.kernel - axis.pad;
    const bool gaps = keeps_map && (axis.stride > axis.kernel || covered < axis.in);
    return axis.kernel + (gaps ? axis.stride - 1 : 0);
  };
  const int64_t least_h = least(h), least_w = least(w);
  StageTiles tiles{};
  int64_t fewest = INT64_MAX;
  for (int64_t pooled_h = 1; pooled_h <= h.out; ++pooled_h) {
    const int64_t map_h = (pooled_h - 1) * h.stride + least_h;
    if (map_h * least_w > block.rows) break;
    const int64_t widest = std::min((block.rows / map_h - least_w) / w.stride + 1, w.out);
    const int64_t count_h = ceil_div(h.out, pooled_h), count_w = ceil_div(w.out, widest);
    if (count_h * count_w >= fewest) continue;
    fewest = count_h * count_w;
    const int64_t pooled_w = ceil_div(w.out, count_w), map_w = (pooled_w - 1) * w.stride + least_w;
    tiles = {block.rows,
             block.columns,
             static_cast<int>(pooled_h),
             static_cast<int>(pooled_w),
             static_cast<int>(map_h),
             static_cast<int>(map_w),
             static_cast<int>(count_h),
             static_cast<int>(count_w)};
  }
  if (tiles.rows == 0) return tiles;
  const auto filled = [&](int64_t columns) { return ceil_div(filters_per_group(conv), columns) * columns; };
  work = static_cast<double>(fewest * block.rows * filled(block.columns)) /
         static_cast<double>(conv.p * conv.q * filled(kColumnGranule));
  return tiles;
}

// The largest block in whose tiles the stage is worth fusing; if there is none, why.
template <size_t kCount>
const char* choose_tiles(const ConvActPool2dShape& shape, bool keeps_map, const BlockSize (&blocks)[kCount],
                         StageTiles& tiles) {
  const char* reason = "a pooling window is larger than a tile of the map";
  for (const BlockSize block : blocks) {
    double work = 0;
    tiles = best_tiles(shape, keeps_map, block, work);
    if (tiles.rows == 0) continue;
    if (work <= kMostWork) return nullptr;
    reason = "what tiles of the map share would be computed too often";
  }
  return reason;
}

// Why the stage is not fused; nullptr if it is, in plan.tiles.
const char* obstacle(const ConvActPool2dShape& shape, bool keeps_map, bool has_wgmma, StagePlan& plan) {
  if (shape.pooling == Pooling::none) return "no pooling: the activation is a pass over the output";
  if (!plan.conv.tensor_cores) return "the convolution does not run on tensor cores";
  if (has_wgmma) return "the convolution runs by wgmma, the fused kernel would by mma.sync";
  return plan.conv.strict ? choose_tiles(shape, keeps_map, kStrictBlocks, plan.tiles)
                          : choose_tiles(shape, keeps_map, kBlocks, plan.tiles);
}

}  // namespace

StagePlan plan_stage(DType dtype, const ConvActPool2dShape& shape, Precision precision, bool keeps_map,
                     const Conv2dDevice& device) {
  const Conv2dDevice without_wgmma = {std::min(device.last, CudaAlgorithm::tensor_cores), device.preferred};
  StagePlan plan{false, plan_conv2d(dtype, shape.conv, precision, without_wgmma), {}, nullptr};
  plan.reason = obstacle(shape, keeps_map, plan_conv2d(dtype, shape.conv, precision, device).wgmma, plan);
  plan.fused = plan.reason == nullptr;
  return plan;
}

std::string describe(const StagePlan& plan) {
  if (!plan.fused) return std::string("composed: ") + plan.reason;
  const auto pair = [](int a, int b) { return std::to_string(a) + " x " + std::to_string(b); };
  const StageTiles& tiles = plan.tiles;
  return "fused: " + pair(tiles.count_h, tiles.count_w) + " tiles of " + pair(tiles.pooled_h, tiles.pooled_w) +
         " results an image, in blocks of " + pair(tiles.rows, tiles.columns) + " pixels x filters";
}

}  // namespace tmc
