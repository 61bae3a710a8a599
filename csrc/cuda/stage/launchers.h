// Room stage: a convolution, an activation and a pool as one operator.
//
// What goes in: images, weight and bias. What comes out: the pooled, activated map, and the winner of each window of a
// max pool. plan.h decides whether one kernel does it (mma.cu, slice.cuh). That kernel multiplies a tile of the map
// before the pool and pools it in shared memory, so that the map is never in global memory. Every other stage is a
// convolution, a pool and an activation one after the other (cuda/conv_act_pool2d.cpp).
//
// Backward, one pass over the map writes its gradient and adds up the bias's (map_gradient.cu). The gradients of the
// convolution by input and weight read it like any grad_output.
//
// What bounds it: tensor cores in the fused kernel, memory in the map's gradient.
//
// This is a plain C interface: pointers on the device, each at a multiple of 16 bytes, and a cudaStream_t as void*.
// Tensors are channels_last, but for operands that are packed; no extent of a result may be 0.
#pragma once
#include "conv_act_pool2d.h"
#include "cuda/stage/plan.h"
#include "dtype.h"

namespace tmc {
extern "C" {

// For a stage that is planned to be fused. Operands as launch_conv2d_mma's (cuda/conv2d/mma.h), and as much workspace.
// winners (uint8) for max pooling, else null; kept_map: the activated map of averages, or null.
void launch_conv_act_pool2d_mma(DType dtype, const ConvActPool2dShape& shape, const StagePlan& plan, bool channels_last,
                                const void* input, const void* weight, const void* bias, void* workspace, void* output,
                                void* winners, void* kept_map, void* stream);

// The gradient of the map before the pool (eq. 22), and grad_bias, the sum of it (eq. 4), unless that is null.
// activated: the map that was activated; not read without an activation. winners: not read without max pooling.
// `workspace` holds as many bytes as the function says, and may be null without grad_bias.
int64_t conv_act_pool2d_map_gradient_workspace(DType dtype, const ConvActPool2dShape& shape);
void launch_conv_act_pool2d_map_gradient(DType dtype, const ConvActPool2dShape& shape, const void* grad_output,
                                         const void* activated, const void* winners, void* workspace,
                                         void* map_gradient, void* grad_bias, void* stream);

}  // extern "C"
}  // namespace tmc
