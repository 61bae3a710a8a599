// Which convolutions wgmma and TMA can compute (cuda/conv2d/wgmma.cuh), and where that should pay.
#pragma once
#include "cuda/conv2d/plan.h"

namespace tmc::wgmma {

// What is in the way, for a plan on tensor cores; null if nothing is. A `wanted` one need not pay.
const char* conv2d_obstacle(DType dtype, const Conv2dPlan& plan, bool wanted);
const char* conv2d_grad_input_obstacle(DType dtype, const Conv2dPlan& plan, bool wanted);
const char* conv2d_grad_weight_obstacle(DType dtype, const Conv2dPlan& plan, bool wanted);

}  // namespace tmc::wgmma
