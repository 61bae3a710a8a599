#include "cuda/conv2d/pack.h"
#include "cuda/conv2d/parts.h"
#include "cuda/gemm/mma_tile.cuh"

namespace tmc {
namespace {

// Thread i owns element i of a part, a weight of the packed convolution: it adds up the parts and writes the sum to the
// unpacked weight. What packing has added is left out. Bound by memory.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    sum_weight_parts_kernel(const Conv2dShape shape, const Conv2dPlan plan, bool channels_last, int64_t inner_filters,
                            const float* sums, int parts, T* grad_weight) {
  const int64_t channels = channels_per_group(plan.shape), i = thread_index();
  const int64_t count = plan.shape.k * plan.shape.r * plan.shape.s * channels;
  if (i >= count) return;
  const int64_t outer = i / inner_filters;
  const Coordinates at = coordinates_of(outer, channels, plan.shape.r, plan.shape.s, true);
  const int64_t k = at.n * inner_filters + i - outer * inner_filters;
  const WeightPlace to = unpacked(shape, plan.packing, at.c, at.h, at.w);
  if (to.c < 0) return;
  float sum = 0;
  for (int part = 0; part < parts; ++part) sum += sums[part * count + i];
  const Strides strides = dense_strides(channels_per_group(shape), shape.r, shape.s, channels_last);
  grad_weight[offset_of(strides, {k, to.c, to.r, to.s})] = static_cast<T>(sum);
}

}  // namespace

void sum_weight_parts(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last,
                      int64_t inner_filters, const float* sums, int parts, void* grad_weight, void* stream) {
  const int64_t count = plan.shape.k * plan.shape.r * plan.shape.s * channels_per_group(plan.shape);
  dispatch_mma(dtype, [&](auto type) {
    using T = decltype(type);
    launch(sum_weight_parts_kernel<T>, grid_of_elements(count), kElementThreads, stream, shape, plan, channels_last,
           inner_filters, sums, parts, static_cast<T*>(grad_weight));
  });
}

}  // namespace tmc
