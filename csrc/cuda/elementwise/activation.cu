// The activation of a stage that is not fused (cuda/stage/plan.h), over a dense tensor, in place.
#include "cuda/elementwise/activation.cuh"
#include "cuda/elementwise/elementwise.cuh"
#include "cuda/elementwise/launchers.h"

namespace tmc {
namespace {

struct ActivationValue {
  static constexpr int kInputs = 1;
  Activation activation;
  template <class T, class A>
  __device__ A of(const A (&x)[kInputs]) const {
    return activated<T>(activation, x[0]);
  }
};

}  // namespace

void launch_activation(DType dtype, Activation activation, void* values, int64_t count, void* stream) {
  dispatch(dtype, [=](auto type) {
    using T = decltype(type);
    T* const data = static_cast<T*>(values);
    launch_elementwise<T>(ActivationValue{activation}, {data}, data, count, stream);
  });
}

}  // namespace tmc
