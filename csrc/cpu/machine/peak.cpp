// cpu_peak: the loops of cpu/machine/peak.h on every thread.
#include "cpu/machine/peak.h"

#include <atomic>
#include <cinttypes>
#include <string>

#include "cpu/machine/machine.h"
#include "tensor.h"

namespace tmc {
namespace {

// Null for a unit that this CPU lacks or TMC_CPU_ISA leaves out.
PeakLoop* loop_for(const std::string& unit) {
  if (unit == "float32") return kernels_for_this_cpu<PeakLoops>().float32;
  if (unit == "float64") return kernels_for_this_cpu<PeakLoops>().float64;
#if defined(__x86_64__)
  if (unit == "bfloat16_pairs") return matrix_unit() == MatrixUnit::none ? nullptr : peak_bfloat16_pairs;
  if (unit == "bfloat16_tiles") return matrix_unit() == MatrixUnit::amx ? peak_bfloat16_tiles : nullptr;
#else
  if (unit == "bfloat16_pairs" || unit == "bfloat16_tiles") return nullptr;
#endif
  fail("cpu_peak: unit must be float32, float64, bfloat16_pairs or bfloat16_tiles, got %s", unit.c_str());
}

int64_t cpu_peak(std::string unit, int64_t rounds) {
  constexpr int64_t kMostRounds = int64_t{1} << 24;  // a fraction of a second: nobody can interrupt it
  if (rounds < 0 || rounds > kMostRounds) fail("cpu_peak: rounds must be from 0 to 2^24, got %" PRId64, rounds);
  PeakLoop* const loop = loop_for(unit);
  if (loop == nullptr) return 0;
  const int64_t threads = torch::stable::get_num_threads();
  std::atomic<int64_t> operations = 0;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) operations += loop(rounds);
  });
  return operations;
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CompositeExplicitAutograd, m) {
  m.impl("cpu_peak", TORCH_BOX(&tmc::cpu_peak));
}
