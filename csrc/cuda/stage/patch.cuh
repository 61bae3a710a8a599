// A tile of the depth of cuda/stage/grad_weight.cu: how what it needs comes into shared memory.
//
// A tile is a rectangle of a map's pixels, 8 wide, since neighbouring pixels share taps of the image and windows of the
// pool. Strides of the pool divide it, so that every tile meets its windows in the same places: what a thread needs to
// know of them is known before the loop. What a tile needs is copied once, into a stage of the ring (StagePatch says
// where in it); what of it lies outside is zero:
//
//   image       the pixels under the windows of the tile, `pitch` chunks apart: eight neighbours of a row, which are
//               read at once, lie in eight different groups of banks, and for each tap they begin elsewhere
//   gradient    of the output, in the windows over the tile
//   activated   beside them (max), else the activated map in the pixels of the tile
//   winners     beside the gradient (max), a byte each
#pragma once
#include "cuda/conv2d/mma.cuh"
#include "cuda/elementwise/activation.cuh"
#include "cuda/gemm/mma_gemm.cuh"
#include "cuda/machine/divisor.h"
#include "cuda/machine/quotient.cuh"
#include "cuda/machine/vector.h"
#include "cuda/stage/plan.h"

namespace tmc {

// One axis of the pool: its windows over a tile begin at window tile * tile_windows + first.
struct TileWindows {
  int out, kernel, stride, pad, tile_windows, first;
};

// A chunk to copy, the same for every tile: `from` elements (the image: chunks) behind the first one, to chunk `to`.
struct alignas(8) Piece {
  int from;  // -1: it is outside of every tile
  uint16_t to;
  uint8_t row, column;
};

// A tile of a map: the image it is of, and which one it is.
struct MapTile {
  int n, row, column;
};

// Extents: rows are taps and channels r, s, c; columns are filters; the depth is counted in tiles of maps.
template <class T, bool kSplit_, bool kIsMax_, class Block_>
struct StageGradWeightProduct : MmaExtents {
  using scalar_t = T;
  using result_t = float;
  using Block = Block_;
  using MatrixTile = DepthOuterTile<T, Block::kColumns>;
  static constexpr bool kSplit = kSplit_, kIsMax = kIsMax_;
  static constexpr int kLanes = kChunkElements<T>, kColumnChunks = MatrixTile::kLineChunks;
  static constexpr int kTileHeight = MatrixTile::kLines / kMapTileWidth;
  static_assert(MatrixTile::kChunks == Block::kThreads);  // a thread rebuilds a chunk of each tile

  const Chunk* image;
  const T *grad_output, *activated;
  const uint8_t* winners;
  float *result, *bias_parts;  // [parts, groups, rows, columns]; [parts, k], or null
  MmaConv2d conv;
  TileWindows pool_h, pool_w;
  StagePatch patch;
  Divisor tiles_h, tiles_w, stages;  // of patch, to divide by
  Activation activation;
  int divisor;  // of an average

  __device__ MapTile map_tile(int index) const {
    const int line = index / tiles_w, n = line / tiles_h;
    return {n, line - n * tiles_h, index - line * tiles_w};
  }
  __device__ int channel(const MmaTile& tile) const { return tile.group * columns + tile.column; }
  __device__ int image_pieces() const { return patch.image_h * patch.image_w * conv.group_c; }
  __device__ int window_pieces() const { return patch.pooled_h * patch.pooled_w * kColumnChunks; }

  // The thread's chunk of the matrix tile: channels lane() to lane() + kLanes - 1 of pixel (row(), column()).
  static __device__ int chunk() { return threadIdx.x % kColumnChunks; }
  static __device__ int lane() { return chunk() * kLanes; }
  static __device__ int row() { return threadIdx.x / kColumnChunks / kMapTileWidth; }
  static __device__ int column() { return threadIdx.x / kColumnChunks % kMapTileWidth; }
  __device__ bool is_inside(const MmaTile& tile, const MapTile& at) const {
    return at.row * kTileHeight + row() < conv.p && at.column * kMapTileWidth + column() < conv.q &&
           tile.column + lane() < columns;
  }

  // Lists the pieces of the image, and behind them those of the windows. A thread lists what it will copy.
  __device__ void list_pieces(const MmaTile& tile, Piece* pieces) const {
    for (int e = threadIdx.x; e < image_pieces(); e += Block::kThreads) {
      const int place = e / conv.group_c, c = e - place * conv.group_c;
      const int i = place / patch.image_w, j = place - i * patch.image_w;
      pieces[e] = {(i * conv.w + j) * conv.c + c, static_cast<uint16_t>(place * patch.pitch + c),
                   static_cast<uint8_t>(i), static_cast<uint8_t>(j)};
    }
    for (int e = threadIdx.x; e < window_pieces(); e += Block::kThreads) {
      const int place = e / kColumnChunks, lane = e % kColumnChunks * kLanes;
      const int i = place / patch.pooled_w, j = place - i * patch.pooled_w;
      pieces[image_pieces() + e] = {tile.column + lane < columns ? (i * pool_w.out + j) * conv.k + lane : -1,
                                    static_cast<uint16_t>(e), static_cast<uint8_t>(i), static_cast<uint8_t>(j)};
    }
  }

  // Starts to copy what a tile needs.
  __device__ void copy(const MmaTile& tile, const MapTile& at, const Piece* pieces, Chunk* stage) const {
    copy_image(tile, at, pieces, stage);
    copy_windows(tile, at, pieces + image_pieces(), stage);
    if (kIsMax || activation == Activation::none) return;
    const int p = at.row * kTileHeight + row(), q = at.column * kMapTileWidth + column();
    const int64_t place = ((int64_t{at.n} * conv.p + p) * conv.q + q) * conv.k + channel(tile) + lane();
    copy_async_through_cache(stage + patch.activated_at + threadIdx.x, activated + place, is_inside(tile, at));
  }

  __device__ void copy_image(const MmaTile& tile, const MapTile& at, const Piece* pieces, Chunk* stage) const {
    const int top = at.row * kTileHeight * conv.stride_h - conv.pad_top;
    const int left = at.column * kMapTileWidth * conv.stride_w - conv.pad_left;
    const Chunk* const from =
        image + ((int64_t{at.n} * conv.h + top) * conv.w + left) * conv.c + tile.group * conv.group_c;
    const unsigned rows_end = conv.h, columns_end = conv.w;
#pragma unroll 1
    for (int e = threadIdx.x; e < image_pieces(); e += Block::kThreads) {
      const Piece piece = pieces[e];
      const unsigned h = top + piece.row, w = left + piece.column;
      copy_async_through_cache(stage + piece.to, from + piece.from, h < rows_end && w < columns_end);
    }
  }

  __device__ void copy_windows(const MmaTile& tile, const MapTile& at, const Piece* pieces, Chunk* stage) const {
    const int top = at.row * pool_h.tile_windows + pool_h.first, left = at.column * pool_w.tile_windows + pool_w.first;
    const int64_t begin = ((int64_t{at.n} * pool_h.out + top) * pool_w.out + left) * conv.k + channel(tile);
    const unsigned rows_end = pool_h.out, columns_end = pool_w.out;
    uint8_t* const bytes = reinterpret_cast<uint8_t*>(stage + patch.winners_at);
#pragma unroll 1
    for (int e = threadIdx.x; e < window_pieces(); e += Block::kThreads) {
      const Piece piece = pieces[e];
      const unsigned p = top + piece.row, q = left + piece.column;
      const bool inside = piece.from >= 0 && p < rows_end && q < columns_end;
      const int64_t place = begin + piece.from;
      copy_async_through_cache(stage + patch.gradient_at + piece.to, grad_output + place, inside);
      if (!kIsMax) continue;
      if (activation != Activation::none)
        copy_async_through_cache(stage + patch.activated_at + piece.to, activated + place, inside);
      copy_async_through_cache<kLanes>(bytes + piece.to * kLanes, winners + place, inside);
    }
  }

  // What each window gives to its pixels, once for all of them: lanes 0 to 3 of the chunks of a window, then 4 to 7.
  static constexpr int kShareParts = kLanes / 4;
  using ShareVector = Vector<float, 4>;
  static __device__ int share_at(int window, int part, int chunk) {
    return (window * kShareParts + part) * kColumnChunks + chunk;
  }
  __device__ void make_shares(const Chunk* stage, ShareVector* shares) const {
    const Quotient<T> quotient(divisor);
#pragma unroll 1
    for (int e = threadIdx.x; e < window_pieces(); e += Block::kThreads) {
      const auto gradients = load<kLanes>(reinterpret_cast<const T*>(stage + patch.gradient_at + e));
      float share[kLanes];
#pragma unroll
      for (int i = 0; i < kLanes; ++i) share[i] = static_cast<float>(gradients.lanes[i]);
      if constexpr (kIsMax) {
        times_slopes<kLanes>(activation, share, reinterpret_cast<const T*>(stage + patch.activated_at + e));
      } else {
#pragma unroll
        for (int i = 0; i < kLanes; ++i) share[i] = quotient.of(share[i]);
      }
#pragma unroll
      for (int part = 0; part < kShareParts; ++part)
        shares[share_at(e / kColumnChunks, part, e % kColumnChunks)] = {share[part * 4], share[part * 4 + 1],
                                                                        share[part * 4 + 2], share[part * 4 + 3]};
    }
  }

  __device__ float* result_at(const MmaTile& tile, int row) const {
    const int64_t line = (int64_t{tile.part} * groups + tile.group) * rows + tile.row + row;
    return result + line * columns + tile.column;
  }
};

}  // namespace tmc
