// The peak loops for x86-64-v4 (AVX-512) and for the bfloat16 units that some of these CPUs have beside it. peak.cpp
// asks the CPU before it calls one of the latter.
#include <immintrin.h>

#include "peak_kernels.h"

namespace tmc {
namespace {

// sum[i, lane] += a[2 lane] * b[2 lane] + a[2 lane + 1] * b[2 lane + 1], in kSums chains as above.
__attribute__((target("avx512bf16"))) int64_t dot_bfloat16(int64_t rounds) {
  __m512i bits = _mm512_set1_epi16(0x3F80);  // 1
  asm volatile("" : "+m"(bits));
  const __m512bh ones = (__m512bh)bits;
  __m512 sums[kSums] = {};
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], ones, ones);
  }
  __m512 total = sums[0];
  for (int i = 1; i < kSums; ++i) total += sums[i];
  asm volatile("" : : "m"(total));
  return rounds * kSums * 2 * 32;
}

// tile c (16 x 16 float32) += tile a (16 x 32 bfloat16) * tile b (32 x 16 bfloat16): 16 cycles each, in four chains,
// the 2 x 2 blocking of a GEMM with two tiles of a and two of b.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
__attribute__((target("amx-tile,amx-bf16"))) int64_t tiles_bfloat16(int64_t rounds) {
  const TileConfig config;
  asm volatile("ldtilecfg %0" : : "m"(config));  // zeroes all tiles
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return rounds * 4 * 2 * 16 * 16 * 32;
}

}  // namespace

const PeakLoops kPeakAvx512 = {multiply_add<float>, multiply_add<double>, dot_bfloat16, tiles_bfloat16};
}  // namespace tmc
