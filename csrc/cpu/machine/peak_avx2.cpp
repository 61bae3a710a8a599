// The peak loops for x86-64-v3 (AVX2, FMA).
#include "cpu/machine/peak_kernels.h"

namespace tmc {
const PeakLoops kPeakAvx2 = {multiply_add<float>, multiply_add<double>};
}
