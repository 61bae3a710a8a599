// The micro-kernels of cpu/conv2d/direct/direct.h, compiled once for each instruction set by kernels.isa.cpp.
//
// Registers: kMaxRows x 2 vectors of sums + 2 of filters + 1 broadcast: 31 of AVX-512's 32, 15 of AVX2's and SSE's 16.
// Cache: the taps of 14 neighbouring pixels stay in L1 for all panels of filters, a panel comes from L2: 9 bytes a
// cycle of it. Bound: compute. A step is 28 multiply-adds to 16 loads (AVX-512), 12 to 8 (AVX2).
#pragma once
#include "cpu/conv2d/direct/fold.h"
#include "cpu/image/kernels.h"
#include "cpu/lanes/transpose.h"

namespace tmc {
namespace {

#if defined(__AVX512F__)
constexpr int kMaxRows = 14;
#else
constexpr int kMaxRows = 6;
#endif
constexpr int64_t kWidth = 2 * kLanes<float>;

// How words are multiplied: these are floats, in cpu/conv2d/direct/pairs.avx512_bf16.cpp they are pairs. So many of
// them, or a few more where runs of taps are short, are summed in registers before they join the sum of such sums: as
// in cpu/gemm/micro_kernel.h, whose error is this one's.
struct FloatWords {
  static constexpr int64_t kSumRun = 32;
  static constexpr bool kPrefetchesResults = false;  // the larger ones are streamed; of the others it was no gain
  static FloatLanes add(FloatLanes sum, float a, FloatLanes b) { return sum + a * b; }
  template <int kVectors>
  static void write(const FloatLanes (&sum)[kVectors], const DirectLine& line, char* row) {
    float* const to = reinterpret_cast<float*>(row);
    if (line.stream) {
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) tmc::stream(sum[j], to + j * kLanes<float>);
    } else {
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j)
        store(sum[j], to + j * kLanes<float>, min(line.columns - j * kLanes<float>, kLanes<float>));
    }
  }
};

// What is summed: runs of words, or one run of kSumRun words at most, which needs no total, or that of a single tap.
enum class Terms { runs, one_run, one_tap };

// One strip: kRows pixels, kVectors vectors of filters. The line is a copy: no store of results can change it.
template <class Words, Terms kTerms, int kRows, int kVectors>
void correlate_strip(DirectLine line, const float* a, char* out) {
  constexpr bool kOneRun = kTerms != Terms::runs;
  if (kTerms == Terms::one_tap) line.u_count = line.v_count = 1;
  const int64_t a_step = line.a_step;
  FloatLanes total[kOneRun ? 1 : kRows][kVectors] = {}, sum[kRows][kVectors] = {};
  bool has_total = false;
  int64_t terms = 0;
  for (int64_t u = 0; u < line.u_count; ++u)
    for (int64_t v = 0; v < line.v_count; ++v) {
      const float* a_run = a + u * line.a_u_step + v * line.a_v_step;
      const float* b_run = line.b + u * line.b_u_step + v * line.b_v_step;
      for (int64_t l = 0; l < line.run;) {
        const int64_t end = min(l + Words::kSumRun, line.run);
        terms += end - l;
        for (; l < end; ++l) {
          FloatLanes b[kVectors];
#pragma GCC unroll 2
          for (int j = 0; j < kVectors; ++j) b[j] = load(b_run + l * kWidth + j * kLanes<float>);
#pragma GCC unroll 16
          for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
            for (int j = 0; j < kVectors; ++j) sum[i][j] = Words::add(sum[i][j], a_run[i * a_step + l], b[j]);
        }
        if (kOneRun || terms < Words::kSumRun) continue;
        terms = 0;
#pragma GCC unroll 16
        for (int i = 0; i < kRows && !kOneRun; ++i)
#pragma GCC unroll 2
          for (int j = 0; j < kVectors; ++j) total[i][j] += sum[i][j], sum[i][j] = FloatLanes{};
        has_total = true;
      }
    }
  FloatLanes bias[kVectors];
#pragma GCC unroll 2
  for (int j = 0; j < kVectors; ++j) bias[j] = load(line.bias + j * kLanes<float>);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      if (!kOneRun && has_total) sum[i][j] += total[i][j];
      sum[i][j] += bias[j];
    }
    Words::write(sum[i], line, out + i * line.out_step);
  }
}

template <class Words, Terms kTerms, int kRows>
void correlate_strip_of(int64_t rows, const DirectLine& line, const float* a, char* out) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return correlate_strip_of<Words, kTerms, kRows - 1>(rows, line, a, out);
  }
  if (line.columns > kLanes<float>)
    correlate_strip<Words, kTerms, kRows, 2>(line, a, out);
  else
    correlate_strip<Words, kTerms, kRows, 1>(line, a, out);
}

// Prefetches the lines that the next strip's results go to: a store that misses holds up those after it.
void prefetch_results(const DirectLine& line, int64_t begin, int64_t end) {
  if (line.out_step % kCacheLine != 0) return;  // results that share lines with others are slower for it
  for (int64_t i = begin; i < min(end, line.rows); ++i)
    prefetch<Prefetch::write>(static_cast<char*>(line.out) + i * line.out_step);
}

// Strips of equal height: no thin last one.
template <class Words>
void correlate(const DirectLine& line) {
  const int64_t strips = (line.rows + kMaxRows - 1) / kMaxRows;
  const bool one_run = line.u_count * line.v_count * line.run <= Words::kSumRun;
  const auto strip =
      one_run ? correlate_strip_of<Words, Terms::one_run, kMaxRows> : correlate_strip_of<Words, Terms::runs, kMaxRows>;
  for (int64_t s = 0; s < strips; ++s) {
    const int64_t begin = s * line.rows / strips, end = (s + 1) * line.rows / strips;
    if constexpr (Words::kPrefetchesResults) prefetch_results(line, end, (s + 2) * line.rows / strips);
    strip(end - begin, line, line.a + begin * line.a_step, static_cast<char*>(line.out) + begin * line.out_step);
  }
  if (line.stream) finish_streaming();
}

// ---- grad_weight: rows are taps, the sum runs over pixels.

template <class Words, int kRows, int kVectors>
void add_products_strip(const DirectSums& p, int64_t first) {
  FloatLanes total[kRows][kVectors] = {}, sum[kRows][kVectors] = {};
  const int64_t a_pixel = p.a_pixel, b_pixel = p.b_pixel;
  int64_t terms = 0;
  for (int64_t y = 0; y < p.lines; ++y) {
    const float* a = p.a + first + y * p.a_line;
    const float* b = p.b + y * p.b_line;
    for (int64_t x = 0; x < p.pixels;) {
      const int64_t end = min(x + Words::kSumRun, p.pixels);
      terms += end - x;
      for (; x < end; ++x, a += a_pixel, b += b_pixel) {
        FloatLanes b_x[kVectors];
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) b_x[j] = load(b + j * kLanes<float>);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
          for (int j = 0; j < kVectors; ++j) sum[i][j] = Words::add(sum[i][j], a[i], b_x[j]);
      }
      if (terms < Words::kSumRun) continue;
      terms = 0;
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) total[i][j] += sum[i][j], sum[i][j] = FloatLanes{};
    }
  }
  float* to = p.sums + first * p.sums_step;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      float* const at = to + i * p.sums_step + j * kLanes<float>;
      store(FloatLanes(load(at) + (total[i][j] + sum[i][j])), at);
    }
}

template <class Words, int kRows>
void add_products_strip_of(int64_t rows, const DirectSums& p, int64_t first) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return add_products_strip_of<Words, kRows - 1>(rows, p, first);
  }
  if (p.columns > kLanes<float>)
    add_products_strip<Words, kRows, 2>(p, first);
  else
    add_products_strip<Words, kRows, 1>(p, first);
}

template <class Words>
void add_products(const DirectSums& p) {
  const int64_t strips = (p.rows + kMaxRows - 1) / kMaxRows;
  for (int64_t s = 0; s < strips; ++s) {
    const int64_t begin = s * p.rows / strips, end = (s + 1) * p.rows / strips;
    add_products_strip_of<Words, kMaxRows>(end - begin, p, begin);
  }
}

// ---- Packing.

void pack_tap(const Image& weight, int64_t k0, int64_t r, int64_t s, float* to) {
  const float* from =
      reinterpret_cast<const float*>(weight.data) + k0 * weight.n_stride + r * weight.h_stride + s * weight.w_stride;
  const int64_t filters = min(weight.n - k0, kWidth);
  for (int64_t c = 0; c < weight.c; c += kLanes<float>)
    for (int64_t k = 0; k < kWidth; k += kLanes<float>) {
      const int64_t channels = min(weight.c - c, kLanes<float>), count = min(filters - k, kLanes<float>);
      const float* block = from + k * weight.n_stride + c * weight.c_stride;
      float* panel = to + c * kWidth + k;
      if (count > 0 && (weight.c_stride == 1 || weight.c == 1))
        transpose_tile(block, weight.n_stride, count, channels, panel, kWidth);
      else
        for (int64_t i = 0; i < channels; ++i)
          store(count > 0 ? load(block + i * weight.c_stride, count) : FloatLanes{}, panel + i * kWidth);
    }
}

}  // namespace
}  // namespace tmc
