// Launchers of what a fused stage does around its convolution, a plain C interface: pointers on the device, each at a
// multiple of 16 bytes, and a cudaStream_t as void*. Tensors are channels_last; no extent of a result may be 0.
#pragma once
#include "conv_act_pool2d.h"
#include "dtype.h"

namespace tmc {
extern "C" {

// values = g(values), whatever their order.
void launch_activation(DType dtype, Activation activation, void* values, int64_t count, void* stream);

// The gradient of the map before the pool (eq. 22), and grad_bias, the sum of it (eq. 4), unless that is null.
// activated: the map that was activated; not read without an activation. winners: not read without max pooling.
// `workspace` holds as many bytes as the function says, and may be null without grad_bias.
int64_t conv_act_pool2d_map_gradient_workspace(DType dtype, const ConvActPool2dShape& shape);
void launch_conv_act_pool2d_map_gradient(DType dtype, const ConvActPool2dShape& shape, const void* grad_output,
                                         const void* activated, const void* winners, void* workspace,
                                         void* map_gradient, void* grad_bias, void* stream);

}  // extern "C"
}  // namespace tmc
