// Room pool2d: maximum, average and sum over windows, with their gradients.
//
// What goes in: dense tensors; channels_last tells of all of them at once. What comes out: the pooled map, and for a
// maximum the winner of each window, its tap, as uint8 or int32 (window_taps(shape) tells). No extent may be 0.
//
// How: max.cu and avg.cu gather, one thread for the channels of a result, so that there are no atomics. windows.h is
// how a thread finds its windows; choice.h picks the kernel for a shape; winners.cu reads winners for second
// derivatives and torch's indices. What bounds it: memory.
//
// Winners from outside are not range-checked on the host, as on the CPU: every call would wait for the GPU. Instead no
// winner is used as an address before the kernel has checked it. One that lies outside its window receives no gradient,
// selects NaN, and has the index -1. (A window that holds no input at all selects 0, as on the CPU.)
//
// This is a plain C interface: pointers on the device, and a cudaStream_t as void*.
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
