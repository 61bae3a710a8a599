// Sigmoid's loops, for each instruction set.
#include "cpu/elementwise/sigmoid_kernels.h"
#include "cpu/machine/machine.h"

namespace tmc {

template <>
const SigmoidKernels& compiled<SigmoidKernels, kCompiledIsa>() {
  static constexpr SigmoidKernels kernels = {kLoops<double>, kLoops<float>, kLoops<BFloat16>, kLoops<Float16>};
  return kernels;
}

}  // namespace tmc
