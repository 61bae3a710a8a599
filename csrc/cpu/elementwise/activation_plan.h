// What is compiled for each instruction set (cpu/elementwise/activation.isa.cpp) and called by conv_act_pool2d.cpp.
#pragma once
#include "common.h"

namespace tmc {

// Elements [begin, end) of dense tensors in one memory order.
struct ActivationLoops {
  void (*activate)(void* values, int64_t begin, int64_t end);  // in place
  // result = grad_output * g'(activated); the result may be grad_output itself.
  void (*gradient)(const void* grad_output, const void* activated, void* result, int64_t begin, int64_t end);
};
// By activation; by dtype; one table for each instruction set.
struct ActivationsByName {
  ActivationLoops sigmoid, relu, tanh;
};
struct ActivationKernels {
  ActivationsByName float64, float32, bfloat16, float16;
};

}  // namespace tmc
