// What is compiled for each instruction set (cpu/elementwise/sigmoid_kernels.h) and called by sigmoid.cpp.
#pragma once
#include "common.h"

namespace tmc {

// Elements [begin, end) of dense tensors in one memory order. Where the result `streams` past the caches, its first
// element of the range is aligned to cache lines.
struct SigmoidLoops {
  void (*output)(const void* input, void* output, int64_t begin, int64_t end, bool streams);
  void (*grad_input)(const void* grad_output, const void* output, void* grad_input, int64_t begin, int64_t end,
                     bool streams);
};
// By dtype; one table for each instruction set.
struct SigmoidKernels {
  SigmoidLoops float64, float32, bfloat16, float16;
};

}  // namespace tmc
