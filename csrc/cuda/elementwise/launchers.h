// Room elementwise: operators that make each value from the values at the same place of their operands.
//
// What goes in and what comes out: dense arrays in one memory order, any number of values, of float64, float32,
// bfloat16 or float16. Addresses may be anything; those at multiples of 16 bytes are faster.
//
// How: one kernel for all (elementwise.cuh), compiled for each formula of csrc/elementwise.h (elementwise.cu), and for
// the activations of stages that are not fused (activation.cu); activation.cuh has what a GPU computes faster.
//
// What bounds it: memory. A thread reads and writes 16 bytes of each array.
//
// This is a plain C interface: pointers on the device, and a cudaStream_t as void*.
#pragma once
#include "activation.h"
#include "dtype.h"
#include "elementwise.h"

namespace tmc {
extern "C" {

// formula: a name of ElementwiseOperators. All arrays hold `count` > 0 elements.
void launch_elementwise(const char* formula, DType dtype, const ElementwiseArrays& arrays, int64_t count, void* stream);

// values = g(values)
void launch_activation(DType dtype, Activation activation, void* values, int64_t count, void* stream);

}  // extern "C"
}  // namespace tmc
