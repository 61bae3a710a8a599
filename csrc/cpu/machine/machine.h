// The instruction sets the CPU kernels are compiled for. A source whose name ends in _<set>.cpp is built with that
// set's flags (setup.py); every other source runs on any CPU of the family.
#pragma once

namespace tmc {

// Vectors, and what multiplies bfloat16 faster than vectors multiply float32: dot products of pairs, or AMX's tiles.
enum class Isa { base, avx2, avx512 };
enum class MatrixUnit { none, avx512_bf16, amx };

// The best this CPU has and the operating system lets us use, or what TMC_CPU_ISA asks for (fails if that is not to be
// had): base, avx2, avx512, avx512_bf16 or amx, each with all that stands before it. Chosen once, at the first call.
Isa isa();
MatrixUnit matrix_unit();

}  // namespace tmc
