// Entry points of sigmoid on CUDA: checks, allocation, launch.
#include "sigmoid.h"

#include "cuda/elementwise/launchers.h"
#include "cuda/glue.h"

namespace tmc {
namespace {

Tensor sigmoid_cuda(Tensor input) {
  check_floating("sigmoid", "input", input);
  const DeviceGuard guard(input.get_device_index());
  Tensor output = empty_as(input);
  if (output.numel() == 0) return output;
  const Tensor source = ordered_as(input, output);
  launch_sigmoid(dtype_of(source), source.const_data_ptr(), output.mutable_data_ptr(), output.numel(),
                 current_stream(source));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

Tensor sigmoid_grad_input_cuda(Tensor grad_output, Tensor output) {
  sigmoid_check_gradient(sizes(grad_output), sizes(output));
  check_floating("sigmoid_grad_input", "output", output);
  check_like("sigmoid_grad_input", "grad_output", grad_output, "output", output);
  const DeviceGuard guard(output.get_device_index());
  Tensor grad_input = empty_as(output);
  if (grad_input.numel() == 0) return grad_input;
  const Tensor gradient = ordered_as(grad_output, grad_input), value = ordered_as(output, grad_input);
  launch_sigmoid_grad_input(dtype_of(value), gradient.const_data_ptr(), value.const_data_ptr(),
                            grad_input.mutable_data_ptr(), grad_input.numel(), current_stream(value));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_input;
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CUDA, m) {
  m.impl("sigmoid", TORCH_BOX(&tmc::sigmoid_cuda));
  m.impl("sigmoid_grad_input", TORCH_BOX(&tmc::sigmoid_grad_input_cuda));
}
