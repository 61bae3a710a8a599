// Entry points of convolution on the CPU: checks, allocation, and the way to the algorithm that was chosen.
#include "conv2d_ops.h"
#include "cpu/conv2d/core.h"
#include "cpu/gemm/gemm.h"

namespace tmc {

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return DType::float64;
    case ScalarType::Float: return DType::float32;
    case ScalarType::BFloat16: return DType::bfloat16;
    default: return DType::float16;
  }
}

namespace {

Image image_of(const Tensor& tensor, void* data) {
  return {static_cast<char*>(data), static_cast<int64_t>(tensor.element_size()),
          tensor.size(0),           tensor.size(1),
          tensor.size(2),           tensor.size(3),
          tensor.stride(0),         tensor.stride(1),
          tensor.stride(2),         tensor.stride(3)};
}

}  // namespace

Image read(const Tensor& tensor) {
  return image_of(tensor, const_cast<void*>(tensor.const_data_ptr()));
}
Image write(Tensor& tensor) {
  return image_of(tensor, tensor.mutable_data_ptr());
}

PreparedWeight prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight) {
  switch (choose_algorithm(pass, problem).algorithm) {
    case Conv2dAlgorithm::winograd: return winograd::prepare(pass, problem, weight);
    case Conv2dAlgorithm::winograd_phases: return phases::prepare(pass, problem, weight);
    default: return {weight, nullptr, nullptr};
  }
}

void conv2d_forward(const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
                    const std::optional<Tensor>& bias, Tensor& output) {
  switch (choose_algorithm(Conv2dPass::forward, problem).algorithm) {
    case Conv2dAlgorithm::matrix_product: return matrix_product::forward(problem, input, weight.weight, bias, output);
    case Conv2dAlgorithm::tile_product:
      return matrix_product::forward(problem, input, weight.weight, bias, output, MatrixUnit::amx);
    case Conv2dAlgorithm::winograd: return winograd::forward(problem, input, weight, bias, output);
    case Conv2dAlgorithm::direct: return direct::forward(problem, input, weight.weight, bias, output);
    case Conv2dAlgorithm::depthwise: return depthwise::forward(problem, input, weight.weight, bias, output);
    case Conv2dAlgorithm::winograd_phases: return phases::forward(problem, input, weight, bias, output);
  }
}

void conv2d_grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                       Tensor& grad_input) {
  switch (choose_algorithm(Conv2dPass::grad_input, problem).algorithm) {
    case Conv2dAlgorithm::matrix_product:
      return matrix_product::grad_input(problem, grad_output, weight.weight, grad_input);
    case Conv2dAlgorithm::tile_product:
      return matrix_product::grad_input(problem, grad_output, weight.weight, grad_input, MatrixUnit::amx);
    case Conv2dAlgorithm::winograd: return winograd::grad_input(problem, grad_output, weight, grad_input);
    case Conv2dAlgorithm::direct: return direct::grad_input(problem, grad_output, weight.weight, grad_input);
    case Conv2dAlgorithm::depthwise: return depthwise::grad_input(problem, grad_output, weight.weight, grad_input);
    case Conv2dAlgorithm::winograd_phases: return phases::grad_input(problem, grad_output, weight, grad_input);
  }
}

void conv2d_grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input,
                        Tensor& grad_weight) {
  switch (choose_algorithm(Conv2dPass::grad_weight, problem).algorithm) {
    case Conv2dAlgorithm::matrix_product: return matrix_product::grad_weight(problem, grad_output, input, grad_weight);
    case Conv2dAlgorithm::tile_product:
      return matrix_product::grad_weight(problem, grad_output, input, grad_weight, MatrixUnit::amx);
    case Conv2dAlgorithm::winograd: return winograd::grad_weight(problem, grad_output, input, grad_weight);
    case Conv2dAlgorithm::direct: return direct::grad_weight(problem, grad_output, input, grad_weight);
    case Conv2dAlgorithm::depthwise: return depthwise::grad_weight(problem, grad_output, input, grad_weight);
    case Conv2dAlgorithm::winograd_phases: return phases::grad_weight(problem, grad_output, input, grad_weight);
  }
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
    const Conv2dChoice choice = choose_algorithm(pass, problem);
    lines += std::string(pass_name(pass)) + ": " + algorithm_name(choice.algorithm) + ": " + choice.reason;
    const bool tiles = choice.algorithm == Conv2dAlgorithm::tile_product;
    if (tiles || choice.algorithm == Conv2dAlgorithm::matrix_product) {
      const MatrixUnit unit = tiles ? MatrixUnit::amx : MatrixUnit::avx512_bf16;
      lines += std::string(" (") + gemm_kernels(problem.dtype, problem.precision, unit).name + ")";
    }
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
