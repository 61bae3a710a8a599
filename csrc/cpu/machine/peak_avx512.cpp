// The peak loops for x86-64-v4 (AVX-512).
#include "cpu/machine/peak_kernels.h"

namespace tmc {
const PeakLoops kPeakAvx512 = {multiply_add<float>, multiply_add<double>};
}
