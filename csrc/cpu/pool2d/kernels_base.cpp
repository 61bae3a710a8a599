// The pooling kernels for any CPU of the family.
#include "cpu/pool2d/tasks.h"

namespace tmc {
const PoolKernels kPoolBase = kKernels;
}
