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

// The gradients by weight and bias in tiles of a map, kMapTileWidth pixels wide: what a tile needs in shared memory.
constexpr int kMapTileWidth = 8;
inline int64_t map_tile_height(Dtype dtype) {
  return dtype == Dtype::float32 ? 2 : 4;  // 64 bytes of pixels, kTileDepthBytes
}
struct StagePatch {
  bool fits;
  int tile_pixels, tiles_h, tiles_w;                        // pixels of a tile, tiles of a map
  int image_h, image_w, pitch;                              // pixels of the image; chunks from one to the next
  int pooled_h, pooled_w;                                   // windows over a tile, at most
  int gradient_at, activated_at, winners_at, stage_chunks;  // what a stage consists of, in chunks
  int shares_at, share_chunks, gradients_at, pieces_at;     // behind the stages
  int stages, shared_bytes;                                 // of a block
};
// Stages of a block: one to multiply, one to rebuild, one whose shares are made, and one or two to copy.
constexpr int kFewestStages = 4, kMostStages = 5;
// Windows over the first pixels of a tile that begin before those of the next pixels.
inline int64_t windows_before(const PoolAxis& axis) {
  return (axis.kernel - 1 - axis.pad) / axis.stride;
}

struct StageGradientsPlan {
  bool rebuilt;     // if the input needs no gradient
  Conv2dPlan conv;  // of the gradient by the weight
  StagePatch patch;
  const char* reason;
};

// Whether the gradient of the map is written to memory or rebuilt on the chip; a wish for one of them.
enum class MapGradient { stored, rebuilt };

// keeps_map: the activated map is written, too, each pixel by one tile.
StagePlan plan_stage(Dtype dtype, const ConvActPool2dShape& shape, Precision precision, bool keeps_map,
                     const Conv2dDevice& device);

StageGradientsPlan plan_stage_gradients(Dtype dtype, const ConvActPool2dShape& shape, Precision precision,
                                        const Conv2dDevice& device, std::optional<MapGradient> preferred);

// "fused: 4 x 4 tiles of 7 x 8 results an image, in blocks of 256 x 64 pixels x filters", or "composed: <why>".
std::string describe(const StagePlan& plan);
// "rebuilt: <why>" or "stored: <why>".
std::string describe(const StageGradientsPlan& plan);

extern "C" {
// For a convolution that runs on tensor cores: the tiles that are calculated to take least; 0 rows if a window is
// larger than any tile. gain: what the stage takes one map after the other, in units of what it takes in these tiles.
StageTiles plan_stage_tiles(Dtype dtype, const ConvActPool2dShape& shape, const Conv2dPlan& conv, bool keeps_map,
                            double* gain);

// For a gradient by the weight that runs on tensor cores. gain: what it takes with the map's gradient in memory, in
// units of what it takes with one that is rebuilt.
StagePatch plan_stage_patch(Dtype dtype, const ConvActPool2dShape& shape, const Conv2dPlan& conv);
double rebuilding_gain(Dtype dtype, const ConvActPool2dShape& shape, const Conv2dPlan& conv, const StagePatch& patch);
}

}  // namespace tmc
