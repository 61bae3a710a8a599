// Winograd's transforms and products, for each instruction set.
#include "cpu/conv2d/winograd/filters.h"
#include "cpu/machine/machine.h"

namespace tmc {

template <>
const WinogradKernelTable& compiled<WinogradKernelTable, kCompiledIsa>() {
  static constexpr WinogradKernelTable kernels = {winograd_kernels<3, 3>(), winograd_kernels<7, 3>(),
                                                  winograd_kernels<5, 5>(), winograd_kernels<7, 5>()};
  return kernels;
}

}  // namespace tmc
