// The activation of a stage that is not fused (cuda/stage/plan.h), over a dense tensor, in place.
#include "cuda/elementwise/elementwise.cuh"
#include "cuda/elementwise/launchers.h"

namespace tmc {

void launch_activation(DType dtype, Activation activation, void* values, int64_t count, void* stream) {
  const ElementwiseArrays arrays = {{values}, values, {}};
  dispatch(dtype, [=](auto type) {
    using T = decltype(type);
    switch (activation) {
      case Activation::none: return;
      case Activation::sigmoid: return launch_formula<SigmoidValue, T>(arrays, count, stream);
      case Activation::relu: return launch_formula<ReluValue, T>(arrays, count, stream);
      case Activation::tanh: return launch_formula<TanhValue, T>(arrays, count, stream);
    }
  });
}

}  // namespace tmc
