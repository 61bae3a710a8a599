// The elementwise operators on the CPU.
#include "cpu/elementwise/run.h"
#include "elementwise_ops.h"

namespace tmc {
namespace {

struct Cpu {
  struct Guard {
    explicit Guard(int32_t) {}
  };
  static void run(const char* op, const Tensor& output, const ElementwiseArrays& arrays) {
    run_elementwise(op, output.scalar_type(), arrays, output.numel(), Results::anywhere);
  }
};

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  tmc::implement_elementwise<tmc::Cpu>(m, tmc::ElementwiseOperators{});
}
