// Launcher of the elementwise kernels, a plain C interface: pointers on the device, and a cudaStream_t as void*.
#pragma once
#include "cuda/machine/dtype.h"
#include "elementwise.h"

namespace tmc {
extern "C" {

// formula: a name of ElementwiseOperators. All arrays hold `count` > 0 elements.
void launch_elementwise(const char* formula, Dtype dtype, const ElementwiseArrays& arrays, int64_t count, void* stream);

}  // extern "C"
}  // namespace tmc
