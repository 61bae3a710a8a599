// Launchers of stages whose map before the pool, or its gradient, stays on the chip, for what cuda/stage/plan.h
// has planned so.
#pragma once
#include "cuda/stage/plan.h"

namespace tmc {
extern "C" {

// Operands as launch_conv2d_mma's (cuda/conv2d/mma.h), and as much workspace; results are channels_last. winners
// (uint8) for max pooling, else null; kept_map: the activated map of averages, or null.
void launch_conv_act_pool2d_mma(DType dtype, const ConvActPool2dShape& shape, const StagePlan& plan, bool channels_last,
                                const void* input, const void* weight, const void* bias, void* workspace, void* output,
                                void* winners, void* kept_map, void* stream);

}  // extern "C"
}  // namespace tmc
