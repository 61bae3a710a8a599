// The sigmoid kernels for any CPU of the family.
#include "sigmoid_kernels.h"

namespace tmc {
const SigmoidKernels kSigmoidBase = kKernels;
}
