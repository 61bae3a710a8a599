// A stage's activation over a dense tensor, in place: for the stages that conv_act_pool2d_fused.cu does not take.
// Thread i < vectors owns the i-th 16-byte vector, each later thread one of the values that are left. Bound: memory.
#include "cuda/elementwise/activation.cuh"
#include "cuda/machine/launch.h"
#include "cuda/machine/vector.h"
#include "cuda/stage/launchers.h"

namespace tmc {
namespace {

template <int kLanes, class T>
__device__ void activate(Activation activation, T* values) {
  Vector<T, kLanes> vector = load<kLanes>(values);
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane)
    vector.lanes[lane] = static_cast<T>(activated<T>(activation, static_cast<accumulate_t<T>>(vector.lanes[lane])));
  store(values, vector);
}

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    activation_kernel(Activation activation, T* values, int64_t vectors, int64_t count) {
  constexpr int kLanes = kVectorLanes<T>;
  const int64_t thread = thread_index(), i = vectors * kLanes + (thread - vectors);
  if (thread < vectors)
    activate<kLanes>(activation, values + thread * kLanes);
  else if (i < count)
    activate<1>(activation, values + i);
}

}  // namespace

void launch_activation(DType dtype, Activation activation, void* values, int64_t count, void* stream) {
  dispatch(dtype, [=](auto type) {
    using T = decltype(type);
    const int64_t vectors = count / kVectorLanes<T>;
    launch(activation_kernel<T>, grid_of_elements(vectors + count % kVectorLanes<T>), kElementThreads, stream,
           activation, static_cast<T*>(values), vectors, count);
  });
}

}  // namespace tmc
