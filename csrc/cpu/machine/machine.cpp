#include "cpu/machine/machine.h"

#include <cstdlib>
#include <cstring>
#include <string>
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "common.h"
#include "tensor.h"

namespace tmc {
namespace {

// What TMC_CPU_ISA names, each including the ones before.
struct Level {
  const char* name;
  Isa isa;
  MatrixUnit matrix_unit;
};
constexpr Level kLevels[] = {
    {"base", Isa::base, MatrixUnit::none},     {"avx2", Isa::avx2, MatrixUnit::none},
    {"avx512", Isa::avx512, MatrixUnit::none}, {"avx512_bf16", Isa::avx512, MatrixUnit::avx512_bf16},
    {"amx", Isa::avx512, MatrixUnit::amx},
};

// Linux saves AMX's 8 KiB of tiles only for processes that ask for them, and a sandbox may refuse.
[[maybe_unused]] bool may_use_amx() {
#if defined(TMC_EMULATE_AMX)
  return true;  // tests/cpu/test_amx.py: csrc/cpu/machine/amx_tiles.h computes what the tiles would
#elif defined(__x86_64__) && defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

int best_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("x86-64-v3")) return 0;
  if (!__builtin_cpu_supports("x86-64-v4")) return 1;
  if (!__builtin_cpu_supports("avx512bf16")) return 2;
  return may_use_amx() ? 4 : 3;
#else
  return 0;
#endif
}

const Level& choose() {
  const int best = best_level();
  const char* wanted = std::getenv("TMC_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return kLevels[best];
  for (const Level& level : kLevels) {
    if (std::strcmp(wanted, level.name) != 0) continue;
    if (&level > &kLevels[best]) fail("TMC_CPU_ISA: this CPU supports at most %s, got %s", kLevels[best].name, wanted);
    return level;
  }
  fail("TMC_CPU_ISA: must be base, avx2, avx512, avx512_bf16 or amx, got %s", wanted);
}

const Level& chosen() {
  static const Level& level = choose();
  return level;
}

std::string cpu_isa() {
  return chosen().name;
}

}  // namespace

Isa isa() {
  return chosen().isa;
}
MatrixUnit matrix_unit() {
  return chosen().matrix_unit;
}

}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&tmc::cpu_isa));
}
