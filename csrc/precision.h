// How exactly float32 is multiplied: what torch.backends.mkldnn.conv.fp32_precision (on CUDA: cudnn.conv) calls ieee,
// tf32 and bf16.
#pragma once

namespace tmc {

// "highest" is float32 throughout. "high" and "medium" allow the product of two factors to be rounded as TF32 and
// bfloat16 would. Other dtypes ignore it.
enum class Precision { highest, high, medium };

}  // namespace tmc
