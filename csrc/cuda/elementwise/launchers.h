// Room elementwise: operators that make each value from the values at the same place of their operands.
//
// What goes in and what comes out: dense arrays in one memory order, any number of values, of float64, float32,
// bfloat16 or float16. Addresses may be anything; those at multiples of 16 bytes are faster.
//
// How: one kernel for all (elementwise.cuh), which an operator gives its formula (sigmoid.cu, activation.cu). The
// formulas that both backends share are in sigmoid.h and activation.h; activation.cuh adds what a GPU computes faster.
//
// What bounds it: memory. A thread reads and writes 16 bytes of each array.
//
// This is a plain C interface: pointers on the device, and a cudaStream_t as void*.
#pragma once
#include "activation.h"
#include "dtype.h"

namespace tmc {
extern "C" {

// All arrays hold `count` > 0 elements.
void launch_sigmoid(DType dtype, const void* input, void* output, int64_t count, void* stream);
void launch_sigmoid_grad_input(DType dtype, const void* grad_output, const void* output, void* grad_input,
                               int64_t count, void* stream);

// values = g(values)
void launch_activation(DType dtype, Activation activation, void* values, int64_t count, void* stream);

}  // extern "C"
}  // namespace tmc
