// A stage's gradient by its weight, and by its bias, from the gradient of its output (eq. 3, 4, 22): the gradient of
// the map before the pool, which they are sums over, is rebuilt in shared memory and never written.
//
//   result[row, column] = sum over depth of image(row, depth) * map_gradient(depth, column)         for each group
//
// where rows are taps and channels r, s, c, columns are filters and the depth is the pixels of all maps, as in
// cuda/conv2d/grad_weight_mma.cu; but a tile of the depth is a rectangle of a map. For a first layer one block holds
// all rows (512) and 64 columns, so that each piece of the gradient is rebuilt once, and the image is read about once.
//
// Tiles come in a pipeline: while tile i is multiplied, the gradient of tile i + 1 is rebuilt from its windows' shares,
// those of tile i + 2 are made, and the operands of what follows are copied. Half of the warps multiply first and
// half of them last, so that each scheduler has a warp for the tensor cores and another one for the rest. The depth is
// cut into parts, which are added in order: the same bits on every run.
//
// Bound: tensor cores. Of 256 threads with 255 registers each, 64 x 64 results take 128.
#include "cuda/conv2d/pack.h"
#include "cuda/stage/blocks.cuh"
#include "cuda/stage/grad_weight.cuh"
#include "cuda/stage/launchers.h"
#include "cuda/stage/mma.h"

namespace tmc {
namespace {

constexpr int kSchedulers = 4;  // of a multiprocessor: a warp's is its number modulo this

// Where the threads' sums of the bias are put when the ring is not needed any more: behind the staged results.
template <class Block>
constexpr int kBiasSumsAt = staged_element(Block::kWarpColumns, Block::kWarps * 16, 0);

// A block's sums of eq. 4, in the order of the pixels, by the first threads.
template <class Product>
__device__ void store_bias(const Product& product, const MmaTile& tile, float* shared,
                           const float (&bias)[Product::kLanes]) {
  using Block = typename Product::Block;
#pragma unroll
  for (int i = 0; i < Product::kLanes; ++i)
    shared[threadIdx.x / Product::kColumnChunks * Block::kColumns + Product::lane() + i] = bias[i];
  __syncthreads();
  const int column = threadIdx.x;
  if (column >= Block::kColumns || tile.column + column >= product.columns) return;
  float sum = 0;
  for (int pixel = 0; pixel < Product::MatrixTile::kLines; ++pixel) sum += shared[pixel * Block::kColumns + column];
  product.bias_parts[int64_t{tile.part} * product.conv.k + product.channel(tile) + column] = sum;
}

template <class Rows, class Product, class Image, int kRowTiles, int kColumnTiles>
__device__ void multiply_tile(float (&sums)[kRowTiles][kColumnTiles][4], const Image& image, const Chunk* gradient) {
#pragma unroll 1
  for (int step = 0; step < kSteps; ++step)
    multiply_step<typename Product::scalar_t, Product::kSplit, Rows, typename Product::MatrixTile>(sums, image, 0,
                                                                                                   gradient, 0, step);
}

template <class Product>
__global__ void __launch_bounds__(Product::Block::kThreads, Product::Block::kBlocksPerMultiprocessor)
    stage_grad_weight_kernel(const Product product) {
  using Block = typename Product::Block;
  using MatrixTile = typename Product::MatrixTile;
  using ShareVector = typename Product::ShareVector;
  const StagePatch& patch = product.patch;
  const MmaTile tile = mma_tile_of_block(product);
  Chunk* const ring = reinterpret_cast<Chunk*>(dynamic_shared_memory());
  Chunk* const gradients = ring + patch.gradients_at;
  ShareVector* const shares = reinterpret_cast<ShareVector*>(ring + patch.shares_at);
  Piece* const pieces = reinterpret_cast<Piece*>(ring + patch.pieces_at);
  product.list_pieces(tile, pieces);

  const int row = warp_row<Block>(), tiles = tile.depth_end - tile.depth_begin;
  const bool multiplies = tile.row + row < product.rows;
  const int rebuilds_at = threadIdx.x / kWarpThreads / kSchedulers % 2;
  const PixelWindows<Product> windows(product);
  ImageRows<Product> image(product, tile);
  float sums[Block::kWarpRows / 16][Block::kWarpColumns / 8][4] = {}, bias[Product::kLanes] = {};

  const auto map_tile = [&](int i) { return product.map_tile(tile.depth_begin + i); };
  const auto stage_of = [&](int i) { return ring + i % product.stages * patch.stage_chunks; };
  const auto shares_of = [&](int i) { return shares + i % 2 * patch.share_chunks; };
  const auto gradient_of = [&](int i) { return gradients + i % 2 * MatrixTile::kChunks; };
  const auto copy = [&](int i) {
    if (i < tiles) product.copy(tile, map_tile(i), pieces, stage_of(i));
    commit_copies();
  };
  const auto rebuild = [&](int i) {
    if (i + 1 < tiles) product.make_shares(stage_of(i + 1), shares_of(i + 1));
    if (i >= 0 && i < tiles)
      windows.rebuild(product, tile, map_tile(i), stage_of(i), shares_of(i), gradient_of(i), bias);
  };
  const auto multiply = [&](int i) {
    image.enter(product, map_tile(i), stage_of(i));
    if (image.is_whole())
      multiply_tile<ImageRows<Product>, Product>(sums, image, gradient_of(i));
    else
      multiply_tile<EdgeRows<Product>, Product>(sums, image, gradient_of(i));
  };

#pragma unroll 1
  for (int i = 0; i < patch.stages - 3; ++i) copy(i);
#pragma unroll 1
  for (int i = -2; i < tiles; ++i) {
    if (patch.stages == kMostStages)
      wait_for_copies<kMostStages - kFewestStages>();
    else
      wait_for_copies<0>();
    __syncthreads();  // stage i + 2 has landed, shares i + 1 and gradient i are complete, what belongs to i - 1 is free
    copy(i + patch.stages - 1);
#pragma unroll 1
    for (int turn = 0; turn < 2; ++turn)
      if (turn == rebuilds_at)
        rebuild(i + 1);
      else if (multiplies && i >= 0)
        multiply(i);
  }
  wait_for_copies<0>();
  __syncthreads();  // nobody reads the last tile any more: its memory is used again
  float* const shared = reinterpret_cast<float*>(ring);
  if (product.bias_parts != nullptr && tile.row == 0) store_bias(product, tile, shared + kBiasSumsAt<Block>, bias);
  store_sums(product, tile, row, 0, sums, reinterpret_cast<char*>(shared));
}

// A block for each multiprocessor, unless its part would cost more to add than to compute.
template <class Block>
MmaExtents cut_maps(const ConvActPool2dShape& shape, const StageGradientsPlan& plan) {
  const Conv2dShape& conv = plan.conv.shape;
  MmaExtents extents;
  extents.groups = static_cast<int>(conv.groups);
  extents.rows = static_cast<int>(conv.r * conv.s * channels_per_group(conv));
  extents.columns = static_cast<int>(filters_per_group(conv));
  extents.depth = static_cast<int>(shape.conv.n * plan.patch.tiles_h * plan.patch.tiles_w);
  const int64_t blocks = tiles_of<Block>(extents), least = kMinPartDepth / plan.patch.tile_pixels;
  const int64_t parts = std::clamp<int64_t>(kMultiprocessors / blocks, 1, std::max<int64_t>(extents.depth / least, 1));
  extents.part_depth = static_cast<int>(std::max<int64_t>(ceil_div(extents.depth, parts), 1));
  extents.parts = static_cast<int>(ceil_div(extents.depth, extents.part_depth));
  return extents;
}

int64_t sums_bytes(const MmaExtents& extents) {
  return workspace_bytes(int64_t{extents.parts} * extents.groups * extents.rows * extents.columns *
                         int64_t{sizeof(float)});
}
int64_t bias_bytes(const MmaExtents& extents) {
  return workspace_bytes(int64_t{extents.parts} * extents.groups * extents.columns * int64_t{sizeof(float)});
}

TileWindows tile_windows(const PoolAxis& axis, int tile) {
  TileWindows windows;
  windows.out = static_cast<int>(axis.out), windows.kernel = static_cast<int>(axis.kernel);
  windows.stride = static_cast<int>(axis.stride), windows.pad = static_cast<int>(axis.pad);
  windows.tile_windows = tile / windows.stride, windows.first = static_cast<int>(-windows_before(axis));
  return windows;
}

struct Operands {
  const void *image, *grad_output, *activated, *winners;
  float *sums, *bias_parts;
};

template <class Product>
void launch_product(const ConvActPool2dShape& shape, const StageGradientsPlan& plan, const MmaExtents& extents,
                    const Operands& operands, void* stream) {
  using T = typename Product::scalar_t;
  using Block = typename Product::Block;
  Product product;
  static_cast<MmaExtents&>(product) = extents;
  product.image = static_cast<const Chunk*>(operands.image);
  product.grad_output = static_cast<const T*>(operands.grad_output);
  product.activated = static_cast<const T*>(operands.activated);
  product.winners = static_cast<const uint8_t*>(operands.winners);
  product.result = operands.sums, product.bias_parts = operands.bias_parts;
  product.conv = mma_conv2d(plan.conv.shape, kChunkElements<T>);
  product.pool_h = tile_windows(shape.pool.h, Product::kTileHeight);
  product.pool_w = tile_windows(shape.pool.w, kMapTileWidth);
  product.patch = plan.patch;
  product.tiles_h = divisor(plan.patch.tiles_h), product.tiles_w = divisor(plan.patch.tiles_w);
  product.stages = divisor(plan.patch.stages);
  product.activation = shape.activation;
  product.divisor = shape.pooling == Pooling::avg ? static_cast<int>(window_taps(shape.pool)) : 1;
  constexpr int kAfterwards = kBiasSumsAt<Block> + Product::MatrixTile::kLines * Block::kColumns;
  const int64_t bytes = std::max<int64_t>(plan.patch.shared_bytes, kAfterwards * int64_t{sizeof(float)});
  const int64_t blocks = tiles_of<Block>(extents) * extents.parts;
  launch_with_shared_memory(stage_grad_weight_kernel<Product>, dim3(static_cast<unsigned>(blocks)), Block::kThreads,
                            static_cast<int>(bytes), stream, product);
}

}  // namespace

int64_t conv_act_pool2d_grad_weight_workspace(Dtype dtype, const ConvActPool2dShape& shape,
                                              const StageGradientsPlan& plan) {
  int64_t bytes = plan.conv.packing.needed ? workspace_bytes(image_bytes(dtype, plan.conv.shape)) : 0;
  dispatch_stage(dtype, plan.conv.strict, [&](auto, auto split) {
    const MmaExtents extents = cut_maps<RebuildingBlock<split>>(shape, plan);
    bytes += sums_bytes(extents) + bias_bytes(extents);
  });
  return bytes;
}

void launch_conv_act_pool2d_grad_weight(Dtype dtype, const ConvActPool2dShape& shape, const StageGradientsPlan& plan,
                                        bool channels_last, bool weight_last, const void* grad_output,
                                        const void* activated, const void* winners, const void* input, void* workspace,
                                        void* grad_weight, void* grad_bias, void* stream) {
  dispatch_stage(dtype, plan.conv.strict, [&](auto type, auto split) {
    using T = decltype(type);
    using Block = RebuildingBlock<split>;
    const MmaExtents extents = cut_maps<Block>(shape, plan);
    char* const bias_parts = static_cast<char*>(workspace) + sums_bytes(extents);
    Operands operands = {input, grad_output, activated, winners, static_cast<float*>(workspace), nullptr};
    if (grad_bias != nullptr) operands.bias_parts = reinterpret_cast<float*>(bias_parts);
    if (plan.conv.packing.needed) {
      void* const packed = bias_parts + bias_bytes(extents);
      pack_image(dtype, shape.conv, plan.conv, channels_last, input, packed, stream);
      operands.image = packed;
    }
    if (shape.pooling == Pooling::max)
      launch_product<StageGradWeightProduct<T, split, true, Block>>(shape, plan, extents, operands, stream);
    else
      launch_product<StageGradWeightProduct<T, split, false, Block>>(shape, plan, extents, operands, stream);
    launch_sum_mma_parts(dtype, shape.conv, plan.conv, weight_last, operands.sums, extents.parts, grad_weight, stream);
    if (grad_bias != nullptr)
      launch_sum_bias_parts(dtype, operands.bias_parts, extents.parts, shape.conv.k, grad_bias, stream);
  });
}

}  // namespace tmc
