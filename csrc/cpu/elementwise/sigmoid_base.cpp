// The sigmoid kernels for any CPU of the family.
#include "cpu/elementwise/sigmoid_kernels.h"

namespace tmc {
const SigmoidKernels kSigmoidBase = kKernels;
}
