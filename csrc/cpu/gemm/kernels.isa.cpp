// The matrix product's kernels on vectors, for each instruction set.
#include "cpu/gemm/kernels.h"

namespace tmc {

template <>
const GemmKernelTable& compiled<GemmKernelTable, kCompiledIsa>() {
  static constexpr GemmKernelTable kernels = {kernels_of<double>(), kernels_of<float>(), kernels_of<BFloat16>(),
                                              kernels_of<Float16>()};
  return kernels;
}

}  // namespace tmc
