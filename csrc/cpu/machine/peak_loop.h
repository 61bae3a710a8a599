// The multiply-add loop, compiled once for each instruction set.
//
//   sum[i] = sum[i] * factor + term        kSums independent chains, all in registers
//
// Two units with a latency of four or five cycles need ten chains to stay busy; 12 sums, the factor and the term fit
// into the 16 registers that SSE and AVX2 have. Bound: compute, by construction.
#pragma once
#include "cpu/machine/peak.h"
#include "cpu/machine/vector_bytes.h"

namespace tmc {
namespace {

constexpr int kSums = 12;

template <class T>
int64_t multiply_add(int64_t rounds) {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  Vector factor = Vector{} + T(0.5), term = Vector{} + T(1), sums[kSums];
  asm volatile("" : "+m"(factor), "+m"(term));  // unknown to the compiler, so that it cannot compute the limit, 2
  for (int i = 0; i < kSums; ++i) sums[i] = term * T(i);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = sums[i] * factor + term;
  }
  Vector total = sums[0];
  for (int i = 1; i < kSums; ++i) total += sums[i];
  asm volatile("" : : "m"(total));  // used, so that the loop must run
  return rounds * kSums * 2 * (kVectorBytes / static_cast<int64_t>(sizeof(T)));
}

}  // namespace
}  // namespace tmc
