// The activations for x86-64-v4 (AVX-512).
#include "cpu/elementwise/activation_kernels.h"

namespace tmc {
const ActivationKernels kActivationAvx512 = kActivationKernels;
}
