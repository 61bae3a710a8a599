// The micro-kernel of Winograd's convolution: one of its 25 matrix products, strip by strip.
//
//   tile[i, v] (+)= sum_l a[i, l] * b[l, v]             kStripRows x 2 vectors of results in registers
//
// Rounding: transformed tiles are larger than the results they cancel to (eq. 28), and with them every rounding error
// of the sum. It is therefore made in three levels: runs of 8 products, groups of 8 runs, groups; the first two in
// registers. On 192 channels that leaves 0.8x of the error of one level of runs of 16 in memory, and it is what keeps
// F(3x3, 3x3) within 1.5x of torch's error (docs/derivations.md, eq. 28).
// Registers (AVX-512): 7 x 2 sums of the run + 7 x 2 of the group + 2 of b + 1 broadcast = 31 of 32; AVX2 and SSE, with
// 3 rows: 15 of 16.
// Cache: b's panel (depth x 128 bytes: 24 KiB for 192 channels) stays in L1 while all strips pass by. The results come
// from L3 where they are added to: they are asked for before the products, which take longer (AlexNet's grad_weight is
// 2 to 15 % faster so), and so are the rows of the next strip (10 % where a product has 384 channels or 192 filters).
// Bound: compute. A step is 14 multiply-adds to 9 loads; a run adds 14 additions to 112 multiply-adds, and Zen 5 adds
// in other units than it multiplies in. Alone it reaches 225 GFLOP/s of the 255 that a core can do.
#pragma once
#include "cpu/conv2d/winograd/winograd.h"
#include "cpu/lanes/lanes.h"
#include "cpu/lanes/prefetch.h"

namespace tmc {
namespace {

#if defined(__AVX512F__)
constexpr int kStripRows = 7;
#else
constexpr int kStripRows = 3;
#endif
constexpr int64_t kRun = 8;
constexpr int kLinesPerRun = 2;
constexpr int64_t kLineFloats = kCacheLine / sizeof(float);
constexpr int64_t kWidth = 2 * kLanes<float>;

template <int kRows>
inline void multiply_step(const float* const (&a)[kRows], int64_t offset, const float* b, int64_t b_vector,
                          FloatLanes (&sum)[kRows][2]) {
  const FloatLanes b0 = load(b), b1 = load(b + b_vector);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) sum[i][0] += a[i][offset] * b0, sum[i][1] += a[i][offset] * b1;
}

// Cache lines still to be prefetched, a few with every run.
struct PrefetchedRun {
  const float *at, *end;
  void some() {
#pragma GCC unroll 4
    for (int i = 0; i < kLinesPerRun; ++i)
      if (at < end) prefetch<Prefetch::read_from_l2>(at), at += kLineFloats;
  }
};

// a's rows of the next strip. They come from L3 in pieces too short for the hardware to follow: a group's channels of a
// tile, or 16 filters of the tiles of a round.
template <int kRows>
struct PrefetchedStripRows {
  const float* a[kRows];
  int64_t step;
  PrefetchedStripRows(const WinogradProduct& p, int64_t first) : step(p.a_step) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) a[i] = p.a + p.a_rows[first + i < p.rows ? first + i : p.rows - 1];
  }
  // What corresponds to the run from l on: each row's line, or the line of the last row (and of most others) at each l.
  void prefetch_run(int64_t l) const {
    if (step != 1) {
#pragma GCC unroll 8
      for (int64_t t = 0; t < kRun; ++t) prefetch(a[kRows - 1] + (l + t) * step);
    } else if (l % kLineFloats == 0) {
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) prefetch(a[i] + l);
    }
  }
};

template <int kRows>
void multiply_strip(const WinogradProduct& p, int64_t first_row, PrefetchedRun prefetched) {
  const float* a[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) a[i] = p.a + p.a_rows[first_row + i];
  float* tile = p.tile + first_row * p.tile_row;
  const float* b = p.b;
  const PrefetchedStripRows<kRows> next_rows(p, first_row + kRows);
  const int64_t* b_rows = p.b_rows;
  const int64_t a_step = p.a_step, b_vector = p.b_vector, tile_row = p.tile_row;
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) prefetch<Prefetch::write>(tile + i * tile_row + v * kLanes<float>);
  bool add = p.add;
  int64_t l = 0;
  do {  // once even for depth 0, whose result is zero
    const int64_t end = l + kChannelGroup < p.depth ? l + kChannelGroup : p.depth;
    FloatLanes group[kRows][2] = {};
    while (l < end) {
      FloatLanes run[kRows][2] = {};
      prefetched.some();
      next_rows.prefetch_run(l);
      if (l + kRun <= end) {
#pragma GCC unroll 8
        for (int64_t t = 0; t < kRun; ++t) multiply_step<kRows>(a, (l + t) * a_step, b + b_rows[l + t], b_vector, run);
        l += kRun;
      } else {
        for (; l < end; ++l) multiply_step<kRows>(a, l * a_step, b + b_rows[l], b_vector, run);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) group[i][0] += run[i][0], group[i][1] += run[i][1];
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        float* to = tile + i * tile_row + v * kLanes<float>;
        store(add ? load(to) + group[i][v] : group[i][v], to);
      }
    add = true;
  } while (l < p.depth);
}

template <int kRows>
void multiply_strip_of(int64_t rows, const WinogradProduct& p, int64_t first_row, PrefetchedRun prefetched) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_strip_of<kRows - 1>(rows, p, first_row, prefetched);
  }
  multiply_strip<kRows>(p, first_row, prefetched);
}

void multiply(const WinogradProduct& p) {
  if (p.rows == 0) return;
  // Strips of equal height, no thin last one; each prefetches its share.
  const int64_t strips = (p.rows + kStripRows - 1) / kStripRows, rows = p.rows / strips, taller = p.rows % strips;
  const int64_t share = p.depth * kWidth / strips;
  PrefetchedRun prefetched = {p.next, p.next};
  for (int64_t s = 0, row = 0; s < strips; ++s) {
    const int64_t height = rows + (s < taller);
    prefetched = {prefetched.end, prefetched.end + share};
    multiply_strip_of<kStripRows>(height, p, row, prefetched);
    row += height;
  }
}

}  // namespace
}  // namespace tmc
