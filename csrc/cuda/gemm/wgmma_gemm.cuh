// The matrix product of cuda/gemm/implicit_gemm.cuh on an H100's tensor cores (wgmma, sm_90a):
//
//   result[row, column] = sum over depth of matrix(row, depth) * image(depth, column)
//
// Rows and columns have changed places: filters are rows, since they come in multiples of 64, which wgmma has as rows.
// Pixels are columns, in any number. A Product says what they are: cuda/conv2d/wgmma.cu,
// cuda/conv2d/grad_weight_wgmma.cu.
//
// One block stays on each multiprocessor and takes tiles of kRows x kColumns results in turn. One thread of its last
// warpgroup starts copies by TMA into a ring of kStages stages in shared memory. Each of the other warpgroups
// multiplies kRowTiles x 64 rows by kGroupColumns columns, one stage after the other, with the sums in registers. Each
// stage has two barriers: `full` when its bytes have come, `empty` when every warp has read it. The copies of the next
// tile run while the last one is stored. A result's sum runs over the depth in one order, whichever block takes it.
// Bound: tensor cores, or L2 where tiles are read often: 192 x 256 results take 56 KB for 1.6 us of products
// [calculated, not measured].
//
// Budget, of 227 KB and 65536 registers: 64 x 256 results of a warpgroup are 128 registers a thread, 192 x 128 are 192.
// Two warpgroups of 240 and one of 24 fill the multiprocessor (setmaxnreg). Three warpgroups of 64 x 256 do not
// compile: the instruction wants 154 registers before setmaxnreg has given them.
#pragma once
#include "cuda/gemm/mma_tile.cuh"
#include "cuda/machine/wgmma.h"

namespace tmc {

constexpr int kGroupRows = 64;                            // of a warpgroup: wgmma's
constexpr int kGroupTileBytes = kGroupRows * kLineBytes;  // 64 lines
constexpr int kProducts = 4;                              // of one stage: 64 half elements of depth, or 32 floats
constexpr int kGroupWarps = kWarpgroupThreads / kWarpThreads;

template <int kRowTiles_, int kRowGroups_, int kColumnGroups_, int kGroupColumns_, int kStages_,
          int kBlocksPerMultiprocessor_ = 1>
struct WgmmaBlock {
  static constexpr int kRowTiles = kRowTiles_, kRowGroups = kRowGroups_;
  static constexpr int kColumnGroups = kColumnGroups_, kGroupColumns = kGroupColumns_;
  static constexpr int kGroups = kRowGroups * kColumnGroups, kThreads = (kGroups + 1) * kWarpgroupThreads;
  static constexpr int kRows = kRowTiles * kRowGroups * kGroupRows, kColumns = kColumnGroups * kGroupColumns;
  static constexpr int kStages = kStages_, kStageBytes = (kRows + kColumns) * kLineBytes;
  static constexpr int kBlocksPerMultiprocessor = kBlocksPerMultiprocessor_;
  static constexpr int kSums = kRowTiles * kGroupColumns / 2;  // of a thread
};
// For a number of filters that is a multiple of 192, of 128; and of 64, or with few results.
using WgmmaTall = WgmmaBlock<3, 1, 2, 128, 3>;      // 192 x 256
using WgmmaWide = WgmmaBlock<1, 2, 1, 256, 4>;      // 128 x 256
using WgmmaSmall = WgmmaBlock<1, 1, 1, 128, 4, 2>;  //  64 x 128

// The sums of a thread (cuda/machine/wgmma.h), and what of a tile its warpgroup has: the first row and column.
template <class Block>
using WgmmaSums = float[Block::kRowTiles][Block::kGroupColumns / 2];
template <class Block>
__device__ int first_row(int group) {
  return group / Block::kColumnGroups * Block::kRowTiles * kGroupRows;
}
template <class Block>
__device__ int first_column(int group) {
  return group % Block::kColumnGroups * Block::kGroupColumns;
}

// Where the sums of one warpgroup are rearranged before they are stored (cuda/conv2d/wgmma.cu): two buffers of 32 lines
// of 64 half elements, or of 16 lines of 64 floats and 4 of padding.
constexpr int kStagingBytes = 2 * 16 * 68 * 4;

template <class Block>
struct WgmmaShared {
  char stages[Block::kStages][Block::kStageBytes];  // rows, then columns
  char staging[Block::kGroups][kStagingBytes];
  Barrier full[Block::kStages], empty[Block::kStages];
};

// The stage that a thread has come to, and how often it went around the ring.
template <int kStages>
struct RingPlace {
  int stage = 0, parity = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

// A Product has
//   scalar_t, Block          element type of both operands, a WgmmaBlock
//   kDepthOuter              how their tiles lie (cuda/machine/wgmma.h)
//   tiles                    how many tiles of results there are
//   Tile                     made of (product, index): what one of them is; steps() stages of depth
//   Copier                   made of (product, tile); copy(product, tile, rows, columns, full) starts to copy the next
//                            stage's, after arrive_expecting their bytes at `full`
//   store(tile, group, sums, staging)      what the warpgroup has summed
template <class Product>
__device__ void start_copies(const Product& product, WgmmaShared<typename Product::Block>& shared) {
  using Block = typename Product::Block;
  RingPlace<Block::kStages> place;
  for (int index = blockIdx.x; index < product.tiles; index += gridDim.x) {
    const typename Product::Tile tile(product, index);
    typename Product::Copier copier(product, tile);
    for (int step = 0; step < tile.steps(product); ++step) {
      wait_for_phase(shared.empty[place.stage], place.parity ^ 1);
      char* const stage = shared.stages[place.stage];
      copier.copy(product, tile, stage, stage + Block::kRows * kLineBytes, shared.full[place.stage]);
      place.advance();
    }
  }
}

template <class Product>
__device__ void multiply_and_store(const Product& product, WgmmaShared<typename Product::Block>& shared) {
  using Block = typename Product::Block;
  constexpr int kProductBytes = Product::kDepthOuter ? kGroupTileBytes / kProducts : kLineBytes / kProducts;
  const int group = threadIdx.x / kWarpgroupThreads;
  const bool first_lane = threadIdx.x % kWarpThreads == 0;
  const int rows = first_row<Block>(group) * kLineBytes;
  const int columns = (Block::kRows + first_column<Block>(group)) * kLineBytes;
  RingPlace<Block::kStages> place;
  for (int index = blockIdx.x; index < product.tiles; index += gridDim.x) {
    const typename Product::Tile at(product, index);
    const int steps = at.steps(product);
    WgmmaSums<Block> sums = {};
    int previous = 0;
    for (int step = 0; step < steps; ++step) {
      wait_for_phase(shared.full[place.stage], place.parity);
      const uint64_t a = operand_of(shared.stages[place.stage] + rows, kGroupTileBytes);
      const uint64_t b = operand_of(shared.stages[place.stage] + columns, kGroupTileBytes);
      begin_products();
#pragma unroll
      for (int i = 0; i < kProducts; ++i)
#pragma unroll
        for (int tile = 0; tile < Block::kRowTiles; ++tile)
          multiply_add<Product::kDepthOuter>(typename Product::scalar_t{}, sums[tile],
                                             advanced(a, tile * kGroupTileBytes + i * kProductBytes),
                                             advanced(b, i * kProductBytes));
      commit_products();
      wait_for_products<1>();  // the previous stage has been read
      if (step > 0 && first_lane) arrive(shared.empty[previous]);
      previous = place.stage;
      place.advance();
    }
    wait_for_products<0>();
#pragma unroll
    for (int i = 0; i < Block::kRowTiles; ++i) products_are_done(sums[i]);
    if (steps > 0 && first_lane) arrive(shared.empty[previous]);
    product.store(at, group, sums, shared.staging[group]);
  }
}

template <class Product>
__global__ void __launch_bounds__(Product::Block::kThreads, Product::Block::kBlocksPerMultiprocessor)
    wgmma_gemm_kernel(const __grid_constant__ Product product) {
  if constexpr (kIsHopper) {
    using Block = typename Product::Block;
    auto& shared = *reinterpret_cast<WgmmaShared<Block>*>(tile_aligned_shared_memory());
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < Block::kStages; ++stage) {
        init_barrier(shared.full[stage], 1);
        init_barrier(shared.empty[stage], Block::kGroups * kGroupWarps);
      }
      publish_barriers();
    }
    __syncthreads();
    constexpr bool kManySums = Block::kSums >= 128;
    if (threadIdx.x / kWarpgroupThreads == Block::kGroups) {
      if constexpr (kManySums) give_up_registers<24>();
      if (threadIdx.x % kWarpgroupThreads == 0) start_copies(product, shared);
    } else {
      if constexpr (kManySums) take_registers<240>();
      multiply_and_store(product, shared);
    }
  }
}

template <class Product>
void launch_wgmma_gemm(const Product& product, void* stream) {
  using Block = typename Product::Block;
  static_assert(!Product::kDepthOuter || sizeof(typename Product::scalar_t) == 2,
                "tf32 has only lines along the depth");
  const int blocks = std::min(product.tiles, multiprocessors() * Block::kBlocksPerMultiprocessor);
  launch_on_hopper(wgmma_gemm_kernel<Product>, dim3(static_cast<unsigned>(blocks)), Block::kThreads,
                   int(sizeof(WgmmaShared<Block>)), stream, product);
}

}  // namespace tmc
