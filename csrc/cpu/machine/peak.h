// How fast this CPU multiplies and adds at most: loops in registers alone, the ceiling of every kernel here.
// `python -m torch_manual_conv.bench` times them.
#pragma once
#include "common.h"

namespace tmc {

// Runs on the calling thread; returns how many floating-point operations that was.
using PeakLoop = int64_t(int64_t rounds);

// Multiply-adds on vectors, compiled for each instruction set (cpu/machine/peak.isa.cpp).
struct PeakLoops {
  PeakLoop *float32, *float64;
};

// Products of bfloat16 summed in float32: of pairs (AVX512-BF16), of tiles (AMX).
PeakLoop peak_bfloat16_pairs, peak_bfloat16_tiles;

}  // namespace tmc
