// Sigmoid on the CPU: the operators, as flat passes over dense memory.
#include "sigmoid.h"

#include <algorithm>

#include "cpu/elementwise/sigmoid_plan.h"
#include "cpu/machine/machine.h"
#include "cpu/machine/tasks.h"
#include "tensor.h"

namespace tmc {
namespace {

constexpr int64_t kBlock = 1024;  // elements: ranges begin at whole cache lines
constexpr int64_t kGrain = 32;    // blocks a thread should have: as many elements as at::internal::GRAIN_SIZE

const SigmoidLoops& loops_for(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double: return kernels_for_this_cpu<SigmoidKernels>().float64;
    case ScalarType::Float: return kernels_for_this_cpu<SigmoidKernels>().float32;
    case ScalarType::BFloat16: return kernels_for_this_cpu<SigmoidKernels>().bfloat16;
    default: return kernels_for_this_cpu<SigmoidKernels>().float16;
  }
}

// body(begin, end) for ranges that cover [0, size), in parallel.
template <class F>
void for_ranges(int64_t size, F body) {
  torch::stable::parallel_for(0, ceil_div(size, kBlock), kGrain,
                              [&](int64_t begin, int64_t end) { body(begin * kBlock, std::min(end * kBlock, size)); });
}

Tensor sigmoid_cpu(Tensor input) {
  check_floating("sigmoid", "input", input);
  Tensor output = empty_as(input);
  const Tensor source = ordered_as(input, output);
  const SigmoidLoops& loops = loops_for(input.scalar_type());
  const void* from = source.const_data_ptr();
  void* to = output.mutable_data_ptr();
  const bool streams = is_streamed(to, output.numel() * output.element_size());
  for_ranges(output.numel(), [&](int64_t begin, int64_t end) { loops.output(from, to, begin, end, streams); });
  return output;
}

Tensor sigmoid_grad_input_cpu(Tensor grad_output, Tensor output) {
  sigmoid_check_gradient(sizes(grad_output), sizes(output));
  check_floating("sigmoid_grad_input", "output", output);
  check_like("sigmoid_grad_input", "grad_output", grad_output, "output", output);
  Tensor grad_input = empty_as(output);
  const Tensor gradient = ordered_as(grad_output, grad_input), value = ordered_as(output, grad_input);
  const SigmoidLoops& loops = loops_for(output.scalar_type());
  const void* dy = gradient.const_data_ptr();
  const void* y = value.const_data_ptr();
  void* dx = grad_input.mutable_data_ptr();
  const bool streams = is_streamed(dx, grad_input.numel() * grad_input.element_size());
  for_ranges(grad_input.numel(), [&](int64_t begin, int64_t end) { loops.grad_input(dy, y, dx, begin, end, streams); });
  return grad_input;
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  m.impl("sigmoid", TORCH_BOX(&tmc::sigmoid_cpu));
  m.impl("sigmoid_grad_input", TORCH_BOX(&tmc::sigmoid_grad_input_cpu));
}
