#include "cpu/conv2d/depthwise/grad_weight.h"

TMC_DEFINE_DEPTHWISE_KERNELS(base)
