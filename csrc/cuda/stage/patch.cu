// What cuda/stage/grad_weight.cu keeps in shared memory for a tile of a map, and whether rebuilding the map's
// gradient there pays, by calculated clocks (cuda/gemm/mma_block.cuh), on the host. Nothing of it is measured.
#include "cuda/conv2d/mma.cuh"
#include "cuda/stage/blocks.cuh"
#include "cuda/stage/plan.h"

namespace tmc {
namespace {

// Bytes through memory a clock: 3.0 TB/s are 13 for each of an H100's multiprocessors.
constexpr double kBytesAClock = 13;
// Instructions of a warp for its share of a tile, and for each window over a pixel, counted from the machine code for
// sm_90a (bfloat16, AlexNet's first layer). A multiprocessor issues four at a time.
constexpr int64_t kTileInstructions = 500, kWindowInstructions = 37, kIssued = 4;

// What a block may have on every architecture (sm_120: 99 KB). A Piece counts an extent in 8 bits, a stage in 16.
constexpr int64_t kMaxSharedBytes = 99 << 10, kMaxExtent = 1 << 8, kMaxStage = 1 << 16, kPieceBytes = 8;

// Windows over the first `pixels` positions, and over the same in every tile whose size the stride divides.
int64_t windows_over(const PoolAxis& axis, int64_t pixels) {
  return (pixels - 1 + axis.pad) / axis.stride + windows_before(axis) + 1;
}
// Positions of the image under the windows of `pixels` neighbouring results.
int64_t reach(int64_t pixels, int64_t stride, int64_t kernel, int64_t dilation) {
  return (pixels - 1) * stride + (kernel - 1) * dilation + 1;
}

// So many chunks from pixel to pixel that what a warp reads at once lies in different groups of banks, where the stride
// is odd: of half types a chunk of 8 pixels, of float two chunks of 4.
int64_t pitch_of(Dtype dtype, int64_t chunks) {
  if (dtype != Dtype::float32) return chunks | 1;
  return ceil_div(chunks - 2, int64_t{4}) * 4 + 2;
}

// Of a tile that is multiplied: a scheduler's share in whole warps.
template <class Block>
int64_t tile_clocks(const MmaExtents& extents, bool split) {
  constexpr int64_t kWarpClocks = Block::kWarpRows * Block::kWarpColumns * 16 / 1126;
  const int64_t warps = ceil_div(std::min(extents.rows, Block::kRows), Block::kWarpRows);
  return ceil_div(warps, kIssued) * kIssued * kWarpClocks * kSteps * (split ? 3 : 1);
}

}  // namespace

StagePatch plan_stage_patch(Dtype dtype, const ConvActPool2dShape& shape, const Conv2dPlan& plan) {
  const Conv2dShape& conv = plan.shape;
  const bool is_max = shape.pooling == Pooling::max, activates = shape.activation != Activation::none;
  const int64_t bytes = element_bytes(dtype), chunk = chunk_elements(dtype), height = map_tile_height(dtype);
  const int64_t tile_pixels = height * kMapTileWidth, columns = RebuildingBlock<false>::kColumns;
  const int64_t column_chunks = columns / chunk, channel_chunks = channels_per_group(conv) / chunk;
  const int64_t image_h = reach(height, conv.stride_h, conv.r, conv.dilation_h);
  const int64_t image_w = reach(kMapTileWidth, conv.stride_w, conv.s, conv.dilation_w);
  const int64_t pooled_h = windows_over(shape.pool.h, height), pooled_w = windows_over(shape.pool.w, kMapTileWidth);
  const int64_t pitch = pitch_of(dtype, channel_chunks), pooled = pooled_h * pooled_w;
  StagePatch patch{};
  if (std::max({image_h, image_w, pooled_h, pooled_w}) >= kMaxExtent) return patch;

  int64_t end = 0;
  const auto take = [&](int64_t chunks) {
    end += chunks;
    return static_cast<int>(end - chunks);
  };
  take(image_h * image_w * pitch);
  patch.gradient_at = take(pooled * column_chunks);
  patch.activated_at = take(!activates ? 0 : (is_max ? pooled : tile_pixels) * column_chunks);
  patch.winners_at = take(is_max ? pooled * columns / int64_t{sizeof(Chunk)} : 0);
  if (end > kMaxStage) return patch;
  patch.stage_chunks = static_cast<int>(end);
  patch.share_chunks = static_cast<int>(pooled * columns * int64_t{sizeof(float)} / int64_t{sizeof(Chunk)});
  const int64_t pieces = image_h * image_w * channel_chunks + pooled * column_chunks;
  for (patch.stages = kMostStages; patch.stages >= kFewestStages; --patch.stages) {
    end = int64_t{patch.stages} * patch.stage_chunks;
    patch.shares_at = take(2 * patch.share_chunks);
    patch.gradients_at = take(2 * tile_pixels * column_chunks);
    patch.pieces_at = take(ceil_div(pieces * kPieceBytes, int64_t{sizeof(Chunk)}));
    patch.fits = end * int64_t{sizeof(Chunk)} <= kMaxSharedBytes;
    if (patch.fits) break;
  }
  patch.shared_bytes = static_cast<int>(end * int64_t{sizeof(Chunk)});
  patch.tile_pixels = static_cast<int>(tile_pixels);
  patch.tiles_h = static_cast<int>(ceil_div(conv.p, height));
  patch.tiles_w = static_cast<int>(ceil_div(conv.q, int64_t{kMapTileWidth}));
  patch.image_h = static_cast<int>(image_h), patch.image_w = static_cast<int>(image_w);
  patch.pitch = static_cast<int>(pitch);
  patch.pooled_h = static_cast<int>(pooled_h), patch.pooled_w = static_cast<int>(pooled_w);
  return patch;
}

double rebuilding_gain(Dtype dtype, const ConvActPool2dShape& shape, const Conv2dPlan& plan, const StagePatch& patch) {
  const Conv2dShape& conv = plan.shape;
  MmaExtents extents{};
  extents.groups = static_cast<int>(conv.groups);
  extents.rows = static_cast<int>(conv.r * conv.s * channels_per_group(conv));
  extents.columns = static_cast<int>(filters_per_group(conv));
  const PoolAxis &h = shape.pool.h, &w = shape.pool.w;
  int64_t apart = INT64_MAX, rebuilt = 0;
  dispatch_stage(dtype, plan.strict, [&](auto, auto split) {
    GradWeightBlocks<split>::for_each([&](int, auto block) {  // of one step
      using Block = decltype(block);
      apart = std::min(apart, tiles_of<Block>(extents) * Block::kStepClocks);
    });
    using Block = RebuildingBlock<split>;
    const int64_t windows = ceil_div(h.kernel, h.stride) * ceil_div(w.kernel, w.stride);
    const int64_t instructions = Block::kWarps * (kTileInstructions + kWindowInstructions * windows);
    rebuilt = tiles_of<Block>(extents) * patch.tiles_h * patch.tiles_w *
              std::max(tile_clocks<Block>(extents, split), instructions / kIssued);
  });
  const int64_t bytes = element_bytes(dtype);
  const double steps = static_cast<double>(conv.p * conv.q * bytes) / kStepBytes;
  const double passes = 2 * static_cast<double>(conv.p * conv.q * conv.k * bytes) / kBytesAClock;  // written and read
  return (static_cast<double>(apart) * steps + passes) / static_cast<double>(rebuilt);
}

}  // namespace tmc
