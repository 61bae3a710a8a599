// The dtypes that the kernels of both backends are compiled for. The order is part of the CUDA launchers' plain C
// interface.
#pragma once

namespace tmc {

enum class DType { float64, float32, bfloat16, float16 };

}  // namespace tmc
