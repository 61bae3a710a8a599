// Pooling's forms, for each instruction set.
#include "cpu/machine/machine.h"
#include "cpu/pool2d/tasks.h"

namespace tmc {

template <>
const PoolKernels& compiled<PoolKernels, kCompiledIsa>() {
  return kKernels;
}

}  // namespace tmc
