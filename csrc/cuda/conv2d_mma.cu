// Convolution and its gradient by the input on tensor cores (eq. 1 and 5): what the rows, columns and depth of
// mma_gemm.cuh are. conv2d_grad_input is a convolution of grad_output with flipped weights (conv2d_pack.h).
//
//                        rows                columns            depth
//   conv2d               pixels n, p, q      filters k          r, s, c      of a group
//   conv2d_grad_input    pixels n, h, w      channels c         r, s, k
//
// Where channels fill tiles of the depth, a tile's channels run through all taps (r, s) before the next ones: windows
// overlap, so the taps read the same lines of the image over and over, and read so they come from L1 all but the first
// time. Otherwise the depth runs as it lies in memory, the channels fastest.
#include "conv2d_mma.cuh"
#include "conv2d_pack.h"
#include "conv2d_wgmma.cuh"
#include "mma_gemm.cuh"

namespace tmc {
namespace {

template <class T, bool kSplit_, class Block_>
struct WindowProduct : MmaExtents {
  using scalar_t = T;
  using result_t = T;
  using Block = Block_;
  static constexpr bool kSplit = kSplit_;
  using ImageTile = DepthInnerTile<T, Block::kRows>;
  using MatrixTile = DepthInnerTile<T, Block::kColumns>;

  const Chunk *image, *matrix;
  const T* bias;
  T* result;
  MmaConv2d conv;
  Lattice lattice;
  bool taps_first;

  // The depth of a thread's chunk, as coordinates r, s, c that are counted up, and the windows of the rows it copies:
  // h, w and address of the first tap. Rows and depths behind the end are windows and taps outside the image.
  struct ImageCopier {
    using Shared = Share<ImageTile, Block>;
    static constexpr int kOutside = 1 << 29;
    static_assert(Shared::kPlaceStep == Block::kThreads);  // no thread is left over
    int r, s, c;
    int h[Shared::kCount], w[Shared::kCount];
    const Chunk* from[Shared::kCount];

    __device__ ImageCopier(const WindowProduct& product, const MmaTile& tile) {
      const MmaConv2d& conv = product.conv;
      const int tap = Shared::chunk() / conv.group_c;
      c = Shared::chunk() - tap * conv.group_c, r = tap / conv.s, s = tap - r * conv.s;
#pragma unroll
      for (int i = 0; i < Shared::kCount; ++i) {
        const int row = tile.row + Shared::line() + i * Shared::kStep;
        const int line = row / conv.q, n = line / conv.p, p = line - n * conv.p, q = row - line * conv.q;
        h[i] = p * conv.stride_h - conv.pad_top, w[i] = q * conv.stride_w - conv.pad_left;
        from[i] = product.image + ((int64_t{n} * conv.h + h[i]) * conv.w + w[i]) * conv.c + tile.group * conv.group_c;
        if (row >= product.rows) h[i] = kOutside;
      }
    }

    __device__ void copy(const WindowProduct& product, const MmaTile&, Chunk* chunks) {
      const MmaConv2d& conv = product.conv;
      const unsigned dh = r * conv.dilation_h, dw = s * conv.dilation_w;
      const int tap = (dh * conv.w + dw) * conv.c + c;  // wraps only where it is not used
      const unsigned rows_end = r < conv.r ? conv.h : 0, columns_end = conv.w;
#pragma unroll
      for (int i = 0; i < Shared::kCount; ++i)
        copy_async_through_cache(chunks + Shared::place() + i * Shared::kPlaceStep, from[i] + tap,
                                 h[i] + dh < rows_end && w[i] + dw < columns_end);
      if (product.taps_first) {
        if (++s == conv.s) s = 0, ++r;
        if (r == conv.r) r = 0, c += kTileDepthChunks;
      } else {
        for (c += kTileDepthChunks; c >= conv.group_c; c -= conv.group_c)
          if (++s == conv.s) s = 0, ++r;
      }
    }
  };

  struct MatrixCopier {
    MatrixLines<MatrixTile, Block> lines;

    __device__ MatrixCopier(const WindowProduct& product, const MmaTile& tile)
        : lines(product.matrix + int64_t{tile.group} * product.columns * product.depth_chunks(), product.depth_chunks(),
                tile.column + Share<MatrixTile, Block>::line(), Share<MatrixTile, Block>::chunk()) {}

    __device__ void copy(const WindowProduct& product, const MmaTile&, Chunk* chunks) {
      lines.copy(product.depth_chunks(), product.columns, product.depth_chunks(), chunks);
      lines.chunk += product.taps_first ? product.conv.group_c : kTileDepthChunks;
      if (product.taps_first && lines.chunk >= product.depth_chunks())
        lines.chunk -= product.depth_chunks() - kTileDepthChunks;
    }
  };

  __device__ int depth_chunks() const { return conv.r * conv.s * conv.group_c; }

  __device__ T* result_at(const MmaTile& tile, int row) const {
    int64_t pixel = tile.row + row;
    if (lattice.step_h * lattice.step_w > 1) {
      const int line = (tile.row + row) / conv.q, n = line / conv.p, p = line - n * conv.p;
      const int q = tile.row + row - line * conv.q;
      pixel = (int64_t{n} * lattice.h + lattice.first_h + p * lattice.step_h) * lattice.w + lattice.first_w +
              q * lattice.step_w;
    }
    return result + pixel * conv.k + tile.group * columns + tile.column;
  }
  __device__ const T* bias_at(const MmaTile& tile) const {
    return bias == nullptr ? nullptr : bias + tile.group * columns + tile.column;
  }
};

template <class Product>
void launch_product(const MmaExtents& extents, const MmaConv2d& conv, const Lattice& lattice,
                    const WindowOperands& operands, void* stream) {
  using T = typename Product::scalar_t;
  Product product;
  static_cast<MmaExtents&>(product) = extents;
  product.image = static_cast<const Chunk*>(operands.image),
  product.matrix = static_cast<const Chunk*>(operands.matrix);
  product.bias = static_cast<const T*>(operands.bias), product.result = static_cast<T*>(operands.result);
  product.conv = conv, product.lattice = lattice;
  product.taps_first = conv.group_c % kTileDepthChunks == 0;
  launch_mma_gemm(product, stream);
}

// conv.k results of `samples` images.
void launch_windows(Dtype dtype, const Conv2dPlan& plan, int64_t samples, const MmaConv2d& conv, const Lattice& lattice,
                    WindowOperands operands, void* stream) {
  MmaExtents extents;
  extents.groups = conv.groups, extents.columns = conv.k / conv.groups, extents.parts = 1;
  extents.depth = extents.part_depth = conv.r * conv.s * conv.group_c * static_cast<int>(chunk_elements(dtype));
  const int64_t pixels = int64_t{conv.p} * conv.q, most = std::max<int64_t>(kMaxLaunchResults / (pixels * conv.k), 1);
  const int64_t image_sample = int64_t{conv.c} * conv.h * conv.w * int64_t{sizeof(Chunk)};
  const int64_t result_sample = int64_t{conv.k} * lattice.h * lattice.w * element_bytes(dtype);
  for (int64_t done = 0; done < samples; done += most) {
    const int64_t now = std::min(most, samples - done);
    extents.rows = static_cast<int>(now * pixels);
    WindowOperands of = operands;
    of.image = static_cast<const char*>(operands.image) + done * image_sample;
    of.result = static_cast<char*>(operands.result) + done * result_sample;
    if (plan.wgmma) {
      launch_windows_wgmma(dtype, static_cast<int>(now), conv, lattice, of, stream);
      continue;
    }
    dispatch_mma(dtype, [&](auto type) {
      using T = decltype(type);
      if constexpr (sizeof(T) == 4) {
        if (plan.strict) return launch_product<WindowProduct<T, true, StrictBlock>>(extents, conv, lattice, of, stream);
      }
      dispatch_block<WideBlock, LongBlock, TallBlock>(extents, [&](auto block) {
        launch_product<WindowProduct<T, false, decltype(block)>>(extents, conv, lattice, of, stream);
      });
    });
  }
}

}  // namespace

int64_t conv2d_mma_workspace(Dtype dtype, const Conv2dPlan& plan) {
  if (!plan.packing.needed) return 0;
  return workspace_bytes(image_bytes(dtype, plan.shape)) + workspace_bytes(weight_bytes(dtype, plan.shape));
}

void launch_conv2d_mma(Dtype dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last,
                       const void* input, const void* weight, const void* bias, void* workspace, void* output,
                       void* stream) {
  WindowOperands operands = {input, weight, bias, output};
  if (plan.packing.needed) {
    void* const packed_weight = static_cast<char*>(workspace) + workspace_bytes(image_bytes(dtype, plan.shape));
    pack_image(dtype, shape, plan, channels_last, input, workspace, stream);
    pack_weight(dtype, shape, plan, channels_last, weight, packed_weight, stream);
    operands.image = workspace, operands.matrix = packed_weight;
  }
  const MmaConv2d conv = mma_conv2d(plan.shape, chunk_elements(dtype));
  launch_windows(dtype, plan, shape.n, conv, {conv.p, conv.q, 0, 0, 1, 1}, operands, stream);
}

int64_t conv2d_grad_input_mma_workspace(Dtype dtype, const Conv2dPlan& plan) {
  return workspace_bytes(weight_bytes(dtype, plan.shape));
}

void launch_conv2d_grad_input_mma(Dtype dtype, const Conv2dPlan& plan, const void* grad_output, const void* weight,
                                  void* workspace, void* grad_input, void* stream) {
  const Conv2dShape& shape = plan.shape;
  flip_weight(dtype, shape, weight, workspace, stream);
  for (int64_t f = 0; f < shape.stride_h; ++f)
    for (int64_t g = 0; g < shape.stride_w; ++g) {
      const Residue along_h = residue_of(f, shape.h, shape.pad_top, shape.r, shape.stride_h, shape.dilation_h);
      const Residue along_w = residue_of(g, shape.w, shape.pad_left, shape.s, shape.stride_w, shape.dilation_w);
      if (along_h.count == 0 || along_w.count == 0) continue;
      MmaConv2d conv = mma_conv2d(shape, chunk_elements(dtype));
      conv.c = static_cast<int>(shape.k / chunk_elements(dtype)), conv.group_c = conv.c / conv.groups;
      conv.h = static_cast<int>(shape.p), conv.w = static_cast<int>(shape.q), conv.k = static_cast<int>(shape.c);
      conv.p = along_h.count, conv.q = along_w.count;
      conv.r = along_w.taps == 0 ? 0 : along_h.taps, conv.s = std::max(along_w.taps, 1);
      conv.stride_h = conv.stride_w = 1;
      conv.pad_top = along_h.pad, conv.pad_left = along_w.pad;
      const Lattice lattice = {
          static_cast<int>(shape.h),        static_cast<int>(shape.w),       along_h.first, along_w.first,
          static_cast<int>(shape.stride_h), static_cast<int>(shape.stride_w)};
      const int64_t begin = taps_before_residue(shape, f, g) * shape.c * filters_per_group(shape);
      const void* const flipped = static_cast<const char*>(workspace) + begin * element_bytes(dtype);
      launch_windows(dtype, plan, shape.n, conv, lattice, {grad_output, flipped, nullptr, grad_input}, stream);
    }
}

}  // namespace tmc
