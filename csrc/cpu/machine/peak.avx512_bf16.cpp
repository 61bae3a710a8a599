// The peak of AVX512-BF16:
//
//   sum[i][lane] += a[2 lane] * b[2 lane] + a[2 lane + 1] * b[2 lane + 1]        kSums chains, as in
//   cpu/machine/peak_loop.h
#include <immintrin.h>

#include "cpu/machine/peak_loop.h"

namespace tmc {

int64_t peak_bfloat16_pairs(int64_t rounds) {
  __m512i ones = _mm512_set1_epi16(0x3F80);
  asm volatile("" : "+m"(ones));
  __m512 sums[kSums] = {};
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)ones, (__m512bh)ones);
  }
  __m512 total = sums[0];
  for (int i = 1; i < kSums; ++i) total += sums[i];
  asm volatile("" : : "m"(total));
  return rounds * kSums * 2 * 32;
}

}  // namespace tmc
