// The dtypes that the CPU kernels are compiled for.
#pragma once

namespace tmc {

enum class DType { float64, float32, bfloat16, float16 };

}  // namespace tmc
