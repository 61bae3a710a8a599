// The floating types of the CUDA kernels, as the launchers' plain C interface names them.
#pragma once
#include <cstdint>

namespace tmc {

enum class Dtype : int32_t { float64, float32, bfloat16, float16 };

}  // namespace tmc
