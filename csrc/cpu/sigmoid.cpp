// Sigmoid on the CPU: one flat pass over dense storage, eq. 11 and 12.
#include "sigmoid.h"

#include "tensor.h"

namespace tmc {
namespace {

constexpr int64_t kGrain = 32768;  // elements: torch's own grain for elementwise work

bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t axis = 0; axis < a.dim(); ++axis)
    if (a.size(axis) > 1 && a.stride(axis) != b.stride(axis)) return false;
  return true;
}

// `tensor`, or a copy of it, with its elements in the order of `like`, which is dense.
Tensor ordered_as(const Tensor& tensor, const Tensor& like) {
  if (same_strides(tensor, like)) return tensor;
  Tensor copy = torch::stable::empty_like(like);
  torch::stable::copy_(copy, tensor);
  return copy;
}

Tensor sigmoid_cpu(Tensor input) {
  check_floating("sigmoid", "input", input);
  Tensor output = torch::stable::empty_like(input);
  const Tensor source = ordered_as(input, output);
  TMC_DISPATCH_FLOATING(input, "sigmoid", [&] {
    const scalar_t* x = source.const_data_ptr<scalar_t>();
    scalar_t* y = output.mutable_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, output.numel(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = sigmoid_value<accumulate_t<scalar_t>>(x[i]);
    });
  });
  return output;
}

Tensor sigmoid_grad_input_cpu(Tensor grad_output, Tensor output) {
  sigmoid_check_gradient(sizes(grad_output), sizes(output));
  check_floating("sigmoid_grad_input", "output", output);
  check_like("sigmoid_grad_input", "grad_output", grad_output, "output", output);
  Tensor grad_input = torch::stable::empty_like(grad_output);
  const Tensor gradient = ordered_as(grad_output, grad_input), value = ordered_as(output, grad_input);
  TMC_DISPATCH_FLOATING(output, "sigmoid_grad_input", [&] {
    const scalar_t* g = gradient.const_data_ptr<scalar_t>();
    const scalar_t* y = value.const_data_ptr<scalar_t>();
    scalar_t* dx = grad_input.mutable_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, grad_input.numel(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) dx[i] = sigmoid_gradient<accumulate_t<scalar_t>>(g[i], y[i]);
    });
  });
  return grad_input;
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  m.impl("sigmoid", TORCH_BOX(&tmc::sigmoid_cpu));
  m.impl("sigmoid_grad_input", TORCH_BOX(&tmc::sigmoid_grad_input_cpu));
}
