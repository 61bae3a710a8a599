// The convolution operators of both backends, from their arguments to a checked shape.
#pragma once
#include <optional>
#include <string>

#include "conv2d.h"
#include "tensor.h"

namespace tmc {

// The arguments that every op of the family ends with.
struct Conv2dGeometry {
  IntList geometry;
  int64_t groups;
  Conv2dArguments arguments(const char* op) const {
    const int64_t count = geometry.size();
    if (count != 6 && count != 8)
      fail("%s: geometry must have 6 or 8 values (stride, dilation, padding), got %s", op, text(dims(geometry)).chars);
    return {{geometry.data(), 2}, {geometry.data() + 4, count - 4}, {geometry.data() + 2, 2}, groups};
  }
};

inline Precision check_precision(const char* op, const std::string& precision) {
  if (precision == "highest") return Precision::highest;
  if (precision == "high") return Precision::high;
  if (precision == "medium") return Precision::medium;
  fail("%s: precision must be highest, high or medium, got %s", op, precision.c_str());
}

inline Conv2dShape check_conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                                const Conv2dGeometry& geometry) {
  const Dims bias_sizes = bias ? sizes(*bias) : Dims{};
  const Conv2dShape shape =
      conv2d_shape(sizes(input), sizes(weight), bias ? &bias_sizes : nullptr, geometry.arguments("conv2d"));
  check_floating("conv2d", "input", input);
  check_like("conv2d", "weight", weight, "input", input);
  if (bias) check_like("conv2d", "bias", *bias, "input", input);
  return shape;
}

inline Conv2dShape check_conv2d_grad_input(const Tensor& grad_output, const Tensor& weight, IntList input_size,
                                           const Conv2dGeometry& geometry) {
  const Conv2dShape shape = conv2d_grad_input_shape(sizes(grad_output), sizes(weight), dims(input_size),
                                                    geometry.arguments("conv2d_grad_input"));
  check_floating("conv2d_grad_input", "grad_output", grad_output);
  check_like("conv2d_grad_input", "weight", weight, "grad_output", grad_output);
  return shape;
}

inline Conv2dShape check_conv2d_grad_weight(const Tensor& grad_output, const Tensor& input, IntList kernel_size,
                                            const Conv2dGeometry& geometry) {
  const Conv2dShape shape = conv2d_grad_weight_shape(sizes(grad_output), sizes(input), dims(kernel_size),
                                                     geometry.arguments("conv2d_grad_weight"));
  check_floating("conv2d_grad_weight", "grad_output", grad_output);
  check_like("conv2d_grad_weight", "input", input, "grad_output", grad_output);
  return shape;
}

}  // namespace tmc
