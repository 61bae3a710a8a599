// The elementwise operators on CUDA.
#include "cuda/elementwise/launchers.h"
#include "cuda/glue.h"
#include "elementwise_ops.h"

namespace tmc {
namespace {

struct Cuda {
  using Guard = DeviceGuard;
  static void run(const char* op, const Tensor& output, const ElementwiseArrays& arrays) {
    launch_elementwise(op, dtype_of(output), arrays, output.numel(), current_stream(output));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CUDA, m) {
  tmc::implement_elementwise<tmc::Cuda>(m, tmc::ElementwiseOperators{});
}
