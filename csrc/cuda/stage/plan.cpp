#include "cuda/stage/plan.h"

#include <algorithm>

namespace tmc {
namespace {

// The calculations are no better than a tenth, and what stays on the chip needs less memory.
constexpr double kLeastGain = 0.9;

// wgmma takes 1 / 1.24 of the time of mma.sync, the geometric mean of AlexNet's conv2 to conv5 as calculated in
// docs/gpu.md; `make gpu-check` measures stages both ways.
constexpr double kLeastGainOverWgmma = 1.24;

constexpr const char* kPreferredGradient = "preferred by TMC_STAGE_MAP_GRADIENT";

}  // namespace

StagePlan plan_stage(Dtype dtype, const ConvActPool2dShape& shape, Precision precision, bool keeps_map,
                     const Conv2dDevice& device) {
  const Conv2dDevice without_wgmma = {std::min(device.last, CudaAlgorithm::tensor_cores), device.preferred};
  StagePlan plan{false, plan_conv2d(dtype, shape.conv, precision, without_wgmma), {}, nullptr};
  const auto composed = [&](const char* reason) {
    plan.reason = reason;
    return plan;
  };
  if (shape.pooling == Pooling::none) return composed("no pooling: the activation is a pass over the output");
  if (!plan.conv.tensor_cores) return composed("the convolution does not run on tensor cores");
  const bool wgmma = plan_conv2d(dtype, shape.conv, precision, device).wgmma;
  if (wgmma && device.preferred == CudaAlgorithm::wgmma)
    return composed("the convolution runs by wgmma, which is preferred");
  double gain = 0;
  plan.tiles = plan_stage_tiles(dtype, shape, plan.conv, keeps_map, &gain);
  if (plan.tiles.rows == 0) return composed("a pooling window is larger than a tile of the map");
  if (gain < kLeastGain) return composed("what tiles of the map share would be computed too often");
  if (wgmma && gain < kLeastGainOverWgmma) return composed("the convolution runs by wgmma, which saves more time");
  plan.fused = true;
  return plan;
}

StageGradientsPlan plan_stage_gradients(Dtype dtype, const ConvActPool2dShape& shape, Precision precision,
                                        const Conv2dDevice& device, std::optional<MapGradient> preferred) {
  StageGradientsPlan plan{false, plan_conv2d_grad_weight(dtype, shape.conv, precision, device), {}, nullptr};
  const auto stored = [&](const char* reason) {
    plan.reason = reason;
    return plan;
  };
  const bool wanted = preferred == MapGradient::rebuilt;
  if (preferred == MapGradient::stored) return stored(kPreferredGradient);
  if (!plan.conv.tensor_cores) return stored("the gradient by the weight does not run on tensor cores");
  if (plan.conv.wgmma && !wanted) return stored("the gradient by the weight runs by wgmma");
  if (shape.pooling == Pooling::max && window_taps(shape.pool) > kMaxByteTaps)
    return stored("winners are no bytes: a window has more than 256 positions");
  if (plan.conv.shape.stride_h % 2 == 0 || plan.conv.shape.stride_w % 2 == 0)
    return stored("an even stride: pixels would lie in the same banks");
  const int64_t height = map_tile_height(dtype);
  if (height % shape.pool.h.stride != 0 || kMapTileWidth % shape.pool.w.stride != 0)
    return stored("the pool's strides do not divide a tile of the map");
  plan.patch = plan_stage_patch(dtype, shape, plan.conv);
  if (!plan.patch.fits) return stored("what a tile of the map needs does not fit shared memory");
  if (!wanted && rebuilding_gain(dtype, shape, plan.conv, plan.patch) < kLeastGain)
    return stored("it would be rebuilt too often");
  plan.rebuilt = true;
  plan.conv.wgmma = false;
  plan.reason = wanted ? kPreferredGradient : "it is not written where the input needs no gradient";
  return plan;
}

std::string describe(const StageGradientsPlan& plan) {
  return std::string(plan.rebuilt ? "rebuilt: " : "stored: ") + plan.reason;
}

std::string describe(const StagePlan& plan) {
  if (!plan.fused) return std::string("composed: ") + plan.reason;
  const auto pair = [](int a, int b) { return std::to_string(a) + " x " + std::to_string(b); };
  const StageTiles& tiles = plan.tiles;
  return "fused: " + pair(tiles.count_h, tiles.count_w) + " tiles of " + pair(tiles.pooled_h, tiles.pooled_w) +
         " results an image, in blocks of " + pair(tiles.rows, tiles.columns) + " pixels x filters";
}

}  // namespace tmc
