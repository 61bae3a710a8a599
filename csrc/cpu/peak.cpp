// cpu_peak: the loops of peak.h on every thread.
#include "peak.h"

#include <atomic>
#include <cinttypes>
#include <string>

#include "isa.h"
#include "tensor.h"
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tmc {
namespace {

const PeakLoops& loops() {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return kPeakAvx512;
  if (isa() == Isa::avx2) return kPeakAvx2;
#endif
  return kPeakBase;
}

bool has_bfloat16_dot() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

// The CPU has the tiles, and the kernel lets this process use their 8 KiB of registers.
bool has_bfloat16_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool has =
      __builtin_cpu_supports("amx-bf16") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return has;
#else
  return false;
#endif
}

PeakLoop loop_for(const std::string& unit) {
  if (unit == "float32") return loops().float32;
  if (unit == "float64") return loops().float64;
  if (unit == "bfloat16_dot") return has_bfloat16_dot() ? loops().bfloat16_dot : nullptr;
  if (unit == "bfloat16_tiles") return has_bfloat16_tiles() ? loops().bfloat16_tiles : nullptr;
  fail("cpu_peak: unit must be float32, float64, bfloat16_dot or bfloat16_tiles, got %s", unit.c_str());
}

int64_t cpu_peak(std::string unit, int64_t rounds) {
  constexpr int64_t kMostRounds = int64_t{1} << 24;  // a fraction of a second: nobody can interrupt it
  if (rounds < 0 || rounds > kMostRounds) fail("cpu_peak: rounds must be from 0 to 2^24, got %" PRId64, rounds);
  const PeakLoop loop = loop_for(unit);
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
