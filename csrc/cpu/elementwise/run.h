// Elementwise operators on the CPU, and the activations of fused stages (activations.h): each value from the values at
// the same place of its operands.
//
// What goes in and out: flat dense arrays in one memory order, of float64, float32, bfloat16 or float16, and scalars.
// The formulas are those of csrc/elementwise.h; math.h has the functions that vectors compute in their own way, and
// kernels.isa.cpp compiles every formula for each instruction set. run.cpp shares a pass among threads. Each element is
// computed alone, so that its bits do not depend on where a thread's share begins.
//
// Bound: memory. Large results are written by non-temporal stores, which do not read what they overwrite.
#pragma once
#include "elementwise.h"
#include "tensor.h"

namespace tmc {

enum class Results { in_cache, anywhere };  // in_cache: operands come from a cache, and the result is read next

// arrays.output may be one of the tensors. formula: a name of ElementwiseOperators or StageFormulas.
void run_elementwise(const char* formula, ScalarType dtype, const ElementwiseArrays& arrays, int64_t count,
                     Results results);

}  // namespace tmc
