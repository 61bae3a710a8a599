// Launchers of the pooling kernels, a plain C interface: pointers on the device, and a cudaStream_t as void*.
// Tensors are dense; channels_last tells of all of them at once. No extent of a result may be 0. Winners are uint8 or
// int32, as window_taps(shape) tells.
//
// Winners from outside are not range-checked here, as the CPU does: that would make every call wait for the GPU.
// Instead no winner is ever used as an address before it was checked: one that lies outside its window receives no
// gradient, selects NaN, and has the index -1. (A window that holds no input at all selects 0, as on the CPU.)
#pragma once
#include "dtype.h"
#include "pool2d.h"

namespace tmc {
extern "C" {

void launch_max_pool2d(DType dtype, const PoolShape& shape, bool channels_last, const void* input, void* output,
                       void* winners, void* stream);
void launch_max_pool2d_grad_input(DType dtype, const PoolShape& shape, bool channels_last, const void* grad_output,
                                  const void* winners, void* grad_input, void* stream);
void launch_max_pool2d_select(DType dtype, const PoolShape& shape, bool channels_last, const void* input,
                              const void* winners, void* output, void* stream);
void launch_max_pool2d_indices(const PoolShape& shape, bool channels_last, const void* winners, int64_t* indices,
                               void* stream);

void launch_avg_pool2d(DType dtype, const PoolShape& shape, bool channels_last, const AverageRule& rule,
                       const void* input, void* output, void* stream);
void launch_avg_pool2d_grad_input(DType dtype, const PoolShape& shape, bool channels_last, const AverageRule& rule,
                                  const void* grad_output, void* grad_input, void* stream);

}  // extern "C"
}  // namespace tmc
