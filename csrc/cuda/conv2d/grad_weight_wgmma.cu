// The gradient by the weight with wgmma, eq. 3: what the rows, columns and depth of cuda/gemm/wgmma_gemm.cuh are.
//
//   rows       filters k of a group
//   columns    taps and channels r, s, c         in blocks of 64 channels of one tap, the last one of a tap padded
//   depth      output pixels n, p, q             64 for each stage
//
// A line of shared memory is a pixel: 64 filters of grad_output, or 64 channels of the image as one tap reads it. wgmma
// takes such lines as columns for half types only. The depth is cut into parts, whose sums are added in order
// (cuda/conv2d/parts.h).
#include "cuda/conv2d/parts.h"
#include "cuda/conv2d/wgmma.cuh"
#include "cuda/gemm/wgmma_gemm.cuh"

namespace tmc {
namespace {

constexpr int kBlockColumns = 64, kStagePixels = 64;
template <class Block>
constexpr int kBlocks = Block::kColumns / kBlockColumns;

struct GradWeightExtents {
  int filters, group_c, c_blocks, blocks;          // of one group; c_blocks of one tap
  int row_tiles, column_tiles, parts, part_steps;  // row_tiles of all groups
  int steps;                                       // of the whole depth
  int tile_rows, tile_columns;
};

template <class T, class Block_>
struct WgmmaGradWeight : GradWeightExtents {
  using scalar_t = T;
  using Block = Block_;
  static constexpr bool kDepthOuter = true;

  TensorMap grad_output, image;
  float* result;  // [parts, k, r, s, c]
  MmaConv2d conv;
  int tiles;

  struct Tile {
    int row, block, part;

    __device__ Tile(const WgmmaGradWeight& product, int index) {
      const int columns = index / product.row_tiles;
      row = (index - columns * product.row_tiles) * Block::kRows;
      part = columns / product.column_tiles;
      block = (columns - part * product.column_tiles) * kBlocks<Block>;
    }
    __device__ int steps(const WgmmaGradWeight& product) const {
      const int rest = product.steps - part * product.part_steps;
      return rest < product.part_steps ? rest : product.part_steps;
    }
  };

  struct Copier {
    int pixel, blocks;
    int channel[kBlocks<Block>], shift_h[kBlocks<Block>], shift_w[kBlocks<Block>];

    __device__ Copier(const WgmmaGradWeight& product, const Tile& tile) {
      const MmaConv2d& conv = product.conv;
      pixel = tile.part * product.part_steps * kStagePixels;
      blocks = product.blocks - tile.block < kBlocks<Block> ? product.blocks - tile.block : kBlocks<Block>;
#pragma unroll
      for (int i = 0; i < kBlocks<Block>; ++i) {
        const int tap = (tile.block + i) / product.c_blocks, r = tap / conv.s;
        channel[i] =
            tile.row / product.filters * conv.group_c + (tile.block + i - tap * product.c_blocks) * kBlockColumns;
        shift_h[i] = r * conv.dilation_h, shift_w[i] = (tap - r * conv.s) * conv.dilation_w;
      }
    }

    __device__ void copy(const WgmmaGradWeight& product, const Tile& tile, char* rows, char* columns, Barrier& full) {
      const MmaConv2d& conv = product.conv;
      const int line = pixel / conv.q, n = line / conv.p;
      const int h = (line - n * conv.p) * conv.stride_h - conv.pad_top;
      const int w = (pixel - line * conv.q) * conv.stride_w - conv.pad_left;
      arrive_expecting(full, (Block::kRows / kGroupRows + blocks) * kGroupTileBytes);
#pragma unroll
      for (int i = 0; i < Block::kRows / kGroupRows; ++i)
        copy_lines(rows + i * kGroupTileBytes, product.grad_output, full, tile.row + i * kGroupRows, 0, pixel);
#pragma unroll
      for (int i = 0; i < kBlocks<Block>; ++i)
        if (i < blocks)
          copy_pixels(columns + i * kGroupTileBytes, product.image, full, channel[i], w, h, n, shift_w[i], shift_h[i]);
      pixel += kStagePixels;
    }
  };

  // Pairs of channels, straight from the registers: four lanes fill a sector of 32 bytes.
  __device__ void store(const Tile& tile, int group, const WgmmaSums<Block>& sums, char*) const {
    struct alignas(8) Pair {
      float first, second;
    };
    const int thread = threadIdx.x % kWarpgroupThreads, lane = thread % kWarpThreads;
    const int row = tile.row + first_row<Block>(group) + thread / kWarpThreads * 16 + lane / 4;
    const int64_t line = int64_t{conv.r} * conv.s * group_c;
    float* const result_row = result + (int64_t{tile.part} * conv.k + row) * line;
    const int first = tile.block + first_column<Block>(group) / kBlockColumns;
#pragma unroll
    for (int i = 0; i < Block::kGroupColumns / kBlockColumns; ++i) {
      const int tap = (first + i) / c_blocks, begin = (first + i - tap * c_blocks) * kBlockColumns;
#pragma unroll
      for (int j = 0; j < kBlockColumns / 8; ++j) {
        const int c = begin + j * 8 + lane % 4 * 2, sum = (i * (kBlockColumns / 8) + j) * 4;
        if (first + i >= blocks || c >= group_c) continue;
        float* const at = result_row + tap * group_c + c;
#pragma unroll
        for (int rows = 0; rows < Block::kRowTiles; ++rows) {
          const float* const of = sums[rows] + sum;
          *reinterpret_cast<Pair*>(at + rows * kGroupRows * line) = {of[0], of[1]};
          *reinterpret_cast<Pair*>(at + (rows * kGroupRows + 8) * line) = {of[2], of[3]};
        }
      }
    }
  }
};

GradWeightExtents extents_of(const Conv2dShape& shape) {
  GradWeightExtents extents;
  extents.filters = static_cast<int>(filters_per_group(shape));
  extents.group_c = static_cast<int>(channels_per_group(shape));
  extents.c_blocks = static_cast<int>(ceil_div(extents.group_c, kBlockColumns));
  extents.blocks = static_cast<int>(shape.r * shape.s) * extents.c_blocks;
  extents.tile_rows = extents.filters % 192 == 0 ? 192 : extents.filters % 128 == 0 ? 128 : 64;
  extents.tile_columns = extents.tile_rows == 64 ? 128 : 256;
  extents.row_tiles = static_cast<int>(shape.k) / extents.tile_rows;
  extents.column_tiles = static_cast<int>(ceil_div(extents.blocks, extents.tile_columns / kBlockColumns));
  const int64_t pixels = shape.n * shape.p * shape.q, tiles = int64_t{extents.row_tiles} * extents.column_tiles;
  extents.steps = static_cast<int>(ceil_div(pixels, kStagePixels));
  const DepthParts parts = cut_depth(pixels, kStagePixels, tiles);
  extents.parts = parts.count, extents.part_steps = parts.depth / kStagePixels;
  return extents;
}

template <class T, class Block>
void launch_block(const GradWeightExtents& extents, const Conv2dShape& shape, const void* grad_output,
                  const void* image, void* workspace, void* stream) {
  WgmmaGradWeight<T, Block> product;
  static_cast<GradWeightExtents&>(product) = extents;
  const MmaConv2d conv = mma_conv2d(shape, 1);
  product.grad_output = line_map<T>({grad_output, conv.k, 1, shape.n * conv.p * conv.q}, kStagePixels);
  product.image = pixel_map<T>({image, conv.c, conv.w, conv.h, shape.n, conv.p, conv.q, -conv.pad_top, -conv.pad_left,
                                conv.stride_h, conv.stride_w},
                               kStagePixels);
  product.result = static_cast<float*>(workspace), product.conv = conv;
  product.tiles = extents.row_tiles * extents.column_tiles * extents.parts;
  launch_wgmma_gemm(product, stream);
}

}  // namespace

int64_t grad_weight_wgmma_workspace(const Conv2dShape& packed) {
  const int64_t weight = packed.k * packed.r * packed.s * channels_per_group(packed);
  return extents_of(packed).parts * weight * int64_t{sizeof(float)};
}

void launch_grad_weight_wgmma(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool weight_last,
                              const void* grad_output, const void* image, void* workspace, void* grad_weight,
                              void* stream) {
  const GradWeightExtents extents = extents_of(plan.shape);
  dispatch_mma(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) {
      const auto launch_rows = extents.tile_rows == 192   ? launch_block<T, WgmmaTall>
                               : extents.tile_rows == 128 ? launch_block<T, WgmmaWide>
                                                          : launch_block<T, WgmmaSmall>;
      if (shape.n > 0) launch_rows(extents, plan.shape, grad_output, image, workspace, stream);
      sum_weight_parts(dtype, shape, plan, weight_last, 1, static_cast<const float*>(workspace),
                       shape.n > 0 ? extents.parts : 0, grad_weight, stream);
    }
  });
}

}  // namespace tmc
