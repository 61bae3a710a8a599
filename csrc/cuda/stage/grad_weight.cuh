// What the threads of cuda/stage/grad_weight.cu do with a tile: rebuild the gradient of the map, a chunk each, and
// read the image, a warp each its rows.
#pragma once
#include "cuda/stage/patch.cuh"

namespace tmc {

// The windows over the thread's pixel, the same ones in every tile, and its chunk of the gradient.
template <class Product>
struct PixelWindows {
  using T = typename Product::scalar_t;
  using ShareVector = typename Product::ShareVector;
  static constexpr int kLanes = Product::kLanes;
  int first, rows, columns, tap;  // the first window, counted in those of the tile; the tap of it that is the pixel

  __device__ PixelWindows(const Product& product) {
    const auto along = [](const TileWindows& axis, int pixel, int& begin, int& tap) {
      const int padded = pixel + axis.pad, reach = padded - (axis.kernel - 1);
      const int first = reach > 0 ? (reach + axis.stride - 1) / axis.stride : -(-reach / axis.stride);
      begin = first - axis.first, tap = padded - first * axis.stride;
      return padded / axis.stride - first + 1;
    };
    int begin_h, begin_w, r, s;
    rows = along(product.pool_h, Product::row(), begin_h, r);
    columns = along(product.pool_w, Product::column(), begin_w, s);
    first = begin_h * product.patch.pooled_w + begin_w, tap = r * product.pool_w.kernel + s;
  }

  // eq. 22, rounded as map_gradient_kernel does. Pixels outside the map have no gradient. bias: eq. 4's sums, of what
  // is not rounded yet.
  __device__ void rebuild(const Product& product, const MmaTile& tile, const MapTile& at, const Chunk* stage,
                          const ShareVector* shares, Chunk* gradient, float (&bias)[kLanes]) const {
    float sum[kLanes] = {};
    if (product.is_inside(tile, at)) {
      const uint8_t* const winners = reinterpret_cast<const uint8_t*>(stage + product.patch.winners_at);
#pragma unroll 1
      for (int u = 0; u < rows; ++u)
#pragma unroll 1
        for (int v = 0; v < columns; ++v) {
          const int window = first + u * product.patch.pooled_w + v;
          const int its_tap = tap - u * product.pool_h.stride * product.pool_w.kernel - v * product.pool_w.stride;
          const int place = (window * Product::kColumnChunks + Product::chunk()) * kLanes;
          add(shares, window, its_tap, winners + place, sum);
        }
      if constexpr (!Product::kIsMax)
        times_slopes<kLanes>(product.activation, sum,
                             reinterpret_cast<const T*>(stage + product.patch.activated_at + threadIdx.x));
    }
    Vector<T, kLanes> rounded;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) bias[i] += sum[i], rounded.lanes[i] = static_cast<T>(sum[i]);
    const int line = threadIdx.x / Product::kColumnChunks;
    store(reinterpret_cast<T*>(gradient + Product::MatrixTile::chunk_at(line, Product::chunk())), rounded);
  }

  // The window's shares, of lanes whose winner is the tap.
  __device__ void add(const ShareVector* shares, int window, int tap, const uint8_t* winners,
                      float (&sum)[kLanes]) const {
    Vector<uint32_t, Product::kShareParts> differences = {};
    if constexpr (Product::kIsMax) differences = load<Product::kShareParts>(reinterpret_cast<const uint32_t*>(winners));
#pragma unroll
    for (int part = 0; part < Product::kShareParts; ++part) {
      const ShareVector share = shares[Product::share_at(window, part, Product::chunk())];
      if constexpr (Product::kIsMax) differences.lanes[part] ^= static_cast<uint32_t>(tap) * 0x01010101u;  // each byte
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if ((differences.lanes[part] & 0xFFu << i * 8) == 0) sum[part * 4 + i] += share.lanes[i];
    }
  }
};

// The rows of a warp in the image of a stage: a pixel's chunk of channels for each tap. multiply_step loads its first
// operand from it, as from a DepthOuterTile.
template <class Product>
struct ImageRows {
  using T = typename Product::scalar_t;
  static constexpr bool kIsHalf = sizeof(T) == 2;
  static constexpr int kRowTiles = Product::Block::kWarpRows / 16, kParts = kIsHalf ? 1 : 2;  // of 16 rows, or of 8

  const Chunk* stage;
  int places[kRowTiles][kParts];  // of the lane's chunk, in the first step's pixels
  int step, half_row;             // to the next step's pixels; to the fifth pixel of a row
  int height, width;              // pixels of the tile that are inside the map

  __device__ ImageRows(const Product& product, const MmaTile& tile) {
    const MmaConv2d& conv = product.conv;
    const int pitch = product.patch.pitch, line = product.patch.image_w * pitch;
    const int lane = threadIdx.x % kWarpThreads, pixel = pitch * conv.stride_w;
    const int first = kIsHalf ? lane / 16 * conv.stride_h * line + lane % 8 * pixel : lane % 4 * pixel;
    step = (kIsHalf ? 2 : 1) * conv.stride_h * line, half_row = kMapTileWidth / 2 * pixel;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int row = tile.row + warp_row<typename Product::Block>() + i * 16 + part * 8;
        const int chunk = row / kChunkElements<T> + (kIsHalf ? lane / 8 % 2 : lane / 16);
        const int tap = chunk / conv.group_c, c = chunk - tap * conv.group_c, r = tap / conv.s, s = tap - r * conv.s;
        const int to_tap = r * conv.dilation_h * line + s * conv.dilation_w * pitch + c;
        places[i][part] = first + (r < conv.r ? to_tap : 0);  // rows behind the last are not stored
      }
  }

  // Moves to the tile whose stage it is.
  __device__ void enter(const Product& product, const MapTile& at, const Chunk* its_stage) {
    stage = its_stage;
    height = product.conv.p - at.row * Product::kTileHeight, width = product.conv.q - at.column * kMapTileWidth;
  }
  __device__ bool is_whole() const { return height >= Product::kTileHeight && width >= kMapTileWidth; }

  static __device__ void load_rows(uint32_t (&a)[4], const ImageRows& rows, int row, int step) {
    const Chunk* const from = rows.stage + step * rows.step;
    if constexpr (kIsHalf) {
      load_matrices_transposed(a, from + rows.places[row / 16][0]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[i] = from[rows.places[row / 16][i % 2] + i / 2 * rows.half_row].words[threadIdx.x / 4 % 4];
    }
  }
};

// The same of a tile that hangs over the map's edge. The gradient is zero there; but an image that is not finite there
// would make NaN of that.
template <class Product>
struct EdgeRows {
  static __device__ void load_rows(uint32_t (&a)[4], const ImageRows<Product>& rows, int row, int step) {
    constexpr bool kIsHalf = ImageRows<Product>::kIsHalf;
    ImageRows<Product>::load_rows(a, rows, row, step);
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int p = kIsHalf ? step * 2 + i / 2 : step, q = kIsHalf ? t * 2 : t + i / 2 * 4;
      const uint32_t first = q < rows.width ? kIsHalf ? 0xFFFF : ~0u : 0;
      const uint32_t second = kIsHalf && q + 1 < rows.width ? 0xFFFF0000 : 0;
      a[i] &= p < rows.height ? first | second : 0;
    }
  }
};

}  // namespace tmc
