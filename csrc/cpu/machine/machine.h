// The machine: which instruction sets this CPU has (here), and what every kernel needs of it. Tasks for threads
// (tasks.h), scratch memory (workspace.h), the width of a vector (vector_bytes.h), AMX's tiles (amx_tiles.h), measured
// peaks (peak.h). The machine knows no operator and includes no other room.
//
// A source NAME.isa.cpp is compiled once for each instruction set of `Isa`, with that set's flags and TMC_ISA naming it
// (setup.py); NAME.avx512_bf16.cpp and NAME.amx.cpp are compiled once, for that unit. Every other source runs on any
// CPU of the family. All that such a source defines is in unnamed namespaces, but for its table of kernels: an inline
// function with external linkage could be merged by the linker with the copy of another instruction set.
#pragma once

namespace tmc {

// Vectors, and what multiplies bfloat16 faster than vectors multiply float32: dot products of pairs, or AMX's tiles.
enum class Isa { base, avx2, avx512 };
enum class MatrixUnit { none, avx512_bf16, amx };

// The best this CPU has and the operating system lets us use, or what TMC_CPU_ISA asks for (fails if that is not to be
// had): base, avx2, avx512, avx512_bf16 or amx, each with all that stands before it. Chosen once, at the first call.
Isa isa();
MatrixUnit matrix_unit();

// The table of a room's kernels as compiled for one instruction set; its NAME.isa.cpp defines it for kCompiledIsa.
template <class Kernels, Isa kIsa>
const Kernels& compiled();
#if defined(TMC_ISA)
constexpr Isa kCompiledIsa = Isa::TMC_ISA;
#endif

// The table for this CPU.
template <class Kernels>
const Kernels& kernels_for_this_cpu() {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return compiled<Kernels, Isa::avx512>();
  if (isa() == Isa::avx2) return compiled<Kernels, Isa::avx2>();
#endif
  return compiled<Kernels, Isa::base>();
}

}  // namespace tmc
