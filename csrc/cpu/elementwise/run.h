// Elementwise formulas (csrc/elementwise.h) on the CPU: passes over flat dense memory, each element alone, so that its
// bits do not depend on where a thread's share begins.
#pragma once
#include "elementwise.h"
#include "tensor.h"

namespace tmc {

enum class Results { in_cache, anywhere };  // in_cache: operands come from a cache, and the result is read next

// arrays.output may be one of the tensors. formula: a name of ElementwiseOperators or StageFormulas.
void run_elementwise(const char* formula, ScalarType dtype, const ElementwiseArrays& arrays, int64_t count,
                     Results results);

}  // namespace tmc
