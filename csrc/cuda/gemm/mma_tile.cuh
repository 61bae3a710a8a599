// What one warp multiplies on tensor cores, and how its operands lie in shared memory.
//
// A tile of an operand has kTileDepthBytes of depth (32 half or 16 float elements) for every row or column of the
// block. It consists of chunks of 16 bytes, which cp.async copies and which ldmatrix reads as one row of a matrix. It
// lies as the operand does in global memory:
//
//   DepthInnerTile   a line for each row (or column), 4 chunks of depth            activations and weights, eq. 1 and 5
//   DepthOuterTile   a line for each depth, chunks of neighbouring rows            both operands of eq. 3
//
// The chunks of a line are permuted by XOR with bits of the line's number (a swizzle). The eight chunks that are read
// or written together then lie in eight different groups of 4 banks: no bank conflicts.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cuda/machine/launch.h"

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
void dispatch_mma(DType dtype, Body body) {
  switch (dtype) {
    case DType::float64: return;  // cuda/conv2d/plan.h refuses it
    case DType::float32: return body(float{});
    case DType::bfloat16: return body(bfloat16{});
    case DType::float16: return body(float16{});
  }
}

// Lines of 64 bytes, two to a round of the banks: lines 2i and 2i + 1 take the two halves.
HOST_DEVICE int depth_inner_chunk(int line, int chunk) {
  return line * kTileDepthChunks + (chunk ^ (line >> 1 & 3));
}
// Half types are read by ldmatrix, the same chunk of 8 lines; floats one by one, 2 chunks of 4 lines (word_of below).
HOST_DEVICE int depth_outer_chunk(int element_bytes, int line_chunks, int line, int chunk) {
  return line * line_chunks + (chunk ^ (element_bytes == 2 ? line & 7 : (line & 3) << 1));
}

// Where results wait to be written: a warp's lines, with 8 elements of padding, which spread them over the banks.
HOST_DEVICE constexpr int staged_element(int columns, int line, int column) {
  return line * (columns + 8) + column;
}

// Each tile type gives a warp its operands of one mma, in the registers that multiply_add (cuda/machine/primitives.h)
// wants:
//   load_rows       a, of 16 rows from `row` on
//   load_columns    b, of the 8 columns from `column` on in b[0], b[1], and of the next 8 in b[2], b[3]
// The permutation repeats after kPeriod lines: what moves by a multiple of that is added to the address afterwards, as
// a constant, which keeps the arithmetic out of the loops.
template <class T, int kExtent>
struct DepthInnerTile {
  static constexpr int kLines = kExtent, kLineChunks = kTileDepthChunks, kChunks = kLines * kLineChunks, kPeriod = 8;

  static __device__ int chunk_at(int line, int chunk) { return depth_inner_chunk(line, chunk); }

  static __device__ void load_rows(uint32_t (&a)[4], const Chunk* tile, int row, int step) {
    const int lane = threadIdx.x % kWarpThreads;
    load_matrices(a, tile + row * kLineChunks + chunk_at(lane % 16, step * 2 + lane / 16));
  }
  static __device__ void load_columns(uint32_t (&b)[4], const Chunk* tile, int column, int step) {
    const int lane = threadIdx.x % kWarpThreads;
    load_matrices(b, tile + column * kLineChunks + chunk_at(lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
  }
};

template <class T, int kExtent>
struct DepthOuterTile {
  static constexpr int kLines = kTileDepthElements<T>, kLineChunks = kExtent / kChunkElements<T>;
  static constexpr int kChunks = kLines * kLineChunks, kPeriod = sizeof(T) == 2 ? 8 : 4;
  static constexpr int kStepChunks = kLines / kSteps * kLineChunks;

  static __device__ int chunk_at(int line, int chunk) { return depth_outer_chunk(sizeof(T), kLineChunks, line, chunk); }

  static __device__ void load_rows(uint32_t (&a)[4], const Chunk* tile, int row, int step) {
    const int lane = threadIdx.x % kWarpThreads;
    tile += step * kStepChunks;
    if constexpr (sizeof(T) == 2) {
      load_matrices_transposed(a, tile + chunk_at(lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = word_of(tile, i / 2 * 4, row + i % 2 * 8);
    }
  }
  static __device__ void load_columns(uint32_t (&b)[4], const Chunk* tile, int column, int step) {
    const int lane = threadIdx.x % kWarpThreads;
    tile += step * kStepChunks;
    if constexpr (sizeof(T) == 2) {
      load_matrices_transposed(b, tile + chunk_at(lane % 16, column / 8 + lane / 16));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) b[i] = word_of(tile, i % 2 * 4, column + i / 2 * 8);
    }
  }

  // ldmatrix cannot transpose 32-bit elements. A warp reads 4 depths x 8 rows: 2 chunks of 4 lines, 32 banks.
  static __device__ uint32_t word_of(const Chunk* tile, int depth, int row) {
    const int lane = threadIdx.x % kWarpThreads, t = lane % 4, g = lane / 4;
    return tile[depth * kLineChunks + chunk_at(t, row / 4 + g / 4)].words[g % 4];
  }
};

// ---- float operands. Rounded to tf32 they are multiplied once (kSplit = false). In strict precision each is the sum
// of two tf32 numbers, a = hi + lo, and a b = lo hi + hi lo + hi hi to a relative 2^-21 ("3xTF32": Ootomo and Yokota
// 2022, CUTLASS example 28).

__device__ inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}
__device__ inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

constexpr uint32_t kSign = 0x80000000, kInfinity = 0x7F800000, kQuietNan = 0x7FFFFFFF, kOne = 0x3F800000;
constexpr uint32_t kHalfTf32Step = 0x1000, kTf32Mask = 0xFFFFE000, kLargestTf32 = 0x7F7FE000;

__device__ inline bool is_ordinary(uint32_t value) {
  return fabsf(float_of(value)) < float_of(kLargestTf32);
}

// hi is rounded to nearest; of lo, which has at most 13 bits and either sign, tensor cores read 11.
__device__ inline void split_ordinary(const uint32_t value, uint32_t& hi, uint32_t& lo) {
  hi = (value + kHalfTf32Step) & kTf32Mask;
  lo = bits_of(float_of(value) - float_of(hi));
}

// What is not finite must come out of the three products as out of one: hi = +-1, lo = a leaves the sign to the
// partner's hi, and Inf Inf = Inf; hi = Inf would meet lo = 0 in hi lo and make NaN of it. Rounding would make the
// largest floats infinite: their hi is the largest tf32.
__device__ inline void split_any(uint32_t value, uint32_t& hi, uint32_t& lo) {
  const uint32_t magnitude = value & ~kSign, largest = magnitude < kInfinity ? kLargestTf32 : kOne;
  hi = magnitude < kLargestTf32 ? (value + kHalfTf32Step) & kTf32Mask : (value & kSign) | largest;
  lo = magnitude > kInfinity ? kQuietNan : bits_of(float_of(value) - float_of(hi));
}

// hi: the values, and then what is left of them. Where all are ordinary, as a rule, that takes four instructions each.
template <int kTiles>
__device__ void split(uint32_t (&hi)[kTiles][4], uint32_t (&lo)[kTiles][4]) {
  bool ordinary = true;
#pragma unroll
  for (int i = 0; i < kTiles * 4; ++i) ordinary &= is_ordinary(hi[i / 4][i % 4]);
  if (ordinary) {
#pragma unroll
    for (int i = 0; i < kTiles * 4; ++i) split_ordinary(hi[i / 4][i % 4], hi[i / 4][i % 4], lo[i / 4][i % 4]);
  } else {
#pragma unroll
    for (int i = 0; i < kTiles * 4; ++i) split_any(hi[i / 4][i % 4], hi[i / 4][i % 4], lo[i / 4][i % 4]);
  }
}

// The registers of an operand, ready to be multiplied.
template <class T, bool kSplit, int kTiles>
__device__ void prepare(uint32_t (&registers)[kTiles][4], uint32_t (&lo)[kTiles][4]) {
  if constexpr (kSplit) {
    split(registers, lo);
  } else if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < kTiles * 4; ++i) {
      uint32_t& value = registers[i / 4][i % 4];
      value = bits_of(round_to_tf32(float_of(value)));
    }
  }
}

// sums += rows x columns over the kStepBytes of depth of one step: kRowTiles of 16 rows, kColumnTiles of 8 columns.
// `rows` and `columns` are what RowTile and ColumnTile load from: where a tile begins, as a rule.
template <class T, bool kSplit, class RowTile, class ColumnTile, class Rows, int kRowTiles, int kColumnTiles>
__device__ void multiply_step(float (&sums)[kRowTiles][kColumnTiles][4], const Rows& rows, int row,
                              const Chunk* columns, int column, int step) {
  uint32_t a[kRowTiles][4], a_lo[kRowTiles][4];
  uint32_t b_pairs[kColumnTiles / 2][4], b_pairs_lo[kColumnTiles / 2][4];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) RowTile::load_rows(a[i], rows, row + i * 16, step);
#pragma unroll
  for (int j = 0; j < kColumnTiles; j += 2) ColumnTile::load_columns(b_pairs[j / 2], columns, column + j * 8, step);
  prepare<T, kSplit>(a, a_lo);
  prepare<T, kSplit>(b_pairs, b_pairs_lo);
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
    const uint32_t b[2] = {b_pairs[j / 2][j % 2 * 2], b_pairs[j / 2][j % 2 * 2 + 1]};
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      if constexpr (kSplit) {
        // Tensor cores cut sums off towards zero. Over a long sum that bias would cost strict precision, so they add up
        // the products of one step alone, smallest first, and the total is rounded to nearest here.
        const uint32_t b_lo[2] = {b_pairs_lo[j / 2][j % 2 * 2], b_pairs_lo[j / 2][j % 2 * 2 + 1]};
        float sum[4] = {};
        multiply_add(T{}, sum, a_lo[i], b);
        multiply_add(T{}, sum, a[i], b_lo);
        multiply_add(T{}, sum, a[i], b);
#pragma unroll
        for (int v = 0; v < 4; ++v) sums[i][j][v] += sum[v];
      } else {
        multiply_add(T{}, sums[i][j], a[i], b);
      }
    }
  }
}

}  // namespace tmc
