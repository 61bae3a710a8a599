// The activations for any CPU of the family.
#include "cpu/elementwise/activation_kernels.h"

namespace tmc {
const ActivationKernels kActivationBase = kActivationKernels;
}
