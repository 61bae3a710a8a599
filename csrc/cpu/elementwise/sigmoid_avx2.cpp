// The sigmoid kernels for x86-64-v3 (AVX2, FMA, F16C).
#include "cpu/elementwise/sigmoid_kernels.h"

namespace tmc {
const SigmoidKernels kSigmoidAvx2 = kKernels;
}
