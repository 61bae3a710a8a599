// Direct convolution's kernels on words of one float, for each instruction set.
#include "cpu/conv2d/direct/kernels.h"

#include "cpu/machine/machine.h"

namespace tmc {

template <>
const DirectKernels& compiled<DirectKernels, kCompiledIsa>() {
  static constexpr DirectKernels kernels = {
      .width = kWidth,
      .per_word = 1,
      .pack_tap = pack_tap,
      .correlate = correlate<FloatWords>,
      .add_products = add_products<FloatWords>,
      .fold = fold,
      .write_row = write_row,
  };
  return kernels;
}

}  // namespace tmc
