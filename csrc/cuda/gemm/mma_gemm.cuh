// The matrix product of cuda/gemm/implicit_gemm.cuh on tensor cores (mma.sync, sm_80 and later):
//
//   result[row, column] = sum over depth of image(row, depth) * matrix(depth, column)        for each group
//
// Both operands are read in chunks of 16 bytes. So what stands side by side in memory, the channels of channels_last
// tensors, must come in multiples of 8 half or 4 float elements. A Product says what rows, columns and depth are:
// cuda/conv2d/mma.cu, cuda/conv2d/grad_weight_mma.cu, cuda/stage/slice.cuh.
//
// A block owns kRows x kColumns results (cuda/gemm/mma_block.cuh), and its warps kWarpRows x kWarpColumns each, in
// registers. Tiles of both operands (cuda/gemm/mma_tile.cuh) come by cp.async into a ring of kRingStages stages in
// shared memory, kRingStages - 1 ahead of the multiplication. There is one barrier for each tile. The sum of a result
// runs over the depth in one order, whatever the block's shape and whatever else is in the batch. Bound: tensor cores;
// mma.sync is said to reach 55 % of what an H100's wgmma does.
//
// Budget: 64 x 64 results are 128 registers a thread and the fragments of a step 32, of 255. A stage of the wide block
// is 24 KB, four are 96 KB, which one multiprocessor of every architecture has (sm_120: 99 KB). Not tuned on a GPU.
#pragma once
#include "cuda/gemm/mma_block.cuh"

namespace tmc {

constexpr int kRingStages = 4;

// A Product derives from MmaExtents and adds
//   scalar_t, result_t, Block, kSplit     element types, an MmaBlock, whether float is strict (cuda/gemm/mma_tile.cuh)
//   ImageTile, MatrixTile                 DepthInnerTile or DepthOuterTile
//   ImageCopier, MatrixCopier             made of (product, tile); copy(product, tile, chunks) starts to copy its next
//                                         piece of depth
//   result_at(tile, row)                  where the columns of a row begin
//   bias_at(tile)                         what is added to the columns, or null

// What a block works on.
struct MmaTile {
  int group, part, row, column;  // the first of its rows and columns
  int depth_begin, depth_end;
};

// The column tile is fastest: blocks that run together share `image`, the larger operand.
template <class Product>
__device__ MmaTile mma_tile_of_block(const Product& product) {
  using Block = typename Product::Block;
  const int row_tiles = (product.rows + Block::kRows - 1) / Block::kRows;
  const int column_tiles = (product.columns + Block::kColumns - 1) / Block::kColumns;
  unsigned block = blockIdx.x;
  MmaTile tile;
  tile.column = block % column_tiles * Block::kColumns;
  block /= column_tiles;
  tile.row = block % row_tiles * Block::kRows;
  block /= row_tiles;
  tile.group = block % product.groups;
  tile.part = block / product.groups;
  tile.depth_begin = tile.part * product.part_depth;
  tile.depth_end =
      product.depth - tile.depth_begin < product.part_depth ? product.depth : tile.depth_begin + product.part_depth;
  return tile;
}

// Which chunks of a tile a thread copies: one chunk of every kStep-th line. They stand at place() + i * kPlaceStep.
// Threads that are left over, which are whole warps, copy nothing.
template <class Tile, class Block>
struct CopyShare {
  static constexpr int kStep = Block::kThreads / Tile::kLineChunks / Tile::kPeriod * Tile::kPeriod;
  static constexpr int kCount = Tile::kLines / kStep, kPlaceStep = kStep * Tile::kLineChunks;
  static_assert(kCount * kStep == Tile::kLines && kPlaceStep % kWarpThreads == 0);
  static __device__ bool is_empty() { return kPlaceStep < Block::kThreads && threadIdx.x >= kPlaceStep; }
  static __device__ int chunk() { return threadIdx.x % Tile::kLineChunks; }
  static __device__ int line() { return threadIdx.x / Tile::kLineChunks; }
  static __device__ int place() { return Tile::chunk_at(line(), chunk()); }
};

// Copies a matrix whose lines are the lines of the tile; `line` and `chunk` are the thread's first ones in it, and
// `from` is where the line begins. Behind the ends there are zeros. Where the next tile begins is the owner's affair.
template <class Tile, class Block>
struct MatrixLines {
  using Shared = CopyShare<Tile, Block>;
  const Chunk* from;
  int line, chunk;

  __device__ MatrixLines(const Chunk* matrix, int64_t line_chunks, int line, int chunk)
      : from(matrix + line * line_chunks), line(line), chunk(chunk) {}

  __device__ void copy(int64_t line_chunks, int lines_end, int chunks_end, Chunk* tile) const {
    if (Shared::is_empty()) return;
#pragma unroll
    for (int i = 0; i < Shared::kCount; ++i)
      copy_async(tile + Shared::place() + i * Shared::kPlaceStep, from + chunk + i * Shared::kStep * line_chunks,
                 line + i * Shared::kStep < lines_end && chunk < chunks_end);
  }
};

// What a warp of the block owns of its results: the first row and column.
template <class Block>
__device__ int warp_row() {
  return threadIdx.x / kWarpThreads / Block::kColumnWarps * Block::kWarpRows;
}
template <class Block>
__device__ int warp_column() {
  return threadIdx.x / kWarpThreads % Block::kColumnWarps * Block::kWarpColumns;
}

// Multiplies the block's tiles; afterwards nobody reads the ring any more.
template <class Product, class Tile, int kRowTiles, int kColumnTiles>
__device__ void multiply_tiles(const Product& product, const Tile& tile, Chunk* ring,
                               float (&sums)[kRowTiles][kColumnTiles][4]) {
  using Block = typename Product::Block;
  using ImageTile = typename Product::ImageTile;
  using MatrixTile = typename Product::MatrixTile;
  constexpr int kStageChunks = ImageTile::kChunks + MatrixTile::kChunks;
  typename Product::ImageCopier image(product, tile);
  typename Product::MatrixCopier matrix(product, tile);
  constexpr int kTileDepth = kTileDepthElements<typename Product::scalar_t>;
  const int tiles = (tile.depth_end - tile.depth_begin + kTileDepth - 1) / kTileDepth;
  const auto copy = [&](int index) {
    Chunk* const stage = ring + index % kRingStages * kStageChunks;
    image.copy(product, tile, stage);
    matrix.copy(product, tile, stage + ImageTile::kChunks);
  };

  // A group of copies is closed for every tile, also for those past the end: so the number of groups that may still be
  // on their way is always the same.
#pragma unroll
  for (int i = 0; i < kRingStages - 1; ++i) {
    if (i < tiles) copy(i);
    commit_copies();
  }
  // The next step's operands are loaded early where there are registers: 255 a thread, in blocks above 256 threads 168.
  constexpr int kUnrolledSteps = Product::kSplit || Block::kThreads > 256 ? 1 : kSteps;
  const int row = warp_row<Block>(), column = warp_column<Block>();
  for (int i = 0; i < tiles; ++i) {
    wait_for_copies<kRingStages - 2>();
    __syncthreads();  // the tile has landed for every thread, and none still reads the one that is overwritten next
    if (i + kRingStages - 1 < tiles) copy(i + kRingStages - 1);
    commit_copies();
    const Chunk* const stage = ring + i % kRingStages * kStageChunks;
#pragma unroll(kUnrolledSteps)
    for (int step = 0; step < kSteps; ++step)
      multiply_step<typename Product::scalar_t, Product::kSplit, ImageTile, MatrixTile>(
          sums, stage, row, stage + ImageTile::kChunks, column, step);
  }
  wait_for_copies<0>();
  __syncthreads();  // nobody reads the last tiles any more: their memory is used again
}

template <class Product, class Tile, int kRowTiles, int kColumnTiles>
__device__ void add_bias(const Product& product, const Tile& tile, int column,
                         float (&sums)[kRowTiles][kColumnTiles][4]) {
  const auto* const bias = product.bias_at(tile);
  if (bias == nullptr) return;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const int place = column + j * 8 + t * 2 + v;
      const float value = tile.column + place < product.columns ? static_cast<float>(bias[place]) : 0;
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) sums[i][j][v] += value, sums[i][j][v + 2] += value;
    }
}

// Writes a warp's results, 16 rows at a time, through shared memory of its own, so that neighbouring lanes write
// neighbouring chunks.
template <class Product, int kRowTiles, int kColumnTiles>
__device__ void store_sums(const Product& product, const MmaTile& tile, int row, int column,
                           float (&sums)[kRowTiles][kColumnTiles][4], char* shared) {
  using Result = typename Product::result_t;
  constexpr int kColumns = kColumnTiles * 8, kRowChunks = kColumns / kChunkElements<Result>;
  const int lane = threadIdx.x % kWarpThreads, g = lane / 4, t = lane % 4;
  Result* const staged =
      reinterpret_cast<Result*>(shared) + staged_element(kColumns, threadIdx.x / kWarpThreads * 16, 0);
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
      for (int v = 0; v < 4; ++v)
        staged[staged_element(kColumns, g + v / 2 * 8, j * 8 + t * 2 + v % 2)] = static_cast<Result>(sums[i][j][v]);
    __syncwarp();
#pragma unroll
    for (int e = lane; e < 16 * kRowChunks; e += kWarpThreads) {
      const int r = e / kRowChunks, place = e % kRowChunks * kChunkElements<Result>;
      if (tile.row + row + i * 16 + r < product.rows && tile.column + column + place < product.columns)
        *reinterpret_cast<Chunk*>(product.result_at(tile, row + i * 16 + r) + column + place) =
            *reinterpret_cast<const Chunk*>(staged + staged_element(kColumns, r, place));
    }
    __syncwarp();
  }
}

template <class Product>
__global__ void __launch_bounds__(Product::Block::kThreads, Product::Block::kBlocksPerMultiprocessor)
    mma_gemm_kernel(const Product product) {
  using Block = typename Product::Block;
  const MmaTile tile = mma_tile_of_block(product);
  Chunk* const ring = reinterpret_cast<Chunk*>(dynamic_shared_memory());
  const int row = warp_row<Block>(), column = warp_column<Block>();
  float sums[Block::kWarpRows / 16][Block::kWarpColumns / 8][4] = {};
  multiply_tiles(product, tile, ring, sums);
  add_bias(product, tile, column, sums);
  store_sums(product, tile, row, column, sums, reinterpret_cast<char*>(ring));
}

template <class Product>
void launch_mma_gemm(const Product& product, void* stream) {
  using Block = typename Product::Block;
  constexpr int kStageChunks = Product::ImageTile::kChunks + Product::MatrixTile::kChunks;
  const int64_t blocks = tiles_of<Block>(product) * product.parts;
  launch_with_shared_memory(mma_gemm_kernel<Product>, dim3(static_cast<unsigned>(blocks)), Block::kThreads,
                            kRingStages * kStageChunks * int(sizeof(Chunk)), stream, product);
}

}  // namespace tmc
