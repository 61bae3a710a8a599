// What a block of cuda/stage/mma.cu works on, and how it pools its part of the map once that is in shared memory.
#pragma once
#include "cuda/conv2d/windows.cuh"
#include "cuda/elementwise/activation.cuh"
#include "cuda/machine/quotient.cuh"
#include "cuda/machine/vector.h"
#include "cuda/stage/launchers.h"

namespace tmc {

// One axis of the pooling; there is no dilation.
struct StageAxis {
  int in, out, kernel, stride, pad;
};

// The taps [begin, end) of window i lie inside the map; tap 0 is at `start`.
struct StageWindow {
  int start, begin, end;
};
__device__ inline StageWindow window_of(const StageAxis& axis, int i) {
  const int start = i * axis.stride - axis.pad;
  return {start, start < 0 ? -start : 0, axis.in - start < axis.kernel ? axis.in - start : axis.kernel};
}

struct StageTile {
  int group, column, depth_begin, depth_end;
  int64_t image;
  int pooled_p, pooled_q, map_p, map_q;  // the first of its results and of its map's pixels, which may be padding
};

template <class T, bool kSplit_, class Block_>
struct StageProduct {
  using scalar_t = T;
  using Block = Block_;
  static constexpr bool kSplit = kSplit_;
  using ImageTile = DepthInnerTile<T, Block::kRows>;
  using MatrixTile = DepthInnerTile<T, Block::kColumns>;
  using ImageCopier = WindowCopier<ImageTile, Block>;
  using MatrixCopier = FilterCopier<MatrixTile, Block>;
  static constexpr int kRingBytes = kRingStages * (ImageTile::kChunks + MatrixTile::kChunks) * int(sizeof(Chunk));

  const Chunk *image, *matrix;
  const T* bias;
  T *output, *kept_map;
  uint8_t* winners;
  MmaConv2d conv;
  int64_t images;
  int columns, depth;  // filters of a group; elements
  StageAxis pool_h, pool_w;
  StageTiles tiles;
  Activation activation;
  bool is_max;
  int divisor;  // of an average

  __device__ StageTile tile_of_block() const {
    int64_t block = block_index();
    const auto next = [&](int count) {
      const int i = static_cast<int>(block % count);
      block /= count;
      return i;
    };
    StageTile tile;
    tile.column = next((columns + Block::kColumns - 1) / Block::kColumns) * Block::kColumns;
    tile.pooled_q = next(tiles.count_w) * tiles.pooled_w;
    tile.pooled_p = next(tiles.count_h) * tiles.pooled_h;
    tile.group = next(conv.groups);
    tile.image = block;
    tile.map_p = tile.pooled_p * pool_h.stride - pool_h.pad;
    tile.map_q = tile.pooled_q * pool_w.stride - pool_w.pad;
    tile.depth_begin = 0, tile.depth_end = depth;
    return tile;
  }

  __device__ MapPixel pixel_of(const StageTile& tile, int row) const {
    const int i = row / tiles.map_w, p = tile.map_p + i, q = tile.map_q + row - i * tiles.map_w;
    const bool inside = i < tiles.map_h && p >= 0 && p < conv.p && q >= 0 && q < conv.q;
    return {static_cast<int>(tile.image), p, q, inside};
  }
  __device__ const T* bias_at(const StageTile& tile) const {
    return bias == nullptr ? nullptr : bias + tile.group * columns + tile.column;
  }
};

// The map in shared memory, or a slice of it: the columns of one column of warps, where all of them have no room. 8
// elements of padding spread a warp's writes, 8 pixels of 4 pairs, over the banks.
template <class Product>
struct MapSlice {
  using T = typename Product::scalar_t;
  using Block = typename Product::Block;
  static constexpr int kPadding = 8;
  static constexpr bool kIsWhole = Block::kRows * (Block::kColumns + kPadding) * int(sizeof(T)) <= Product::kRingBytes;
  static constexpr int kColumns = kIsWhole ? Block::kColumns : Block::kWarpColumns, kLine = kColumns + kPadding;
  static constexpr int kLanes = kVectorLanes<T>, kVectors = kColumns / kLanes;
  static_assert(Block::kRows * kLine * int(sizeof(T)) <= Product::kRingBytes);

  const Product& product;
  const StageTile& tile;
  T* map;
  int column;  // the first one, in the tile

  // eq. 1, rounded.
  template <int kRowTiles, int kColumnTiles>
  __device__ void put(int row, int warp_column, const float (&sums)[kRowTiles][kColumnTiles][4]) const {
    const int lane = threadIdx.x % kWarpThreads, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float (&pair)[4] = sums[i][j];
          const Vector<T, 2> rounded = {static_cast<T>(pair[half * 2]), static_cast<T>(pair[half * 2 + 1])};
          store(map + (row + i * 16 + g + half * 8) * kLine + warp_column - column + j * 8 + t * 2, rounded);
        }
  }

  // For averages, which are taken of the activated map.
  __device__ void activate() const {
    for (int e = threadIdx.x; e < product.tiles.map_h * product.tiles.map_w * kVectors; e += Block::kThreads) {
      T* const place = map + e / kVectors * kLine + e % kVectors * kLanes;
      Vector<T, kLanes> values = load<kLanes>(place);
#pragma unroll
      for (int v = 0; v < kLanes; ++v)
        values.lanes[v] = static_cast<T>(activated<T>(product.activation, static_cast<float>(values.lanes[v])));
      store(place, values);
    }
  }

  // Calls body(vector, i, j) for the block's share of count_h x count_w pixels and the slice's vectors of channels.
  template <class Body>
  __device__ void for_each_vector(int count_h, int count_w, Body body) const {
    for (int e = threadIdx.x; e < count_h * count_w * kVectors; e += Block::kThreads) {
      const int vector = e % kVectors, pixel = e / kVectors, i = pixel / count_w;
      if (tile.column + column + vector * kLanes < product.columns) body(vector * kLanes, i, pixel - i * count_w);
    }
  }
  __device__ int channel(int lane) const { return tile.group * product.columns + tile.column + column + lane; }

  // eq. 6 or 7, as cuda/pool2d/max.cu and cuda/pool2d/avg.cu have them.
  __device__ void pool() const {
    const StageAxis &h = product.pool_h, &w = product.pool_w;
    const Quotient<T> quotient(product.divisor);
    for_each_vector(product.tiles.pooled_h, product.tiles.pooled_w, [&](int lane, int i, int j) {
      const int p = tile.pooled_p + i, q = tile.pooled_q + j;
      if (p >= h.out || q >= w.out) return;
      const StageWindow rows = window_of(h, p), columns = window_of(w, q);
      const T* const corner =
          map + ((rows.start - tile.map_p) * product.tiles.map_w + columns.start - tile.map_q) * kLine + lane;
      const int64_t place = ((tile.image * h.out + p) * w.out + q) * product.conv.k + channel(lane);
      float values[kLanes];
      int chosen[kLanes];
#pragma unroll
      for (int v = 0; v < kLanes; ++v)
        values[v] = product.is_max ? -INFINITY : 0, chosen[v] = rows.begin * w.kernel + columns.begin;
      for (int r = rows.begin; r < rows.end; ++r)
        for (int s = columns.begin; s < columns.end; ++s) {
          const auto loaded = load<kLanes>(corner + (r * product.tiles.map_w + s) * kLine);
          const int tap = r * w.kernel + s;
#pragma unroll
          for (int v = 0; v < kLanes; ++v) {
            const float value = static_cast<float>(loaded.lanes[v]);
            if (!product.is_max)
              values[v] += value;
            else if (beats(value, values[v]))
              values[v] = value, chosen[v] = tap;
          }
        }
      Vector<T, kLanes> result;
#pragma unroll
      for (int v = 0; v < kLanes; ++v)
        result.lanes[v] =
            static_cast<T>(product.is_max ? activated<T>(product.activation, values[v]) : quotient.of(values[v]));
      store(product.output + place, result);
      if (product.winners == nullptr) return;
      Vector<uint8_t, kLanes> taps;
#pragma unroll
      for (int v = 0; v < kLanes; ++v) taps.lanes[v] = static_cast<uint8_t>(chosen[v]);
      store(product.winners + place, taps);
    });
  }

  // The pixels of the map that are this tile's: up to where the next one's begin.
  __device__ void keep() const {
    const StageTiles& tiles = product.tiles;
    const auto end_of = [](const StageAxis& axis, int pooled, int results) {
      return pooled + results < axis.out ? (pooled + results) * axis.stride - axis.pad : axis.in;
    };
    const int p_end = end_of(product.pool_h, tile.pooled_p, tiles.pooled_h);
    const int q_end = end_of(product.pool_w, tile.pooled_q, tiles.pooled_w);
    for_each_vector(tiles.map_h, tiles.map_w, [&](int lane, int i, int j) {
      const int p = tile.map_p + i, q = tile.map_q + j;
      if (p < 0 || p >= p_end || q < 0 || q >= q_end) return;
      const int64_t place = ((tile.image * product.conv.p + p) * product.conv.q + q) * product.conv.k + channel(lane);
      store(product.kept_map + place, load<kLanes>(map + (i * tiles.map_w + j) * kLine + lane));
    });
  }
};

}  // namespace tmc
