// Entry points of convolution on the CPU: checks, allocation, and the way to the algorithm that was chosen.
#include "conv2d_ops.h"
#include "cpu/conv2d/core.h"

namespace tmc {

PreparedWeight prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight) {
  const Conv2dAlgorithm& algorithm = choose_algorithm(pass, problem);
  return {weight, &algorithm, algorithm.prepare(pass, problem, weight)};
}

void conv2d_forward(const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
                    const std::optional<Tensor>& bias, Tensor& output) {
  weight.algorithm->forward(problem, input, weight, bias, output);
}

void conv2d_grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                       Tensor& grad_input) {
  weight.algorithm->grad_input(problem, grad_output, weight, grad_input);
}

void conv2d_grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input,
                        Tensor& grad_weight) {
  choose_algorithm(Conv2dPass::grad_weight, problem).grad_weight(problem, grad_output, input, grad_weight);
}

namespace {

Tensor conv2d_cpu(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias, IntList geometry,
                  int64_t groups, std::string precision) {
  const Conv2dShape shape = check_conv2d(input, weight, bias, {geometry, groups});
  const Conv2dProblem problem = {shape, dtype_of(input), check_precision("conv2d", precision)};
  Tensor output =
      empty_nchw(input, shape.n, shape.k, shape.p, shape.q, is_channels_last(input) || is_channels_last(weight));
  conv2d_forward(problem, input, prepare(Conv2dPass::forward, problem, weight), bias, output);
  return output;
}

Tensor conv2d_grad_input_cpu(const Tensor& grad_output, const Tensor& weight, IntList input_size, IntList geometry,
                             int64_t groups, std::string precision) {
  const Conv2dShape shape = check_conv2d_grad_input(grad_output, weight, input_size, {geometry, groups});
  const Conv2dProblem problem = {shape, dtype_of(grad_output), check_precision("conv2d_grad_input", precision)};
  Tensor grad_input = empty_nchw(grad_output, shape.n, shape.c, shape.h, shape.w,
                                 is_channels_last(grad_output) || is_channels_last(weight));
  conv2d_grad_input(problem, grad_output, prepare(Conv2dPass::grad_input, problem, weight), grad_input);
  return grad_input;
}

Tensor conv2d_grad_weight_cpu(const Tensor& grad_output, const Tensor& input, IntList kernel_size, IntList geometry,
                              int64_t groups, std::string precision) {
  const Conv2dShape shape = check_conv2d_grad_weight(grad_output, input, kernel_size, {geometry, groups});
  const Conv2dProblem problem = {shape, dtype_of(input), check_precision("conv2d_grad_weight", precision)};
  Tensor grad_weight = empty_nchw(grad_output, shape.k, channels_per_group(shape), shape.r, shape.s,
                                  is_channels_last(grad_output) || is_channels_last(input));
  conv2d_grad_weight(problem, grad_output, input, grad_weight);
  return grad_weight;
}

std::string conv2d_algorithms_cpu(const Tensor& input, const Tensor& weight, IntList geometry, int64_t groups,
                                  std::string precision) {
  const Conv2dShape shape = check_conv2d(input, weight, std::nullopt, {geometry, groups});
  const Conv2dProblem problem = {shape, dtype_of(input), check_precision("conv2d_algorithms", precision)};
  std::string lines;
  for (const Conv2dPass pass : {Conv2dPass::forward, Conv2dPass::grad_input, Conv2dPass::grad_weight}) {
    const Conv2dAlgorithm& algorithm = choose_algorithm(pass, problem);
    const char* why =
        is_preferred(algorithm) ? "preferred by TMC_CONV2D_ALGORITHM or prefer_conv2d_algorithm" : algorithm.why;
    lines +=
        std::string(pass_name(pass)) + ": " + algorithm.name + ": " + why + " (" + algorithm.unit(pass, problem) + ")";
    lines += "\n";
  }
  return lines;
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&tmc::conv2d_cpu));
  m.impl("conv2d_grad_input", TORCH_BOX(&tmc::conv2d_grad_input_cpu));
  m.impl("conv2d_grad_weight", TORCH_BOX(&tmc::conv2d_grad_weight_cpu));
  m.impl("conv2d_algorithms", TORCH_BOX(&tmc::conv2d_algorithms_cpu));
}
