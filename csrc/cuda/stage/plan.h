// Whether a stage's map before the pool stays on the chip (cuda/stage/mma.cu), and how it is cut into tiles then. A
// pure function of the shape of a sample, the dtype, the precision and the device; never of the batch. The fused
// kernel's bits do not depend on the tiles.
#pragma once
#include <string>

#include "conv_act_pool2d.h"
#include "cuda/conv2d/plan.h"

namespace tmc {

struct StageTiles {
  int rows, columns;       // of the block: pixels of the map, filters
  int pooled_h, pooled_w;  // results of a tile
  int map_h, map_w;        // the pixels that its windows cover
  int count_h, count_w;    // tiles of an image
};

struct StagePlan {
  bool fused;
  Conv2dPlan conv;  // of the fused kernel, which multiplies by mma.sync
  StageTiles tiles;
  const char* reason;  // if it is not fused
};

// keeps_map: the activated map is written, too, each pixel by one tile.
StagePlan plan_stage(DType dtype, const ConvActPool2dShape& shape, Precision precision, bool keeps_map,
                     const Conv2dDevice& device);

// "fused: 4 x 4 tiles of 7 x 8 results an image, in blocks of 256 x 64 pixels x filters", or "composed: <why>".
std::string describe(const StagePlan& plan);

}  // namespace tmc
