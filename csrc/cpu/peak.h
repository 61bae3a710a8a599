// How fast this CPU multiplies and adds at most: loops in registers alone, the ceiling of every kernel here.
// `python -m torch_manual_conv.bench` times them. One table for each instruction set; null where it lacks the unit.
#pragma once
#include "common.h"

namespace tmc {

// Runs on the calling thread; returns how many floating-point operations that were.
using PeakLoop = int64_t (*)(int64_t rounds);

struct PeakLoops {
  PeakLoop float32, float64;  // multiply-adds on vectors
  PeakLoop bfloat16_dot;      // AVX512-BF16: pairs of bfloat16, summed in float32
  PeakLoop bfloat16_tiles;    // AMX: tiles of bfloat16, summed in float32
};
extern const PeakLoops kPeakBase, kPeakAvx2, kPeakAvx512;

}  // namespace tmc
