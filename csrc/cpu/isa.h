// The instruction sets the CPU kernels are compiled for. A source named <x>_avx2.cpp or <x>_avx512.cpp is built
// with that set's flags (setup.py); every other source runs on any CPU of the family.
#pragma once

namespace tmc {

enum class Isa { base, avx2, avx512 };

// The best set this CPU has, or what TMC_CPU_ISA=base|avx2|avx512 asks for (fails if the CPU lacks it).
// Chosen once, at the first call.
Isa isa();
const char* isa_name(Isa isa);

}  // namespace tmc
