#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "common.h"
#include "tensor.h"

namespace tmc {
namespace {

Isa best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return Isa::avx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::avx2;
#endif
  return Isa::base;
}

Isa choose() {
  const char* wanted = std::getenv("TMC_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return best();
  for (const Isa candidate : {Isa::base, Isa::avx2, Isa::avx512}) {
    if (std::strcmp(wanted, isa_name(candidate)) != 0) continue;
    if (candidate > best()) fail("TMC_CPU_ISA: this CPU supports at most %s, got %s", isa_name(best()), wanted);
    return candidate;
  }
  fail("TMC_CPU_ISA: must be base, avx2 or avx512, got %s", wanted);
}

std::string cpu_isa() {
  return isa_name(isa());
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "base";
  }
}

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&tmc::cpu_isa));
}
