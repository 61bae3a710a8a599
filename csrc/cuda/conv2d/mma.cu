// Convolution and its gradient by the input on tensor cores (eq. 1 and 5): what the rows, columns and depth of
// cuda/gemm/mma_gemm.cuh are. conv2d_grad_input is a convolution of grad_output with flipped weights
// (cuda/conv2d/pack.h).
//
//                        rows                columns            depth
//   conv2d               pixels n, p, q      filters k          r, s, c      of a group
//   conv2d_grad_input    pixels n, h, w      channels c         r, s, k
#include "cuda/conv2d/pack.h"
#include "cuda/conv2d/wgmma.cuh"
#include "cuda/conv2d/windows.cuh"

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

  using ImageCopier = WindowCopier<ImageTile, Block>;
  using MatrixCopier = FilterCopier<MatrixTile, Block>;

  __device__ MapPixel pixel_of(const MmaTile& tile, int tile_row) const {
    const int row = tile.row + tile_row, line = row / conv.q, n = line / conv.p;
    return {n, line - n * conv.p, row - line * conv.q, row < rows};
  }
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
  launch_mma_gemm(product, stream);
}

// conv.k results of `samples` images.
void launch_windows(DType dtype, const Conv2dPlan& plan, int64_t samples, const MmaConv2d& conv, const Lattice& lattice,
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
        if (plan.strict) return launch_product<WindowProduct<T, true, MmaStrict>>(extents, conv, lattice, of, stream);
      }
      dispatch_window_block(extents, [&](auto block) {
        launch_product<WindowProduct<T, false, decltype(block)>>(extents, conv, lattice, of, stream);
      });
    });
  }
}

}  // namespace

int64_t conv2d_mma_workspace(DType dtype, const Conv2dPlan& plan) {
  if (!plan.packing.needed) return 0;
  return workspace_bytes(image_bytes(dtype, plan.shape)) + workspace_bytes(weight_bytes(dtype, plan.shape));
}

void launch_conv2d_mma(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last,
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

int64_t conv2d_grad_input_mma_workspace(DType dtype, const Conv2dPlan& plan) {
  return workspace_bytes(weight_bytes(dtype, plan.shape));
}

void launch_conv2d_grad_input_mma(DType dtype, const Conv2dPlan& plan, const void* grad_output, const void* weight,
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
      conv.p = static_cast<int>(along_h.count), conv.q = static_cast<int>(along_w.count);
      conv.r = along_w.taps == 0 ? 0 : static_cast<int>(along_h.taps);
      conv.s = std::max(static_cast<int>(along_w.taps), 1);
      conv.stride_h = conv.stride_w = 1;
      conv.pad_top = static_cast<int>(padding_of(along_h)), conv.pad_left = static_cast<int>(padding_of(along_w));
      const Lattice lattice = {static_cast<int>(shape.h),        static_cast<int>(shape.w),
                               static_cast<int>(along_h.first),  static_cast<int>(along_w.first),
                               static_cast<int>(shape.stride_h), static_cast<int>(shape.stride_w)};
      const int64_t begin = taps_before_residue(shape, f, g) * shape.c * filters_per_group(shape);
      const void* const flipped = static_cast<const char*>(workspace) + begin * element_bytes(dtype);
      launch_windows(dtype, plan, shape.n, conv, lattice, {grad_output, flipped, nullptr, grad_input}, stream);
    }
}

}  // namespace tmc
