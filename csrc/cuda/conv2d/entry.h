// What the entry point of a stage (cuda/conv_act_pool2d.cpp) calls of convolution's (cuda/conv2d.cpp): the operators,
// the device that is planned for, and the bytes of scratch memory.
#pragma once
#include <optional>
#include <string>

#include "cuda/conv2d/plan.h"
#include "tensor.h"

namespace tmc {

// What the tensor's device can do, and what the user prefers.
Conv2dDevice device_of(const Tensor& tensor);

// Bytes of scratch memory that an operator takes by its plan, beside operands, in channels_last, and result.
int64_t forward_scratch(DType dtype, const Conv2dPlan& plan);
int64_t grad_input_scratch(DType dtype, const Conv2dPlan& plan);
int64_t grad_weight_scratch(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan);

Tensor conv2d_cuda(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias, IntList geometry,
                   int64_t groups, std::string precision);
Tensor conv2d_grad_input_cuda(const Tensor& grad_output, const Tensor& weight, IntList input_size, IntList geometry,
                              int64_t groups, std::string precision);
Tensor conv2d_grad_weight_cuda(const Tensor& grad_output, const Tensor& input, IntList kernel_size, IntList geometry,
                               int64_t groups, std::string precision);
// The same into a gradient that is channels_last, or contiguous, whatever the operands are.
Tensor conv2d_grad_weight_in(bool channels_last, const Tensor& grad_output, const Tensor& input, IntList kernel_size,
                             IntList geometry, int64_t groups, std::string precision);
Tensor conv2d_grad_bias_cuda(const Tensor& grad_output);

}  // namespace tmc
