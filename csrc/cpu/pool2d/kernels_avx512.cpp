// The pooling kernels for x86-64-v4 (AVX-512).
#include "cpu/pool2d/tasks.h"

namespace tmc {
const PoolKernels kPoolAvx512 = kKernels;
}
