// The operands of a convolution as tiles of cuda/gemm/mma_gemm.cuh: windows of the image are rows, filters are columns.
//
// A Product has `image`, `matrix` and `conv`. pixel_of(tile, row) says which pixel of the result a row of a tile is.
//
// Where channels fill tiles of the depth, a tile's channels run through all taps (r, s) before the next channels come.
// Windows overlap, so the taps read the same lines of the image over and over; in this order all reads but the first
// hit L1. Otherwise the depth runs as it lies in memory, the channels fastest.
#pragma once
#include "cuda/conv2d/mma.cuh"
#include "cuda/gemm/mma_gemm.cuh"

namespace tmc {

__device__ inline bool taps_first(const MmaConv2d& conv) {
  return conv.group_c % kTileDepthChunks == 0;
}

struct MapPixel {
  int n, p, q;
  bool inside;  // of the result
};

// The depth of a thread's chunk, as coordinates r, s, c that are counted up, and the windows of the rows it copies:
// h, w and address of the first tap. Rows and depths behind the end are windows and taps outside the image.
template <class ImageTile, class Block>
struct WindowCopier {
  using Shared = CopyShare<ImageTile, Block>;
  static constexpr int kOutside = 1 << 29;
  static_assert(Shared::kPlaceStep == Block::kThreads);  // no thread is left over
  int r, s, c;
  int h[Shared::kCount], w[Shared::kCount];
  const Chunk* from[Shared::kCount];

  template <class Product, class Tile>
  __device__ WindowCopier(const Product& product, const Tile& tile) {
    const MmaConv2d& conv = product.conv;
    const int tap = Shared::chunk() / conv.group_c;
    c = Shared::chunk() - tap * conv.group_c, r = tap / conv.s, s = tap - r * conv.s;
#pragma unroll
    for (int i = 0; i < Shared::kCount; ++i) {
      const MapPixel pixel = product.pixel_of(tile, Shared::line() + i * Shared::kStep);
      h[i] = pixel.p * conv.stride_h - conv.pad_top, w[i] = pixel.q * conv.stride_w - conv.pad_left;
      from[i] =
          product.image + ((int64_t{pixel.n} * conv.h + h[i]) * conv.w + w[i]) * conv.c + tile.group * conv.group_c;
      if (!pixel.inside) h[i] = kOutside;
    }
  }

  template <class Product, class Tile>
  __device__ void copy(const Product& product, const Tile&, Chunk* chunks) {
    const MmaConv2d& conv = product.conv;
    const unsigned dh = r * conv.dilation_h, dw = s * conv.dilation_w;
    const int tap = (dh * conv.w + dw) * conv.c + c;  // wraps only where it is not used
    const unsigned rows_end = r < conv.r ? conv.h : 0, columns_end = conv.w;
#pragma unroll
    for (int i = 0; i < Shared::kCount; ++i)
      copy_async_through_cache(chunks + Shared::place() + i * Shared::kPlaceStep, from[i] + tap,
                               h[i] + dh < rows_end && w[i] + dw < columns_end);
    if (taps_first(conv)) {
      if (++s == conv.s) s = 0, ++r;
      if (r == conv.r) r = 0, c += kTileDepthChunks;
    } else {
      for (c += kTileDepthChunks; c >= conv.group_c; c -= conv.group_c)
        if (++s == conv.s) s = 0, ++r;
    }
  }
};

template <class MatrixTile, class Block>
struct FilterCopier {
  MatrixLines<MatrixTile, Block> lines;

  template <class Product, class Tile>
  __device__ FilterCopier(const Product& product, const Tile& tile)
      : lines(product.matrix + int64_t{tile.group} * product.columns * depth_chunks(product.conv),
              depth_chunks(product.conv), tile.column + CopyShare<MatrixTile, Block>::line(),
              CopyShare<MatrixTile, Block>::chunk()) {}

  template <class Product, class Tile>
  __device__ void copy(const Product& product, const Tile&, Chunk* chunks) {
    const int depth = depth_chunks(product.conv);
    lines.copy(depth, product.columns, depth, chunks);
    lines.chunk += taps_first(product.conv) ? product.conv.group_c : kTileDepthChunks;
    if (taps_first(product.conv) && lines.chunk >= depth) lines.chunk -= depth - kTileDepthChunks;
  }

  static __device__ int depth_chunks(const MmaConv2d& conv) { return conv.r * conv.s * conv.group_c; }
};

}  // namespace tmc
