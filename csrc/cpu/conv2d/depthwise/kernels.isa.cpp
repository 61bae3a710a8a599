// The kernels for groups of few channels, for each instruction set.
#include "cpu/conv2d/depthwise/grad_weight.h"
#include "cpu/machine/machine.h"

namespace tmc {

template <>
const DepthwiseKernelTable& compiled<DepthwiseKernelTable, kCompiledIsa>() {
  static constexpr DepthwiseKernelTable kernels = {depthwise_kernels_of<double>(), depthwise_kernels_of<float>(),
                                                   depthwise_kernels_of<BFloat16>(), depthwise_kernels_of<Float16>()};
  return kernels;
}

}  // namespace tmc
