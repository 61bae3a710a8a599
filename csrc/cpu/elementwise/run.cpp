#include "cpu/elementwise/run.h"

#include <cstring>

#include "cpu/elementwise/kernels.h"
#include "cpu/machine/machine.h"
#include "cpu/machine/tasks.h"

namespace tmc {
namespace {

constexpr int64_t kBlock = 1024;  // elements: ranges begin at whole cache lines
// Blocks a thread should have: as many elements as at::internal::GRAIN_SIZE, fewer where they come from cache.
constexpr int64_t kGrain = 32, kGrainInCache = 8;

ElementwiseLoop loop_for(const char* formula, ScalarType dtype) {
  const ElementwiseKernels& kernels = kernels_for_this_cpu<ElementwiseKernels>();
  const ElementwiseLoops* loops = kernels.loops;
  while (std::strcmp(loops->formula, formula) != 0) ++loops;
  switch (dtype) {
    case ScalarType::Double: return loops->float64;
    case ScalarType::Float: return loops->float32;
    case ScalarType::BFloat16: return loops->bfloat16;
    default: return loops->float16;
  }
}

}  // namespace

void run_elementwise(const char* formula, ScalarType dtype, const ElementwiseArrays& arrays, int64_t count,
                     Results results) {
  const ElementwiseLoop loop = loop_for(formula, dtype);
  const bool in_cache = results == Results::in_cache;
  const int64_t bytes = dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
  const bool streams = !in_cache && is_streamed(arrays.output, count * bytes);
  torch::stable::parallel_for(
      0, ceil_div(count, kBlock), in_cache ? kGrainInCache : kGrain,
      [&](int64_t begin, int64_t end) { loop(arrays, begin * kBlock, std::min(end * kBlock, count), streams); });
}

}  // namespace tmc
