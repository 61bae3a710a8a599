#include "depthwise_grad_weight.h"

TMC_DEFINE_DEPTHWISE_KERNELS(avx512)
