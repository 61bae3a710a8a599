// Launchers of stages whose map before the pool, or its gradient, stays on the chip, for what cuda/stage/plan.h
// has planned so.
#pragma once
#include "cuda/stage/plan.h"

namespace tmc {
extern "C" {

// Operands as launch_conv2d_mma's (cuda/conv2d/mma.h), and as much workspace; results are channels_last. winners
// (uint8) for max pooling, else null; kept_map: the activated map of averages, or null.
void launch_conv_act_pool2d_mma(Dtype dtype, const ConvActPool2dShape& shape, const StagePlan& plan, bool channels_last,
                                const void* input, const void* weight, const void* bias, void* workspace, void* output,
                                void* winners, void* kept_map, void* stream);

// grad_weight, and grad_bias unless that is null. input as launch_conv2d_grad_weight_mma's; the others are
// channels_last: activated, the map that was activated, is not read without an activation, winners (uint8) not without
// max pooling. The batch is not empty.
int64_t conv_act_pool2d_grad_weight_workspace(Dtype dtype, const ConvActPool2dShape& shape,
                                              const StageGradientsPlan& plan);
void launch_conv_act_pool2d_grad_weight(Dtype dtype, const ConvActPool2dShape& shape, const StageGradientsPlan& plan,
                                        bool channels_last, bool weight_last, const void* grad_output,
                                        const void* activated, const void* winners, const void* input, void* workspace,
                                        void* grad_weight, void* grad_bias, void* stream);

}  // extern "C"
}  // namespace tmc
