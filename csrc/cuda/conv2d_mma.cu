// Convolution and its gradient by the input on tensor cores (eq. 1 and 5): what the rows, columns and depth of
// mma_gemm.cuh are. conv2d_grad_input is a convolution of grad_output with flipped weights (conv2d_pack.h).
//
//                        rows                columns            depth
//   conv2d               pixels n, p, q      filters k          r, s, c      of a group; the last one fastest, as it is
//   conv2d_grad_input    pixels n, h, w      channels c         r, s, k      in memory
#include "conv2d_mma.cuh"
#include "conv2d_pack.h"
#include "mma_gemm.cuh"

namespace tmc {
namespace {

// Where the rows' pixels p, q stand in the result: at first + step * p, likewise q. conv2d_grad_input with a stride
// writes every stride-th pixel.
struct Lattice {
  int h, w, first_h, first_w, step_h, step_w;
};

template <class T, bool kSplit_, class Block_>
struct WindowProduct : MmaExtents {
  using scalar_t = T;
  using result_t = T;
  using Block = Block_;
  static constexpr bool kSplit = kSplit_;
  using ImageTile = DepthInnerTile<T, Block::kRows>;
  using MatrixTile = DepthInnerTile<T, Block::kColumns>;

  const T *image, *matrix, *bias;
  T* result;
  MmaConv2d conv;
  Lattice lattice;

  // The depth of a thread's chunk, as coordinates r, s, c that are counted up, and the windows of the rows it copies:
  // h, w of the first tap and its address. Rows and depths behind the end are windows and taps outside the image.
  struct ImageCopier {
    using Shared = Share<ImageTile, Block>;
    static constexpr int kOutside = 1 << 29;
    int r, s, c;
    int h[Shared::kCount], w[Shared::kCount];
    int64_t at[Shared::kCount];

    __device__ ImageCopier(const WindowProduct& product, const MmaTile& tile) {
      const MmaConv2d& conv = product.conv;
      const int depth = Shared::chunk() * kChunkElements<T>, tap = depth / conv.group_c;
      c = depth - tap * conv.group_c, r = tap / conv.s, s = tap - r * conv.s;
#pragma unroll
      for (int i = 0; i < Shared::kCount; ++i) {
        const int row = tile.row + Shared::line(i);
        const int line = row / conv.q, n = line / conv.p, p = line - n * conv.p, q = row - line * conv.q;
        h[i] = row < product.rows ? p * conv.stride_h - conv.pad_top : kOutside;
        w[i] = q * conv.stride_w - conv.pad_left;
        at[i] = ((int64_t{n} * conv.h + h[i]) * conv.w + w[i]) * conv.c + tile.group * conv.group_c;
      }
    }

    __device__ void copy(const WindowProduct& product, const MmaTile&, Chunk* chunks) {
      const MmaConv2d& conv = product.conv;
      const int dh = r * conv.dilation_h, dw = s * conv.dilation_w;
      const int64_t tap = (int64_t{dh} * conv.w + dw) * conv.c + c;
#pragma unroll
      for (int i = 0; i < Shared::kCount; ++i) {
        const bool valid = r < conv.r && static_cast<unsigned>(h[i] + dh) < static_cast<unsigned>(conv.h) &&
                           static_cast<unsigned>(w[i] + dw) < static_cast<unsigned>(conv.w);
        copy_async(chunks + ImageTile::chunk_at(Shared::line(i), Shared::chunk()),
                   valid ? product.image + at[i] + tap : product.image, valid);
      }
      for (c += kTileDepthElements<T>; c >= conv.group_c; c -= conv.group_c)
        if (++s == conv.s) s = 0, ++r;
    }
  };

  struct MatrixCopier {
    using Shared = Share<MatrixTile, Block>;
    PlainCopier<MatrixTile, Block> plain;

    __device__ MatrixCopier(const WindowProduct&, const MmaTile& tile)
        : plain{tile.column + Shared::line(0), Shared::chunk() * kChunkElements<T>} {}

    __device__ void copy(const WindowProduct& product, const MmaTile& tile, Chunk* chunks) {
      const T* const group = product.matrix + int64_t{tile.group} * product.columns * product.depth;
      plain.copy(group, product.depth, product.columns, product.depth, chunks);
      plain.place += kTileDepthElements<T>;
    }
  };

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

struct Operands {
  const void *image, *matrix, *bias;
  void* result;
};

template <class Product>
void launch_product(const MmaExtents& extents, const MmaConv2d& conv, const Lattice& lattice, const Operands& operands,
                    void* stream) {
  using T = typename Product::scalar_t;
  Product product;
  static_cast<MmaExtents&>(product) = extents;
  product.image = static_cast<const T*>(operands.image), product.matrix = static_cast<const T*>(operands.matrix);
  product.bias = static_cast<const T*>(operands.bias), product.result = static_cast<T*>(operands.result);
  product.conv = conv, product.lattice = lattice;
  launch_mma_gemm(product, stream);
}

// conv.k results of `samples` images.
void launch_windows(Dtype dtype, bool strict, int64_t samples, const MmaConv2d& conv, const Lattice& lattice,
                    Operands operands, void* stream) {
  MmaExtents extents;
  extents.groups = conv.c / conv.group_c, extents.columns = conv.k / extents.groups;
  extents.depth = extents.part_depth = conv.r * conv.s * conv.group_c, extents.parts = 1;
  const int64_t pixels = int64_t{conv.p} * conv.q, most = std::max<int64_t>(kMaxLaunchResults / (pixels * conv.k), 1);
  const int64_t image_sample = int64_t{conv.c} * conv.h * conv.w * element_bytes(dtype);
  const int64_t result_sample = int64_t{conv.k} * lattice.h * lattice.w * element_bytes(dtype);
  for (int64_t done = 0; done < samples; done += most) {
    extents.rows = static_cast<int>(std::min(most, samples - done) * pixels);
    Operands of = operands;
    of.image = static_cast<const char*>(operands.image) + done * image_sample;
    of.result = static_cast<char*>(operands.result) + done * result_sample;
    dispatch_mma(dtype, [&](auto type) {
      using T = decltype(type);
      const auto launch_split = [&](auto split) {
        const auto launch = wants_wide_block(extents) ? launch_product<WindowProduct<T, split, WideBlock<split>>>
                                                      : launch_product<WindowProduct<T, split, NarrowBlock<split>>>;
        launch(extents, conv, lattice, of, stream);
      };
      if constexpr (sizeof(T) == 4) {
        if (strict) return launch_split(std::true_type{});
      }
      launch_split(std::false_type{});
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
  Operands operands = {input, weight, bias, output};
  if (plan.packing.needed) {
    void* const packed_weight = static_cast<char*>(workspace) + workspace_bytes(image_bytes(dtype, plan.shape));
    pack_image(dtype, shape, plan, channels_last, input, workspace, stream);
    pack_weight(dtype, shape, plan, channels_last, weight, packed_weight, stream);
    operands.image = workspace, operands.matrix = packed_weight;
  }
  const MmaConv2d conv = mma_conv2d(plan.shape);
  launch_windows(dtype, plan.strict, shape.n, conv, {conv.p, conv.q, 0, 0, 1, 1}, operands, stream);
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
      MmaConv2d conv = mma_conv2d(shape);
      conv.c = static_cast<int>(shape.k), conv.h = static_cast<int>(shape.p), conv.w = static_cast<int>(shape.q);
      conv.group_c = static_cast<int>(filters_per_group(shape)), conv.k = static_cast<int>(shape.c);
      conv.p = along_h.count, conv.q = along_w.count;
      conv.r = along_w.taps == 0 ? 0 : along_h.taps, conv.s = std::max(along_w.taps, 1);
      conv.stride_h = conv.stride_w = 1;
      conv.pad_top = along_h.pad, conv.pad_left = along_w.pad;
      const Lattice lattice = {
          static_cast<int>(shape.h),        static_cast<int>(shape.w),       along_h.first, along_w.first,
          static_cast<int>(shape.stride_h), static_cast<int>(shape.stride_w)};
      const int64_t begin = taps_before_residue(shape, f, g) * shape.c * filters_per_group(shape);
      const void* const flipped = static_cast<const char*>(workspace) + begin * element_bytes(dtype);
      launch_windows(dtype, plan.strict, shape.n, conv, lattice, {grad_output, flipped, nullptr, grad_input}, stream);
    }
}

}  // namespace tmc
