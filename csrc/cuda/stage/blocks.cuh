// The blocks of cuda/stage/mma.cu. Four warps stand above each other, so that a tile of the map may have any
// number of filters; a warp's 48 or 64 x 64 results are 96 or 128 registers a thread. A block whose map comes in slices
// (TF32, two columns of warps) keeps its results meanwhile, and 128 would not fit.
#pragma once
#include "cuda/gemm/mma_block.cuh"

namespace tmc {

template <class... Blocks>
struct BlockList {
  // Calls body(i, block) for each.
  template <class Body>
  static void for_each(Body body) {
    int i = 0;
    (body(i++, Blocks{}), ...);
  }
};

template <class T, bool kSplit>
using StageBlocks = std::conditional_t<
    kSplit, BlockList<BlockShape<8, 1, 32, 64, 1>, BlockShape<4, 2, 48, 32, 1>, BlockShape<4, 1, 32, 64, 2>>,
    std::conditional_t<sizeof(T) == 4,
                       BlockList<BlockShape<4, 2, 48, 64, 1>, BlockShape<4, 1, 64, 64, 2>, BlockShape<4, 1, 32, 64, 3>>,
                       BlockList<BlockShape<4, 2, 64, 64, 1>, BlockShape<4, 3, 48, 64, 1>, BlockShape<4, 2, 48, 64, 1>,
                                 BlockShape<4, 1, 64, 64, 2>, BlockShape<4, 1, 32, 64, 3>>>>;

// Of the convolution alone, for comparison (cuda/conv2d/mma.cu, cuda/conv2d/grad_weight_mma.cu).
template <bool kSplit>
using PlainBlocks =
    std::conditional_t<kSplit, BlockList<StrictBlock>, BlockList<WideBlock, LongBlock, TallBlock, NarrowBlock>>;
// Calls body(T{}, split) as dispatch_mma does, `split` telling of 3xTF32.
template <class Body>
void dispatch_stage(DType dtype, bool strict, Body body) {
  dispatch_mma(dtype, [&](auto type) {
    if constexpr (sizeof(type) == 4)
      if (strict) return body(type, std::true_type{});
    body(type, std::false_type{});
  });
}

}  // namespace tmc
