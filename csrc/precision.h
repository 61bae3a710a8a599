// How exactly float32 is multiplied, in the words of torch.set_float32_matmul_precision.
#pragma once

namespace tmc {

// "highest" is float32 throughout. "high" and "medium" allow the product of two factors to be rounded as TF32 and
// bfloat16 would. Other dtypes ignore it.
enum class Precision { highest, high, medium };

}  // namespace tmc
