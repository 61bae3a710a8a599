// The gradient by the weight on tensor cores, eq. 3: what the rows, columns and depth of cuda/gemm/mma_gemm.cuh are.
//
//   rows       taps and channels r, s, c         chunks of a line of the image tile
//   columns    filters k of a group              chunks of a line of the matrix tile
//   depth      output pixels n, p, q             a line of either tile
//
// The depth is cut into parts, whose sums are added in order (cuda/conv2d/parts.h).
#include "cuda/conv2d/mma.cuh"
#include "cuda/conv2d/pack.h"
#include "cuda/conv2d/parts.h"
#include "cuda/conv2d/wgmma.cuh"
#include "cuda/gemm/mma_gemm.cuh"

namespace tmc {
namespace {

template <class T, bool kSplit_, class Block_>
struct GradWeightProduct : MmaExtents {
  using scalar_t = T;
  using result_t = float;
  using Block = Block_;
  static constexpr bool kSplit = kSplit_;
  using ImageTile = DepthOuterTile<T, Block::kRows>;
  using MatrixTile = DepthOuterTile<T, Block::kColumns>;

  const Chunk *image, *matrix;
  float* result;  // [parts, groups, rows, columns]
  MmaConv2d conv;
  int step_n, step_p, step_q;  // a tile's depth, as pixels: what is added to n, p and q from one tile to the next

  // The tap and the channels of a thread's chunk; the pixels it copies, as coordinates that are counted up.
  struct ImageCopier {
    using Shared = CopyShare<ImageTile, Block>;
    static_assert(Shared::kPlaceStep == Block::kThreads);  // no thread is left over
    int dh, dw;      // from p * stride_h and q * stride_w to the place in the image
    int pixels_end;  // seen from the first line; no pixel counts where the chunk is outside the rows
    int p[Shared::kCount], q[Shared::kCount];
    const Chunk* from[Shared::kCount];  // the channel, in the first pixel of the sample

    __device__ ImageCopier(const GradWeightProduct& product, const MmaTile& tile) {
      const MmaConv2d& conv = product.conv;
      const int row = tile.row / kChunkElements<T> + Shared::chunk(), tap = row / conv.group_c;
      const int c = row - tap * conv.group_c, r = tap / conv.s, s = tap - r * conv.s;
      dh = r * conv.dilation_h - conv.pad_top, dw = s * conv.dilation_w - conv.pad_left;
      const int pixel = tile.depth_begin + Shared::line();
      pixels_end = r < conv.r ? tile.depth_end - pixel : 0;
#pragma unroll
      for (int i = 0; i < Shared::kCount; ++i) {
        const int index = pixel + i * Shared::kStep, line = index / conv.q, n = line / conv.p;
        p[i] = line - n * conv.p, q[i] = index - line * conv.q;
        from[i] = product.image + int64_t{n} * conv.h * conv.w * conv.c + tile.group * conv.group_c + c;
      }
    }

    __device__ void copy(const GradWeightProduct& product, const MmaTile&, Chunk* chunks) {
      const MmaConv2d& conv = product.conv;
      const unsigned rows_end = conv.h, columns_end = conv.w;
      const int sample = conv.h * conv.w * conv.c;
#pragma unroll
      for (int i = 0; i < Shared::kCount; ++i) {
        const unsigned h = p[i] * conv.stride_h + dh, w = q[i] * conv.stride_w + dw;
        copy_async_through_cache(chunks + Shared::place() + i * Shared::kPlaceStep,
                                 from[i] + static_cast<int>((h * columns_end + w) * conv.c),
                                 i * Shared::kStep < pixels_end && h < rows_end && w < columns_end);
        q[i] += product.step_q, p[i] += product.step_p, from[i] += int64_t{product.step_n} * sample;
        if (q[i] >= conv.q) q[i] -= conv.q, ++p[i];
        if (p[i] >= conv.p) p[i] -= conv.p, from[i] += sample;
      }
      pixels_end -= kTileDepthElements<T>;
    }
  };

  struct MatrixCopier {
    MatrixLines<MatrixTile, Block> lines;

    __device__ MatrixCopier(const GradWeightProduct& product, const MmaTile& tile)
        : lines(product.matrix + tile.group * product.group_chunks(), product.pixel_chunks(),
                tile.depth_begin + CopyShare<MatrixTile, Block>::line(),
                tile.column / kChunkElements<T> + CopyShare<MatrixTile, Block>::chunk()) {}

    __device__ void copy(const GradWeightProduct& product, const MmaTile& tile, Chunk* chunks) {
      lines.copy(product.pixel_chunks(), tile.depth_end, product.group_chunks(), chunks);
      lines.line += kTileDepthElements<T>, lines.from += int64_t{kTileDepthElements<T>} * product.pixel_chunks();
    }
  };

  // Of grad_output: chunks of a pixel, and of its channels of one group.
  __device__ int pixel_chunks() const { return conv.k / kChunkElements<T>; }
  __device__ int group_chunks() const { return columns / kChunkElements<T>; }

  __device__ float* result_at(const MmaTile& tile, int row) const {
    const int64_t line = (int64_t{tile.part} * groups + tile.group) * rows + tile.row + row;
    return result + line * columns + tile.column;
  }
  __device__ const T* bias_at(const MmaTile&) const { return nullptr; }
};

MmaExtents extents_of(const Conv2dPlan& plan) {
  const Conv2dShape& shape = plan.shape;
  MmaExtents extents;
  extents.groups = static_cast<int>(shape.groups);
  extents.rows = static_cast<int>(shape.r * shape.s * channels_per_group(shape));
  extents.columns = static_cast<int>(filters_per_group(shape));
  extents.depth = static_cast<int>(shape.n * shape.p * shape.q);
  int64_t tiles = tiles_of<MmaStrict>(extents);
  if (!plan.strict)
    dispatch_grad_weight_block(extents, [&](auto block) { tiles = tiles_of<decltype(block)>(extents); });
  const DepthParts parts = cut_depth(extents.depth, kTileDepthElements<bfloat16>, tiles);  // of a float tile's, too
  extents.parts = parts.count, extents.part_depth = parts.depth;
  return extents;
}

int64_t parts_bytes(const MmaExtents& extents) {
  return int64_t{extents.parts} * extents.groups * extents.rows * extents.columns * int64_t{sizeof(float)};
}

template <class Product>
void launch_product(const MmaExtents& extents, const Conv2dShape& shape, const void* image, const void* grad_output,
                    void* workspace, void* stream) {
  using T = typename Product::scalar_t;
  Product product;
  static_cast<MmaExtents&>(product) = extents;
  product.image = static_cast<const Chunk*>(image), product.matrix = static_cast<const Chunk*>(grad_output);
  product.result = static_cast<float*>(workspace);
  product.conv = mma_conv2d(shape, kChunkElements<T>);
  const int64_t depth = kTileDepthElements<T>, lines = depth / shape.q, samples = lines / shape.p;
  product.step_q = static_cast<int>(depth - lines * shape.q);
  product.step_p = static_cast<int>(lines - samples * shape.p);
  product.step_n = static_cast<int>(samples);
  launch_mma_gemm(product, stream);
}

int64_t parts_workspace(const Conv2dPlan& plan) {
  return workspace_bytes(plan.wgmma ? grad_weight_wgmma_workspace(plan.shape) : parts_bytes(extents_of(plan)));
}

}  // namespace

int64_t conv2d_grad_weight_mma_workspace(DType dtype, const Conv2dPlan& plan) {
  const int64_t packed = plan.packing.needed ? workspace_bytes(image_bytes(dtype, plan.shape)) : 0;
  return packed + parts_workspace(plan);
}

void launch_conv2d_grad_weight_mma(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last,
                                   bool weight_last, const void* grad_output, const void* input, void* workspace,
                                   void* grad_weight, void* stream) {
  if (plan.packing.needed) {
    void* const packed = static_cast<char*>(workspace) + parts_workspace(plan);
    pack_image(dtype, shape, plan, channels_last, input, packed, stream);
    input = packed;
  }
  if (plan.wgmma)
    return launch_grad_weight_wgmma(dtype, shape, plan, weight_last, grad_output, input, workspace, grad_weight,
                                    stream);
  const MmaExtents extents = extents_of(plan);
  dispatch_mma(dtype, [&](auto type) {
    using T = decltype(type);
    if (plan.strict) {
      if constexpr (sizeof(T) == 4)
        launch_product<GradWeightProduct<T, true, MmaStrict>>(extents, plan.shape, input, grad_output, workspace,
                                                              stream);
    } else {
      dispatch_grad_weight_block(extents, [&](auto block) {
        launch_product<GradWeightProduct<T, false, decltype(block)>>(extents, plan.shape, input, grad_output, workspace,
                                                                     stream);
      });
    }
  });
  sum_weight_parts(dtype, shape, plan, weight_last, filters_per_group(shape), static_cast<const float*>(workspace),
                   extents.parts, grad_weight, stream);
}

}  // namespace tmc
