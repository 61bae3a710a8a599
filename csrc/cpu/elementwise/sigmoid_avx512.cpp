// The sigmoid kernels for x86-64-v4 (AVX-512).
#include "cpu/elementwise/sigmoid_kernels.h"

namespace tmc {
const SigmoidKernels kSigmoidAvx512 = kKernels;
}
