// What one warp multiplies on tensor cores, and how its operands lie in shared memory.
//
// A tile of an operand is kTileDepthBytes of depth (32 half or 16 float elements) for every row or column of the block,
// in chunks of 16 bytes: what cp.async copies and what ldmatrix reads as one row of a matrix. It lies in one of two
// ways, as it does in global memory:
//
//   DepthInnerTile   a line for each row (or column), 4 chunks of depth            activations and weights, eq. 1 and 5
//   DepthOuterTile   a line for each depth, chunks of neighbouring rows            both operands of eq. 3
//
// The chunks of a line are permuted (XOR with bits of the line's number), so that the eight chunks that are read or
// written together fall into the eight different 16-byte groups of the 32 banks: no bank conflicts.
#pragma once
#include "launch.h"

namespace tmc {

struct alignas(16) Chunk {
  uint32_t words[4];
};
constexpr int kTileDepthBytes = 64, kTileDepthChunks = kTileDepthBytes / int(sizeof(Chunk));
constexpr int kStepBytes = 32, kSteps = kTileDepthBytes / kStepBytes;  // the depth of one mma: 16 half, 8 float
constexpr int kWarpThreads = 32;

template <class T>
constexpr int kChunkElements = sizeof(Chunk) / sizeof(T);
template <class T>
constexpr int kTileDepthElements = kTileDepthBytes / sizeof(T);

// Runs body(T{}) for the C++ type that `dtype` names, which must be one that tensor cores multiply.
template <class Body>
void dispatch_mma(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::float64: return;  // conv2d_plan.h refuses it
    case Dtype::float32: return body(float{});
    case Dtype::bfloat16: return body(bfloat16{});
    case Dtype::float16: return body(float16{});
  }
}

// Lines of 64 bytes, two to a round of the banks: rows 2i and 2i + 1 take the two halves.
HOST_DEVICE int depth_inner_chunk(int line, int chunk) {
  return line * kTileDepthChunks + (chunk ^ (line >> 1 & 3));
}
// Half types are read by ldmatrix, the same chunk of 8 lines; floats one by one, 2 chunks of 4 lines (see below).
HOST_DEVICE int depth_outer_chunk(int element_bytes, int line_chunks, int line, int chunk) {
  return line * line_chunks + (chunk ^ (element_bytes == 2 ? line & 7 : (line & 3) << 1));
}

// Each tile type gives a warp its operands of one mma, in the registers that multiply_add (primitives.h) wants:
//   load_rows       a, of 16 rows from `row` on
//   load_columns    b, of the 8 columns from `column` on in b[0], b[1], and of the next 8 in b[2], b[3]
template <class T, int kExtent>
struct DepthInnerTile {
  static constexpr int kLines = kExtent, kLineChunks = kTileDepthChunks, kChunks = kLines * kLineChunks;

  static __device__ int chunk_at(int line, int chunk) { return depth_inner_chunk(line, chunk); }

  static __device__ void load_rows(uint32_t (&a)[4], const Chunk* tile, int row, int step) {
    const int lane = threadIdx.x % kWarpThreads;
    load_matrices(a, tile + chunk_at(row + lane % 16, step * 2 + lane / 16));
  }
  static __device__ void load_columns(uint32_t (&b)[4], const Chunk* tile, int column, int step) {
    const int lane = threadIdx.x % kWarpThreads;
    load_matrices(b, tile + chunk_at(column + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
  }
};

template <class T, int kExtent>
struct DepthOuterTile {
  static constexpr int kLines = kTileDepthElements<T>, kLineChunks = kExtent / kChunkElements<T>;
  static constexpr int kChunks = kLines * kLineChunks;

  static __device__ int chunk_at(int line, int chunk) { return depth_outer_chunk(sizeof(T), kLineChunks, line, chunk); }

  static __device__ void load_rows(uint32_t (&a)[4], const Chunk* tile, int row, int step) {
    const int lane = threadIdx.x % kWarpThreads;
    if constexpr (sizeof(T) == 2) {
      const int depth = step * 16 + lane % 8 + lane / 16 * 8;
      load_matrices_transposed(a, tile + chunk_at(depth, row / 8 + lane / 8 % 2));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = word(tile, step * 8 + i / 2 * 4, row + i % 2 * 8);
    }
  }
  static __device__ void load_columns(uint32_t (&b)[4], const Chunk* tile, int column, int step) {
    const int lane = threadIdx.x % kWarpThreads;
    if constexpr (sizeof(T) == 2) {
      const int depth = step * 16 + lane % 16;
      load_matrices_transposed(b, tile + chunk_at(depth, column / 8 + lane / 16));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) b[i] = word(tile, step * 8 + i % 2 * 4, column + i / 2 * 8);
    }
  }

  // ldmatrix cannot transpose 32-bit elements. A warp reads 4 depths x 8 rows: 2 chunks of 4 lines, 32 banks.
  static __device__ uint32_t word(const Chunk* tile, int depth, int row) {
    const int lane = threadIdx.x % kWarpThreads, t = lane % 4, g = lane / 4;
    return tile[chunk_at(depth + t, row / 4 + g / 4)].words[g % 4];
  }
};

// ---- float operands. Rounded to tf32 they are multiplied once (kSplit = false). In strict precision each is the sum
// of two tf32 numbers, a = hi + lo, and a b = lo hi + hi lo + hi hi to a relative 2^-22 ("3xTF32": Ootomo and Yokota
// 2022, CUTLASS example 28).

struct Split {
  uint32_t hi, lo;
};

__device__ inline uint32_t bits_of(float value) {
  union {
    float number;
    uint32_t bits;
  } both{value};
  return both.bits;
}
__device__ inline float float_of(uint32_t bits) {
  union {
    uint32_t bits;
    float number;
  } both{bits};
  return both.number;
}

// What is not finite must come out of the three products as out of one: hi = +-1, lo = a leaves the sign of the
// partner's hi to decide, and Inf * Inf = Inf; hi = Inf would meet lo = 0 in hi lo and make NaN of it. Rounding alone
// would make the largest floats infinite: their hi is the largest tf32.
constexpr uint32_t kSign = 0x80000000, kInfinity = 0x7F800000, kLargestTf32 = 0x7F7FE000, kOne = 0x3F800000;
__device__ inline Split split(uint32_t value) {
  const uint32_t magnitude = value & ~kSign;
  float hi = round_to_tf32(float_of(value));
  if (magnitude >= kLargestTf32) hi = float_of((value & kSign) | (magnitude < kInfinity ? kLargestTf32 : kOne));
  return {bits_of(hi), bits_of(round_to_tf32(float_of(value) - hi))};
}

// sums += rows x columns over the kStepBytes of depth of one step: kRowTiles of 16 rows, kColumnTiles of 8 columns.
template <class T, bool kSplit, class RowTile, class ColumnTile, int kRowTiles, int kColumnTiles>
__device__ void multiply_step(float (&sums)[kRowTiles][kColumnTiles][4], const Chunk* row_tile, int row,
                              const Chunk* column_tile, int column, int step) {
  uint32_t a[kRowTiles][4], a_lo[kRowTiles][4];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    RowTile::load_rows(a[i], row_tile, row + i * 16, step);
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      if constexpr (kSplit) {
        const Split parts = split(a[i][v]);
        a[i][v] = parts.hi, a_lo[i][v] = parts.lo;
      } else if constexpr (sizeof(T) == 4) {
        a[i][v] = bits_of(round_to_tf32(float_of(a[i][v])));
      }
    }
  }
#pragma unroll
  for (int pair = 0; pair < kColumnTiles; pair += 2) {
    uint32_t loaded[4];
    ColumnTile::load_columns(loaded, column_tile, column + pair * 8, step);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      uint32_t b[2] = {loaded[j * 2], loaded[j * 2 + 1]}, b_lo[2];
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        if constexpr (kSplit) {
          const Split parts = split(b[v]);
          b[v] = parts.hi, b_lo[v] = parts.lo;
        } else if constexpr (sizeof(T) == 4) {
          b[v] = bits_of(round_to_tf32(float_of(b[v])));
        }
      }
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        float (&total)[4] = sums[i][pair + j];
        if constexpr (kSplit) {
          // Tensor cores cut sums off towards zero. Over a long sum that bias would cost strict precision, so they add
          // up the products of one step alone, smallest first, and the total is rounded to nearest here.
          float sum[4] = {};
          multiply_add(T{}, sum, a_lo[i], b);
          multiply_add(T{}, sum, a[i], b_lo);
          multiply_add(T{}, sum, a[i], b);
#pragma unroll
          for (int v = 0; v < 4; ++v) total[v] += sum[v];
        } else {
          multiply_add(T{}, total, a[i], b);
        }
      }
    }
  }
}

}  // namespace tmc
