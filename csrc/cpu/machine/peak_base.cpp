// The peak loops for any CPU of the family.
#include "cpu/machine/peak_kernels.h"

namespace tmc {
const PeakLoops kPeakBase = {multiply_add<float>, multiply_add<double>};
}
