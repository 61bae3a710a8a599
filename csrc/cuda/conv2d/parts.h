// The gradient by the weight on tensor cores, in parts. It sums over every pixel of a batch, far more than there are
// results: the depth is cut into parts, whose sums fill the GPU and are added in order.
#pragma once
#include <algorithm>

#include "cuda/conv2d/plan.h"
#include "cuda/machine/primitives.h"

namespace tmc {

struct DepthParts {
  int count, depth;  // of each part but the last one, which may be shorter
};

// Cuts `depth` into parts whose length is a multiple of `multiple`, for a product of `tiles` tiles. As many as fill the
// multiprocessors once; or twice, where more than two times the parts fit then, and less is left idle. A part of less
// than kMinPartDepth would cost more to add than to compute [estimate, not measured on a GPU]. The bits depend on the
// number of parts, hence on the shape alone.
inline DepthParts cut_depth(int64_t depth, int64_t multiple, int64_t tiles) {
  constexpr int64_t kMinPartDepth = 1024;
  const int64_t once = std::max<int64_t>(kMultiprocessors / tiles, 1), twice = 2 * kMultiprocessors / tiles;
  const int64_t most = std::max<int64_t>(depth / kMinPartDepth, 1),
                parts = std::min(twice > 2 * once ? twice : once, most);
  const int64_t part_depth = std::max<int64_t>(ceil_div(ceil_div(depth, parts), multiple), 1) * multiple;
  return {static_cast<int>(std::max<int64_t>(ceil_div(depth, part_depth), 1)), static_cast<int>(part_depth)};
}

// grad_weight from the sums of `parts` parts, each [groups, k / (groups * inner_filters), r, s, c, inner_filters] of
// plan.shape: filters innermost (mma.sync), or inner_filters = 1 (wgmma). The result is channels_last or contiguous.
void sum_weight_parts(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last,
                      int64_t inner_filters, const float* sums, int parts, void* grad_weight, void* stream);

}  // namespace tmc
