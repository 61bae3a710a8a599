// Launchers of the sigmoid kernels, a plain C interface: pointers on the device, and a cudaStream_t as void*.
#pragma once
#include "common.h"
#include "dtype.h"

namespace tmc {
extern "C" {

// All arrays hold `count` > 0 elements.
void launch_sigmoid(DType dtype, const void* input, void* output, int64_t count, void* stream);
void launch_sigmoid_grad_input(DType dtype, const void* grad_output, const void* output, void* grad_input,
                               int64_t count, void* stream);

}  // extern "C"
}  // namespace tmc
