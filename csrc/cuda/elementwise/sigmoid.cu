// Sigmoid and its gradient on the GPU, eq. 11 and 12. Elementwise over `count` values: thread i < vectors owns the
// i-th 16-byte vector, each later thread one of the values that are left. Bound by memory: a 16-byte access is the
// widest there is. Half types are computed in float.
#include "cuda/elementwise/activation.cuh"
#include "cuda/elementwise/launchers.h"
#include "cuda/machine/launch.h"
#include "cuda/machine/vector.h"

namespace tmc {
namespace {

template <class T, int kCount>
struct Arrays {
  const T* data[kCount];
};

// Formulas for values of T, computed in A.
struct SigmoidValue {
  static constexpr int kInputs = 1;
  template <class T, class A>
  static __device__ A of(const A (&x)[kInputs]) {
    return sigmoid_of<T>(x[0]);
  }
};

struct SigmoidGradient {
  static constexpr int kInputs = 2;  // grad_output, output
  template <class T, class A>
  static __device__ A of(const A (&x)[kInputs]) {
    return sigmoid_gradient(x[0], x[1]);
  }
};

template <class Formula, class T>
__global__ void __launch_bounds__(kElementThreads)
    elementwise_kernel(Arrays<T, Formula::kInputs> inputs, T* output, int64_t vectors, int64_t count) {
  constexpr int kInputs = Formula::kInputs, kLanes = kVectorLanes<T>;
  const int64_t thread = thread_index();
  accumulate_t<T> x[kInputs];
  if (thread < vectors) {
    Vector<T, kLanes> loaded[kInputs], result;
#pragma unroll
    for (int j = 0; j < kInputs; ++j) loaded[j] = load<kLanes>(inputs.data[j] + thread * kLanes);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
#pragma unroll
      for (int j = 0; j < kInputs; ++j) x[j] = static_cast<accumulate_t<T>>(loaded[j].lanes[lane]);
      result.lanes[lane] = static_cast<T>(Formula::template of<T>(x));
    }
    store(output + thread * kLanes, result);
    return;
  }
  const int64_t i = vectors * kLanes + (thread - vectors);
  if (i >= count) return;
#pragma unroll
  for (int j = 0; j < kInputs; ++j) x[j] = static_cast<accumulate_t<T>>(inputs.data[j][i]);
  output[i] = static_cast<T>(Formula::template of<T>(x));
}

// From an address that is not aligned on, every value is a lone one.
template <class Formula, class T>
void launch_elementwise(const Arrays<T, Formula::kInputs>& inputs, T* output, int64_t count, void* stream) {
  bool aligned = is_aligned(output);
  for (const T* input : inputs.data) aligned = aligned && is_aligned(input);
  const int64_t vectors = aligned ? count / kVectorLanes<T> : 0;
  const int64_t threads = vectors + (count - vectors * kVectorLanes<T>);
  launch(elementwise_kernel<Formula, T>, grid_of_elements(threads), kElementThreads, stream, inputs, output, vectors,
         count);
}

}  // namespace

void launch_sigmoid(DType dtype, const void* input, void* output, int64_t count, void* stream) {
  dispatch(dtype, [=](auto type) {
    using T = decltype(type);
    launch_elementwise<SigmoidValue, T>({static_cast<const T*>(input)}, static_cast<T*>(output), count, stream);
  });
}

void launch_sigmoid_grad_input(DType dtype, const void* grad_output, const void* output, void* grad_input,
                               int64_t count, void* stream) {
  dispatch(dtype, [=](auto type) {
    using T = decltype(type);
    launch_elementwise<SigmoidGradient, T>({static_cast<const T*>(grad_output), static_cast<const T*>(output)},
                                           static_cast<T*>(grad_input), count, stream);
  });
}

}  // namespace tmc
