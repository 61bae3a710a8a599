// The activations for x86-64-v3 (AVX2, FMA, F16C).
#include "cpu/elementwise/activation_kernels.h"

namespace tmc {
const ActivationKernels kActivationAvx2 = kActivationKernels;
}
