#include "cpu/elementwise/activation.h"

#include "cpu/elementwise/activation_plan.h"
#include "cpu/machine/machine.h"

namespace tmc {
namespace {

constexpr int64_t kGrain = 8192;  // elements a thread should have: they come from cache

const ActivationsByName& activations_for(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double: return kernels_for_this_cpu<ActivationKernels>().float64;
    case ScalarType::Float: return kernels_for_this_cpu<ActivationKernels>().float32;
    case ScalarType::BFloat16: return kernels_for_this_cpu<ActivationKernels>().bfloat16;
    default: return kernels_for_this_cpu<ActivationKernels>().float16;
  }
}

const ActivationLoops& loops_for(Activation activation, ScalarType dtype) {
  const ActivationsByName& activations = activations_for(dtype);
  switch (activation) {
    case Activation::sigmoid: return activations.sigmoid;
    case Activation::relu: return activations.relu;
    default: return activations.tanh;
  }
}

}  // namespace

void activate(Activation activation, Tensor& values) {
  if (activation == Activation::none) return;
  const ActivationLoops& loops = loops_for(activation, values.scalar_type());
  void* data = values.mutable_data_ptr();
  torch::stable::parallel_for(0, values.numel(), kGrain,
                              [&](int64_t begin, int64_t end) { loops.activate(data, begin, end); });
}

void activation_gradient(Activation activation, const Tensor& grad_output, const Tensor& activated, Tensor& result) {
  const ActivationLoops& loops = loops_for(activation, result.scalar_type());
  const void *g = grad_output.const_data_ptr(), *o = activated.const_data_ptr();
  void* to = result.mutable_data_ptr();
  torch::stable::parallel_for(0, result.numel(), kGrain,
                              [&](int64_t begin, int64_t end) { loops.gradient(g, o, to, begin, end); });
}

}  // namespace tmc
