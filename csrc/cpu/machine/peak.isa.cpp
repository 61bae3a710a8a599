// The peak on vectors, for each instruction set.
#include "cpu/machine/machine.h"
#include "cpu/machine/peak_loop.h"

namespace tmc {

template <>
const PeakLoops& compiled<PeakLoops, kCompiledIsa>() {
  static constexpr PeakLoops loops = {multiply_add<float>, multiply_add<double>};
  return loops;
}

}  // namespace tmc
