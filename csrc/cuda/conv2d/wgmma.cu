// Convolution and its gradient by the input with wgmma (eq. 1 and 5): what the rows, columns and depth of
// cuda/gemm/wgmma_gemm.cuh are.
//
//                        rows          columns            depth
//   conv2d               filters k     pixels n, p, q     r, s, c      of a group; the last one fastest
//   conv2d_grad_input    channels c    pixels n, h, w     r, s, k
//
// TMA finds the pixels of a window by itself (pixel_map): it walks through the grid of one tap. A stage takes 128 bytes
// of channels of one tap from kColumns pixels that follow one another, across rows and samples. What lies outside the
// image is zero.
#include "cuda/conv2d/wgmma.cuh"
#include "cuda/gemm/wgmma_gemm.cuh"

namespace tmc {
namespace {

template <class T, class Block_>
struct WgmmaWindows {
  using scalar_t = T;
  using Block = Block_;
  static constexpr bool kDepthOuter = false;

  TensorMap matrix, image;
  const T* bias;
  T* result;
  MmaConv2d conv;
  Lattice lattice;
  int tiles, row_tiles, filters, pixels;  // row_tiles of all groups; filters of one

  struct Tile {
    int row, pixel;  // the first of all groups' rows; of the pixels

    __device__ Tile(const WgmmaWindows& product, int index) {
      const int column_tile = index / product.row_tiles;
      row = (index - column_tile * product.row_tiles) * Block::kRows;
      pixel = column_tile * Block::kColumns;
    }
    __device__ int steps(const WgmmaWindows& product) const {
      const MmaConv2d& conv = product.conv;
      return conv.r * conv.s * ((conv.group_c + kLineElements<T> - 1) / kLineElements<T>);
    }
  };

  struct Copier {
    int n, h, w, first_c;     // the first pixel, the group's first channel
    int r = 0, s = 0, c = 0;  // the depth, counted up

    __device__ Copier(const WgmmaWindows& product, const Tile& tile) {
      const MmaConv2d& conv = product.conv;
      const int line = tile.pixel / conv.q;
      n = line / conv.p;
      h = (line - n * conv.p) * conv.stride_h - conv.pad_top;
      w = (tile.pixel - line * conv.q) * conv.stride_w - conv.pad_left;
      first_c = tile.row / product.filters * conv.group_c;
    }

    __device__ void copy(const WgmmaWindows& product, const Tile& tile, char* rows, char* columns, Barrier& full) {
      const MmaConv2d& conv = product.conv;
      arrive_expecting(full, Block::kStageBytes);
      copy_lines(rows, product.matrix, full, c, r * conv.s + s, tile.row);
      copy_pixels(columns, product.image, full, first_c + c, w, h, n, s * conv.dilation_w, r * conv.dilation_h);
      c += kLineElements<T>;
      if (c < conv.group_c) return;
      c = 0;
      if (++s == conv.s) s = 0, ++r;
    }
  };

  __device__ T* result_at(int pixel) const {
    int64_t at = pixel;
    if (lattice.step_h * lattice.step_w > 1) {
      const int line = pixel / conv.q, n = line / conv.p, p = line - n * conv.p, q = pixel - line * conv.q;
      at = (int64_t{n} * lattice.h + lattice.first_h + p * lattice.step_h) * lattice.w + lattice.first_w +
           q * lattice.step_w;
    }
    return result + at * conv.k;
  }

  // Adds the bias and stores, through shared memory: in registers a thread has pixels of two filters, in memory a pixel
  // has its filters side by side. A slice of pixels at a time, in two buffers, so that one barrier for each is enough.
  __device__ void store(const Tile& tile, int group, const WgmmaSums<Block>& sums, char* staging) const {
    constexpr bool kHalf = sizeof(T) == 2;
    constexpr int kSlice = kHalf ? 32 : 16, kSlices = Block::kGroupColumns / kSlice;
    constexpr int kPitch = kHalf ? kGroupRows : kGroupRows + 4;  // elements: half types swizzle, floats have padding
    static_assert(kSlices % 2 == 0 && 2 * kSlice * kPitch * sizeof(T) <= kStagingBytes);
    const int thread = threadIdx.x % kWarpgroupThreads;
    const int filter = thread / kWarpThreads * 16 + thread % kWarpThreads / 4;  // and 8 further
    const int first_pixel = tile.pixel + first_column<Block>(group);
#pragma unroll
    for (int i = 0; i < Block::kRowTiles; ++i) {
      const int row = tile.row + first_row<Block>(group) + i * kGroupRows;
      const float bias_0 = bias == nullptr ? 0 : static_cast<float>(bias[row + filter]);
      const float bias_8 = bias == nullptr ? 0 : static_cast<float>(bias[row + filter + 8]);
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) {
        T* const buffer = reinterpret_cast<T*>(staging) + slice % 2 * kSlice * kPitch;
#pragma unroll
        for (int j = 0; j < kSlice / 8; j += 2)
          put_in_staging(buffer, j * 8, filter, sums[i] + (slice * (kSlice / 8) + j) * 4, bias_0, bias_8);
        wait_for_threads(1 + group, kWarpgroupThreads);
        constexpr int kRowChunks = kGroupRows / kChunkElements<T>;
#pragma unroll
        for (int copy = 0; copy < kSlice * kRowChunks / kWarpgroupThreads; ++copy) {
          const int line = (copy * kWarpgroupThreads + thread) / kRowChunks, chunk = thread % kRowChunks;
          const int pixel = first_pixel + slice * kSlice + line;
          if (pixel < pixels)
            *reinterpret_cast<Chunk*>(result_at(pixel) + row + chunk * kChunkElements<T>) =
                *reinterpret_cast<const Chunk*>(buffer + line * kPitch + place_of_chunk(line, chunk));
        }
      }
    }
  }

  // Writes the thread's sums of 16 pixels, `line` the first.
  static __device__ void put_in_staging(T* buffer, int line, int filter, const float* sums, float bias_0,
                                        float bias_8) {
    const int lane = threadIdx.x % kWarpThreads;
    constexpr int kPitch = sizeof(T) == 2 ? kGroupRows : kGroupRows + 4;
    if constexpr (sizeof(T) == 2) {
      uint32_t m[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float add = i % 2 == 0 ? bias_0 : bias_8;
        m[i] = pair_of(static_cast<T>(sums[i * 2] + add), static_cast<T>(sums[i * 2 + 1] + add));
      }
      line += lane / 16 * 8 + lane % 8;
      store_matrices_transposed(buffer + line * kPitch + place_of_chunk(line, filter / 16 * 2 + lane / 8 % 2), m);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        buffer[(line + i / 4 * 8 + lane % 4 * 2 + i % 2) * kPitch + filter + i / 2 % 2 * 8] =
            sums[i] + (i / 2 % 2 == 0 ? bias_0 : bias_8);
    }
  }

  // Where a chunk of a line is kept: of half types as in cuda/machine/hopper.h, so that eight lines' chunks are in
  // different banks.
  static __device__ int place_of_chunk(int line, int chunk) {
    return (sizeof(T) == 2 ? chunk ^ (line & 7) : chunk) * kChunkElements<T>;
  }
  static __device__ uint32_t pair_of(T first, T second) {
    const T both[2] = {first, second};
    uint32_t bits;
    memcpy(&bits, both, sizeof(bits));
    return bits;
  }
};

template <class T, class Block>
void launch_block(int samples, const MmaConv2d& conv, const Lattice& lattice, const WindowOperands& operands,
                  void* stream) {
  WgmmaWindows<T, Block> product;
  product.matrix = line_map<T>({operands.matrix, conv.group_c, std::max(conv.r * conv.s, 1), conv.k}, Block::kRows);
  product.image = pixel_map<T>({operands.image, conv.c, conv.w, conv.h, samples, conv.p, conv.q, -conv.pad_top,
                                -conv.pad_left, conv.stride_h, conv.stride_w},
                               Block::kColumns);
  product.bias = static_cast<const T*>(operands.bias), product.result = static_cast<T*>(operands.result);
  product.conv = conv, product.lattice = lattice;
  product.filters = conv.k / conv.groups, product.row_tiles = conv.k / Block::kRows;
  product.pixels = samples * conv.p * conv.q;
  product.tiles = product.row_tiles * static_cast<int>(ceil_div(product.pixels, Block::kColumns));
  launch_wgmma_gemm(product, stream);
}

// The tallest block that the filters of a group fill reads the pixels least often; a small one where others would leave
// multiprocessors without a tile. The bits are the same. Not measured on a GPU.
template <class T>
void launch_windows(int samples, const MmaConv2d& conv, const Lattice& lattice, const WindowOperands& operands,
                    void* stream) {
  const int filters = conv.k / conv.groups, pixels = samples * conv.p * conv.q;
  const auto fill = [&](int rows) { return conv.k / rows * ceil_div(pixels, 256) >= kMultiprocessors; };
  const auto launch = filters % 192 == 0 && fill(192)   ? launch_block<T, WgmmaTall>
                      : filters % 128 == 0 && fill(128) ? launch_block<T, WgmmaWide>
                                                        : launch_block<T, WgmmaSmall>;
  launch(samples, conv, lattice, operands, stream);
}

}  // namespace

bool compiled_for_wgmma() {
  return compiled_for_hopper();
}

void launch_windows_wgmma(DType dtype, int samples, const MmaConv2d& conv, const Lattice& lattice,
                          const WindowOperands& operands, void* stream) {
  MmaConv2d elements = conv;  // instead of chunks
  elements.c *= static_cast<int>(chunk_elements(dtype)), elements.group_c *= static_cast<int>(chunk_elements(dtype));
  dispatch_mma(dtype, [&](auto type) { launch_windows<decltype(type)>(samples, elements, lattice, operands, stream); });
}

}  // namespace tmc
