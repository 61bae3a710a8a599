#include "cuda/stage/plan.h"

#include <algorithm>

namespace tmc {
namespace {

// The calculations are no better than a tenth, and what stays on the chip needs less memory.
constexpr double kLeastGain = 0.9;

// wgmma takes 1 / 1.24 of the time of mma.sync, the geometric mean of AlexNet's conv2 to conv5 as calculated in
// docs/gpu.md; `make gpu-check` measures stages both ways.
constexpr double kLeastGainOverWgmma = 1.24;

}  // namespace

StagePlan plan_stage(DType dtype, const ConvActPool2dShape& shape, Precision precision, bool keeps_map,
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

std::string describe(const StagePlan& plan) {
  if (!plan.fused) return std::string("composed: ") + plan.reason;
  const auto pair = [](int a, int b) { return std::to_string(a) + " x " + std::to_string(b); };
  const StageTiles& tiles = plan.tiles;
  return "fused: " + pair(tiles.count_h, tiles.count_w) + " tiles of " + pair(tiles.pooled_h, tiles.pooled_w) +
         " results an image, in blocks of " + pair(tiles.rows, tiles.columns) + " pixels x filters";
}

}  // namespace tmc
