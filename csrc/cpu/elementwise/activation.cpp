#include "cpu/elementwise/activations.h"
#include "cpu/elementwise/run.h"

namespace tmc {
namespace {

struct Formulas {
  const char *value, *gradient;
};

Formulas formulas_of(Activation activation) {
  switch (activation) {
    case Activation::sigmoid: return {SigmoidValue::kName, SigmoidGradient::kName};
    case Activation::relu: return {ReluValue::kName, ReluGradient::kName};
    default: return {TanhValue::kName, TanhGradient::kName};
  }
}

}  // namespace

void activate(Activation activation, Tensor& values) {
  if (activation == Activation::none) return;
  void* data = values.mutable_data_ptr();
  run_elementwise(formulas_of(activation).value, values.scalar_type(), {{data}, data}, values.numel(),
                  Results::in_cache);
}

void activation_gradient(Activation activation, const Tensor& grad_output, const Tensor& activated, Tensor& result) {
  const ElementwiseArrays arrays = {{grad_output.const_data_ptr(), activated.const_data_ptr()},
                                    result.mutable_data_ptr()};
  run_elementwise(formulas_of(activation).gradient, result.scalar_type(), arrays, result.numel(), Results::in_cache);
}

}  // namespace tmc
