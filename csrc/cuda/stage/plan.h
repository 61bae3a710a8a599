// Whether a stage's map before the pool, and that map's gradient, stay on the chip, and how they are cut:
// cuda/stage/mma.cu, cuda/stage/grad_weight.cu. A pure function of the shape of a sample, the dtype, the
// precision and the device; never of the batch. The fused kernel's bits do not depend on the tiles.
#pragma once
#include <string>

#include "conv_act_pool2d.h"
#include "cuda/conv2d/plan.h"

namespace tmc {

struct StageTiles {
  int block;               // the place in StageBlocks (cuda/stage/blocks.cuh) of the block, which multiplies
  int rows, columns;       // `rows` pixels of the map by `columns` filters
  int pooled_h, pooled_w;  // results of a tile
  int map_h, map_w;        // the pixels that its windows cover
  int count_h, count_w;    // tiles of an image
};

struct StagePlan {
  bool fused;
  Conv2dPlan conv;  // of the fused kernel, which multiplies by mma.sync also where conv2d takes wgmma
  StageTiles tiles;
  const char* reason;  // if it is not fused
};

// keeps_map: the activated map is written, too, each pixel by one tile.
StagePlan plan_stage(DType dtype, const ConvActPool2dShape& shape, Precision precision, bool keeps_map,
                     const Conv2dDevice& device);

// "fused: 4 x 4 tiles of 7 x 8 results an image, in blocks of 256 x 64 pixels x filters", or "composed: <why>".
std::string describe(const StagePlan& plan);
extern "C" {
// For a convolution that runs on tensor cores: the tiles that are calculated to take least; 0 rows if a window is
// larger than any tile. gain: what the stage takes one map after the other, in units of what it takes in these tiles.
StageTiles plan_stage_tiles(DType dtype, const ConvActPool2dShape& shape, const Conv2dPlan& conv, bool keeps_map,
                            double* gain);
}

}  // namespace tmc
