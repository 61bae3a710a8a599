// Convolution on tensor cores, activation and pooling in one kernel (eq. 21, 23). It writes the pooled map alone.
//
// A block owns a rectangle of pooled pixels, for some filters of one image. Its steps:
//
//   1. It multiplies all pixels of the map that their windows cover, as rows of a tile (cuda/gemm/mma_gemm.cuh). The
//      sums are those of conv2d by mma.sync, to the bit.
//   2. It adds the bias, rounds to the tensors' dtype, as a map in memory would be, and puts the map into the shared
//      memory that the operands had, a column of warps at a time.
//   3. Each thread pools 16 bytes of channels of a window. It activates once (max) or has activated before (averages),
//      and writes 16 bytes and as many winners.
//
// What neighbouring rectangles share of the map is computed by both (cuda/stage/plan.cpp).
//
// Bound: tensor cores. Pooling a 3 x 3 window takes some 50 instructions for 8 channels and tap: a sixth of the
// multiplication before it for AlexNet's first layer [counted, not measured]. Where two blocks share a multiprocessor,
// one can multiply meanwhile.
#include "cuda/conv2d/pack.h"
#include "cuda/stage/slice.cuh"

namespace tmc {
namespace {

template <class Product>
__global__ void __launch_bounds__(Product::Block::kThreads, Product::Block::kBlocksPerMultiprocessor)
    conv_act_pool2d_kernel(const Product product) {
  using Block = typename Product::Block;
  const StageTile tile = product.tile_of_block();
  if (tile.image >= product.images) return;
  Chunk* const ring = reinterpret_cast<Chunk*>(dynamic_shared_memory());
  float sums[Block::kWarpRows / 16][Block::kWarpColumns / 8][4] = {};
  multiply_tiles(product, tile, ring, sums);
  add_bias(product, tile, warp_column<Block>(), sums);
  using Map = MapSlice<Product>;
  for (int column = 0; column < Block::kColumns; column += Map::kColumns) {
    const Map map{product, tile, reinterpret_cast<typename Product::scalar_t*>(ring), column};
    if (warp_column<Block>() / Map::kColumns * Map::kColumns == column)
      map.put(warp_row<Block>(), warp_column<Block>(), sums);
    __syncthreads();  // all of it is there
    if (!product.is_max && product.activation != Activation::none) {
      map.activate();
      __syncthreads();  // and activated
    }
    map.pool();
    if (product.kept_map != nullptr) map.keep();
    if (!Map::kIsWhole) __syncthreads();  // nobody needs it any more: the next slice comes
  }
}

struct StageOperands {
  const void *image, *matrix, *bias;
  void *output, *winners, *kept_map;
};

StageAxis stage_axis(const PoolAxis& axis) {
  return {static_cast<int>(axis.in), static_cast<int>(axis.out), static_cast<int>(axis.kernel),
          static_cast<int>(axis.stride), static_cast<int>(axis.pad)};
}

template <class T, bool kSplit, class Block>
void launch_stage(const ConvActPool2dShape& shape, const StagePlan& plan, const StageOperands& operands, void* stream) {
  using Product = StageProduct<T, kSplit, Block>;
  Product product;
  product.image = static_cast<const Chunk*>(operands.image),
  product.matrix = static_cast<const Chunk*>(operands.matrix);
  product.bias = static_cast<const T*>(operands.bias);
  product.output = static_cast<T*>(operands.output), product.kept_map = static_cast<T*>(operands.kept_map);
  product.winners = static_cast<uint8_t*>(operands.winners);
  product.conv = mma_conv2d(plan.conv.shape, kChunkElements<T>);
  product.images = shape.conv.n;
  product.columns = static_cast<int>(filters_per_group(shape.conv));
  product.depth = product.conv.r * product.conv.s * product.conv.group_c * kChunkElements<T>;
  product.pool_h = stage_axis(shape.pool.h), product.pool_w = stage_axis(shape.pool.w);
  product.tiles = plan.tiles;
  product.activation = shape.activation, product.is_max = shape.pooling == Pooling::max;
  product.divisor = shape.pooling == Pooling::avg ? static_cast<int>(window_taps(shape.pool)) : 1;
  const int64_t blocks = ceil_div(product.columns, Block::kColumns) * plan.tiles.count_w * plan.tiles.count_h *
                         shape.conv.groups * shape.conv.n;
  launch_with_shared_memory(conv_act_pool2d_kernel<Product>, grid_of(blocks), Block::kThreads, Product::kRingBytes,
                            stream, product);
}

}  // namespace

void launch_conv_act_pool2d_mma(DType dtype, const ConvActPool2dShape& shape, const StagePlan& plan, bool channels_last,
                                const void* input, const void* weight, const void* bias, void* workspace, void* output,
                                void* winners, void* kept_map, void* stream) {
  StageOperands operands = {input, weight, bias, output, winners, kept_map};
  if (plan.conv.packing.needed) {
    void* const packed_weight = static_cast<char*>(workspace) + workspace_bytes(image_bytes(dtype, plan.conv.shape));
    pack_image(dtype, shape.conv, plan.conv, channels_last, input, workspace, stream);
    pack_weight(dtype, shape.conv, plan.conv, channels_last, weight, packed_weight, stream);
    operands.image = workspace, operands.matrix = packed_weight;
  }
  // Every block has one or two columns of warps, so that a tile of the map may have any number of filters. A warp's 48
  // or 64 x 64 results are 96 or 128 registers a thread. A block whose map comes in slices (192 x 128 in TF32) keeps
  // its results meanwhile, and 128 would not fit.
  dispatch_mma(dtype, [&](auto type) {
    using T = decltype(type);
    const auto launch_if_planned = [&](auto split, auto block) {
      using Block = decltype(block);
      if (Block::kRows == plan.tiles.rows && Block::kColumns == plan.tiles.columns)
        launch_stage<T, decltype(split)::value, Block>(shape, plan, operands, stream);
    };
    if (plan.conv.strict) {
      if constexpr (sizeof(T) == 4) {
        launch_if_planned(std::true_type{}, MmaBlock<8, 1, 32, 64, 1>{});  // 256 x 64
        launch_if_planned(std::true_type{}, MmaStrict{});
      }
      return;
    }
    launch_if_planned(std::false_type{}, MmaBlock<4, 2, 48, 64, 1>{});  // 192 x 128
    launch_if_planned(std::false_type{}, MmaTall{});
    launch_if_planned(std::false_type{}, MmaSmall{});
  });
}

}  // namespace tmc
