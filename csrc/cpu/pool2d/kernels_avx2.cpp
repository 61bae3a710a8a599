// The pooling kernels for x86-64-v3 (AVX2, FMA, F16C).
#include "cpu/pool2d/tasks.h"

namespace tmc {
const PoolKernels kPoolAvx2 = kKernels;
}
