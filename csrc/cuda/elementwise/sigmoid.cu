// Sigmoid and its gradient on the GPU, eq. 11 and 12.
#include "cuda/elementwise/activation.cuh"
#include "cuda/elementwise/elementwise.cuh"
#include "cuda/elementwise/launchers.h"

namespace tmc {
namespace {

struct SigmoidValue {
  static constexpr int kInputs = 1;
  template <class T, class A>
  __device__ A of(const A (&x)[kInputs]) const {
    return sigmoid_of<T>(x[0]);
  }
};

struct SigmoidGradient {
  static constexpr int kInputs = 2;  // grad_output, output
  template <class T, class A>
  __device__ A of(const A (&x)[kInputs]) const {
    return sigmoid_gradient(x[0], x[1]);
  }
};

}  // namespace

void launch_sigmoid(DType dtype, const void* input, void* output, int64_t count, void* stream) {
  dispatch(dtype, [=](auto type) {
    using T = decltype(type);
    launch_elementwise<T>(SigmoidValue{}, {static_cast<const T*>(input)}, static_cast<T*>(output), count, stream);
  });
}

void launch_sigmoid_grad_input(DType dtype, const void* grad_output, const void* output, void* grad_input,
                               int64_t count, void* stream) {
  dispatch(dtype, [=](auto type) {
    using T = decltype(type);
    launch_elementwise<T>(SigmoidGradient{}, {static_cast<const T*>(grad_output), static_cast<const T*>(output)},
                          static_cast<T*>(grad_input), count, stream);
  });
}

}  // namespace tmc
