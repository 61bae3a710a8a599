// The pooling kernels for any CPU of the family.
#include "pool2d_tasks.h"

namespace tmc {
const PoolKernels kPoolBase = kKernels;
}
