// The micro-kernel on AVX512-BF16's dot product of pairs.
//
//   tile[i, j] += sum_l a[i, l] * b[l, j]       kRows x 32 sums in registers; a pair of l an instruction
//
// vdpbf16ps rounds each addition to float and flushes subnormals, of operands and sums, to zero. A packed block is one
// run of the sum: float's rounding errors of 256 terms are far below bfloat16's own.
// Registers: 14 x 2 sums, 2 of b, 1 broadcast: 31 of 32. Cache: a panel of b is 16 KiB and stays in L1 for all rows.
// Bound: compute, two instructions a cycle on Zen 5: 28 of them to 16 loads a step.
#include <immintrin.h>

#include "cpu/gemm/bfloat16.h"

namespace tmc {
namespace {

constexpr int kDotRows = 14;

template <int kRows>
void dot_kernel(int64_t pairs, const BFloat16* a, const BFloat16* b, float* tile, int64_t tile_stride) {
  __m512 sum[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int64_t l = 0; l < pairs; ++l) {
    const __m512i* b_l = reinterpret_cast<const __m512i*>(b + l * 2 * kPanel);
    const __m512bh low = (__m512bh)_mm512_loadu_si512(b_l), high = (__m512bh)_mm512_loadu_si512(b_l + 1);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      int32_t pair;
      __builtin_memcpy(&pair, a + i * kBlockDepth + 2 * l, sizeof(pair));
      const __m512bh a_il = (__m512bh)_mm512_set1_epi32(pair);
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], low, a_il);
      sum[i][1] = _mm512_dpbf16_ps(sum[i][1], high, a_il);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    float* row = tile + i * tile_stride;
    _mm512_storeu_ps(row, _mm512_add_ps(_mm512_loadu_ps(row), sum[i][0]));
    _mm512_storeu_ps(row + 16, _mm512_add_ps(_mm512_loadu_ps(row + 16), sum[i][1]));
  }
}

template <int kRows>
void dot_kernel_of(int64_t rows, int64_t pairs, const BFloat16* a, const BFloat16* b, float* tile, int64_t stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return dot_kernel_of<kRows - 1>(rows, pairs, a, b, tile, stride);
  }
  dot_kernel<kRows>(pairs, a, b, tile, stride);
}

void multiply_dot(int64_t rows, int64_t columns, int64_t depth, const void* packed_a, const void* packed_b,
                  void* tile) {
  if (rows == 0) return;
  const int64_t strips = (rows + kDotRows - 1) / kDotRows, strip = (rows + strips - 1) / strips;
  const int64_t stride = tile_stride<float>(columns), pairs = (depth + 1) / 2;
  const BFloat16 *a = static_cast<const BFloat16*>(packed_a), *b = static_cast<const BFloat16*>(packed_b);
  for (int64_t j = 0; j < columns; j += kPanel)
    for (int64_t i = 0; i < rows; i += strip)
      dot_kernel_of<kDotRows>(min(strip, rows - i), pairs, a + i * kBlockDepth, b + j * kBlockDepth,
                              static_cast<float*>(tile) + i * stride + j, stride);
}

constexpr char kName[] = "AVX512-BF16 dot products";
constexpr GemmKernels kBFloat16 = bfloat16_kernels<BFloat16>(kName, 1, multiply_dot);
constexpr GemmKernels kMedium = bfloat16_kernels<float>(kName, 1, multiply_dot);

}  // namespace

const GemmKernels* gemm_kernels_avx512_bf16(DType dtype, Precision precision) {
  if (dtype == DType::bfloat16) return &kBFloat16;
  return dtype == DType::float32 && precision == Precision::medium ? &kMedium : nullptr;
}

}  // namespace tmc
