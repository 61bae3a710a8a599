// Launchers of convolution on tensor cores, for what cuda/conv2d/plan.h has planned for them.
//
// Images are channels_last, weights [k, r, s, c / groups] in memory, and every address is a multiple of 16 bytes. An
// image that is packed may be contiguous as well (`channels_last` tells), and then its weight is, too. `workspace`
// holds as many bytes as the function beside the launcher says.
#pragma once
#include "cuda/conv2d/plan.h"

namespace tmc {
extern "C" {

// bias may be null.
int64_t conv2d_mma_workspace(DType dtype, const Conv2dPlan& plan);
void launch_conv2d_mma(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last,
                       const void* input, const void* weight, const void* bias, void* workspace, void* output,
                       void* stream);

int64_t conv2d_grad_input_mma_workspace(DType dtype, const Conv2dPlan& plan);
void launch_conv2d_grad_input_mma(DType dtype, const Conv2dPlan& plan, const void* grad_output, const void* weight,
                                  void* workspace, void* grad_input, void* stream);

// Whether the library has machine code of the kernels that use wgmma.
bool compiled_for_wgmma();

// grad_weight is channels_last if `weight_last`, else contiguous.
int64_t conv2d_grad_weight_mma_workspace(DType dtype, const Conv2dPlan& plan);
void launch_conv2d_grad_weight_mma(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last,
                                   bool weight_last, const void* grad_output, const void* input, void* workspace,
                                   void* grad_weight, void* stream);

}  // extern "C"
}  // namespace tmc
