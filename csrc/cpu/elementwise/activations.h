// The activations of a fused stage on dense tensors.
#pragma once
#include "activation.h"
#include "tensor.h"

namespace tmc {

// values = g(values); Activation::none leaves them as they are.
void activate(Activation activation, Tensor& values);

// result = grad_output * g'(activated), all in one memory order; the result may be grad_output itself.
void activation_gradient(Activation activation, const Tensor& grad_output, const Tensor& activated, Tensor& result);

}  // namespace tmc
