// What is compiled for each instruction set (cpu/elementwise/kernels.isa.cpp) and called by run.cpp.
#pragma once
#include "elementwise.h"

namespace tmc {

// Elements [begin, end). Where the result `streams` past the caches, its first element of the range is aligned to cache
// lines.
using ElementwiseLoop = void (*)(const ElementwiseArrays& arrays, int64_t begin, int64_t end, bool streams);

struct ElementwiseLoops {
  const char* formula;
  ElementwiseLoop float64, float32, bfloat16, float16;
};
struct ElementwiseKernels {
  const ElementwiseLoops* loops;  // one for each formula
};

}  // namespace tmc
