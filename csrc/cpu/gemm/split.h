// float32 operands packed as sums of bfloat16 (eq. 30), for AMX's tiles.
//
//   x = 2^e * (part 0 + part 1 + part 2)        each part: the bfloat16 nearest to what the parts before it leave
//
// Three parts hold all 24 bits of a float's significand; float16 needs two. Each row of `a` and each column of `b` has
// one e in a depth block. It makes the largest element 2^55 to 2^56. Then no part is subnormal, which AMX would take
// for zero, and no sum of 256 products overflows. Nothing that matters is flushed to zero as long as the elements are
// within 2^kRange of each other.
//
// A row or column stays unsplit if its elements are further apart, or if one is an infinity or a NaN (the second part
// would be NaN). Its parts are zero, its elements are kept as they are, and their products are added in float32.
// Whether it is split depends on its own elements only; so a result's bits depend on its row and column only.
//
//   row of packed a      parts [part][kBlockDepth], elements if unsplit [kBlockDepth], e
//   panel of packed b    parts [part][kBlockDepth / 2][kPanel][2], elements of unsplit columns [kBlockDepth][kPanel], e
//
// Source: Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
// Computations" (2019).
#pragma once
#include <immintrin.h>

#include "cpu/gemm/bfloat16.h"

namespace tmc {
namespace {

constexpr int kLargestExponent = 55, kRange = 100;

struct alignas(64) RowScale {
  float exponent;
  bool unsplit;
};
struct alignas(64) PanelScale {
  float exponent[kPanel], unsplit[kPanel];  // unsplit: all bits or none
  bool any_unsplit;
};

template <int kParts>
struct SplitRow {
  BFloat16 parts[kParts][kBlockDepth];
  alignas(kVectorBytes) float unsplit_elements[kBlockDepth];
  RowScale scale;
};
template <int kParts>
struct SplitPanel {
  BFloat16 parts[kParts][kBlockDepth / 2][kPanel][2];
  alignas(kVectorBytes) float unsplit_elements[kBlockDepth][kPanel];
  PanelScale scale;
  char filled_up[sizeof(SplitRow<kParts>) * kPanel - kParts * kBlockDepth * kPanel * sizeof(BFloat16) -
                 kBlockDepth * kPanel * sizeof(float) - sizeof(PanelScale)];  // a column is as long as a row
};

constexpr uint32_t kUpperHalf = 0xFFFF0000u, kInfinity = 0x7F800000u;

// The vector extensions do the rest: GCC 12 warns of the variables in its own intrinsics.
FloatLanes times_power_of_two(FloatLanes x, FloatLanes exponent) {
  return _mm512_maskz_scalef_ps(-1, x, exponent);  // rounded once, whatever the exponents
}
FloatLanes exponent_of(Bits32 magnitude) {
  return _mm512_maskz_getexp_ps(-1, (__m512)magnitude);  // of subnormals too
}

// As bits: the largest magnitude of each lane, and the smallest that is not zero, less one.
struct Magnitudes {
  Bits32 largest = {}, smallest = ~Bits32{};
  void include(FloatLanes x) {
    const Bits32 bits = (Bits32)x & 0x7FFFFFFFu;
    largest = bits > largest ? bits : largest;
    smallest = bits - 1 < smallest ? bits - 1 : smallest;
  }
};

// Of each lane, a row or column: x * 2^shift is what is split; unsplit is all ones or zero.
struct LaneScales {
  FloatLanes shift;
  Bits32 unsplit;
};
LaneScales scales_of(const Magnitudes& lanes) {
  const FloatLanes high = exponent_of(lanes.largest), low = exponent_of(lanes.smallest + 1);
  const Bits32 zero = (Bits32)(lanes.largest == 0), infinite = (Bits32)(lanes.largest >= kInfinity);
  const Bits32 unsplit = (infinite | (Bits32)(high - low > kRange)) & ~zero;
  return {(FloatLanes)((Bits32)(kLargestExponent - high) & ~(unsplit | zero)), unsplit};
}

// x rounded to bfloat16; finite and far from overflow.
FloatLanes rounded(FloatLanes x) {
  return bits_as<FloatLanes>(round_to_upper_half(bits_as<Bits32>(x)) & kUpperHalf);
}

// Splits two vectors at once: visit(p, part p of first, part p of second), as floats whose lower half is zero.
template <int kParts, class Visit>
void split(FloatLanes first, FloatLanes second, const Visit& visit) {
  for (int p = 0; p < kParts; ++p) {
    const FloatLanes first_part = rounded(first), second_part = rounded(second);
    visit(p, (Bits32)first_part, (Bits32)second_part);
    first -= first_part, second -= second_part;
  }
}

template <int kParts>
void split_row(const float* from, int64_t depth, float shift, bool unsplit, SplitRow<kParts>& row) {
  for (int64_t l = 0; l < depth; l += 2 * kLanes<float>) {
    FloatLanes first = load(from + l), second = load(from + l + kLanes<float>);
    if (unsplit) {
      store(first, row.unsplit_elements + l), store(second, row.unsplit_elements + l + kLanes<float>);
      first = second = FloatLanes{};
    }
    split<kParts>(times_power_of_two(first, FloatLanes{} + shift), times_power_of_two(second, FloatLanes{} + shift),
                  [&](int p, Bits32 low, Bits32 high) {
                    const PanelRow upper =  // halves of the floats
                        unzip<1>(bits_as<PanelRow>(low), bits_as<PanelRow>(high), AllLanes<2 * kLanes<float>>{});
                    store_raw<int16_t, 2 * kLanes<float>>(upper, row.parts[p] + l, 2 * kLanes<float>);
                  });
  }
}

template <int kParts, class Stored>
void pack_a_split(const MatrixView& a, IndexRange rows, IndexRange depth, void* packed) {
  SplitRow<kParts>* to = static_cast<SplitRow<kParts>*>(packed);
  alignas(kVectorBytes) float stage[kLanes<float>][kBlockDepth];
  const int64_t padded = padded_depth(depth.size);
  for (int64_t i = 0; i < rows.size; i += kLanes<float>) {
    const int64_t count = min(kLanes<float>, rows.size - i);
    pack_a<float, Stored>(a, {rows.begin + i, count}, depth, stage);
    Magnitudes lanes;
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t l = depth.size; l < padded; ++l) stage[r][l] = 0;
      Magnitudes row;
      for (int64_t l = 0; l < padded; l += kLanes<float>) row.include(load(stage[r] + l));
      for (int64_t l = 0; l < kLanes<float>; ++l) {
        lanes.largest[r] = max(lanes.largest[r], row.largest[l]);
        lanes.smallest[r] = min(lanes.smallest[r], row.smallest[l]);
      }
    }
    const LaneScales scales = scales_of(lanes);
    for (int64_t r = 0; r < count; ++r) {
      to[i + r].scale = {-scales.shift[r], scales.unsplit[r] != 0};
      split_row<kParts>(stage[r], padded, scales.shift[r], scales.unsplit[r] != 0, to[i + r]);
    }
  }
}

template <int kParts, class Stored>
void pack_b_split(const MatrixView& b, IndexRange depth, IndexRange columns, void* packed) {
  SplitPanel<kParts>* panel = static_cast<SplitPanel<kParts>*>(packed);
  alignas(kVectorBytes) float stage[kBlockDepth][kPanel];
  const int64_t padded = padded_depth(depth.size);
  for (int64_t j = 0; j < columns.size; j += kPanel, ++panel) {
    pack_b<float, Stored>(b, depth, {columns.begin + j, min(kPanel, columns.size - j)}, stage);
    for (int64_t l = depth.size; l < padded; ++l) __builtin_memset(stage[l], 0, sizeof(stage[l]));
    panel->scale.any_unsplit = false;
    for (int64_t half = 0; half < kPanel; half += kLanes<float>) {
      Magnitudes lanes;
      for (int64_t l = 0; l < depth.size; ++l) lanes.include(load(stage[l] + half));
      const LaneScales scales = scales_of(lanes);
      bool any_unsplit = false;
      for (int64_t lane = 0; lane < kLanes<float>; ++lane) any_unsplit |= scales.unsplit[lane] != 0;
      store(-scales.shift, panel->scale.exponent + half);
      store((FloatLanes)scales.unsplit, panel->scale.unsplit + half);
      panel->scale.any_unsplit |= any_unsplit;
      for (int64_t l = 0; l < padded; l += 2) {
        FloatLanes even = load(stage[l] + half), odd = load(stage[l + 1] + half);
        if (any_unsplit) {
          store(even, panel->unsplit_elements[l] + half), store(odd, panel->unsplit_elements[l + 1] + half);
          even = (FloatLanes)((Bits32)even & ~scales.unsplit), odd = (FloatLanes)((Bits32)odd & ~scales.unsplit);
        }
        split<kParts>(times_power_of_two(even, scales.shift), times_power_of_two(odd, scales.shift),
                      [&](int p, Bits32 low, Bits32 high) {
                        store_raw<uint32_t, kLanes<float>>(low >> 16 | high, panel->parts[p][l / 2][half],
                                                           kLanes<float>);
                      });
      }
    }
  }
}

// ---- Back to float32, where a row or column is unsplit.

template <int kParts>
void elements_of(const SplitRow<kParts>& row, int64_t depth, float* to) {
  for (int64_t l = 0; l < padded_depth(depth); ++l) {
    float sum = 0;
    for (int p = kParts - 1; p >= 0; --p) {
      float part;
      convert(row.parts[p][l], part);
      sum += part;
    }
    to[l] = row.scale.unsplit ? row.unsplit_elements[l] : sum;
  }
  for (int64_t l = 0; l < depth; l += kLanes<float>)
    store(times_power_of_two(load(to + l), FloatLanes{} + row.scale.exponent), to + l);
}

template <int kParts>
FloatLanes elements_of(const SplitPanel<kParts>& panel, int64_t l, int64_t half) {
  FloatLanes sum = {};
  for (int p = kParts - 1; p >= 0; --p) {
    const Bits32 pairs = load_raw<uint32_t, kLanes<float>>(panel.parts[p][l / 2][half], kLanes<float>);
    sum += (FloatLanes)(l % 2 == 0 ? pairs << 16 : pairs & kUpperHalf);
  }
  sum = times_power_of_two(sum, load(panel.scale.exponent + half));
  if (!panel.scale.any_unsplit) return sum;
  return (Bits32)load(panel.scale.unsplit + half) != 0 ? load(panel.unsplit_elements[l] + half) : sum;
}

// tile[0 .. 31] of one row += the products of a row and the columns of a panel, where one of the two is unsplit.
template <int kParts>
[[gnu::noinline, gnu::cold]] void add_unsplit(int64_t depth, const SplitRow<kParts>& row,
                                              const SplitPanel<kParts>& panel, float* tile) {
  float a[kBlockDepth];
  elements_of(row, depth, a);
  for (int64_t half = 0; half < kPanel; half += kLanes<float>) {
    const Bits32 unsplit = (Bits32)load(panel.scale.unsplit + half) | (row.scale.unsplit ? ~0u : 0u);
    FloatLanes total = load(tile + half);
    for (int64_t begin = 0; begin < depth; begin += kSumRun) {
      FloatLanes sum = {};
      for (int64_t l = begin; l < min(begin + kSumRun, depth); ++l) sum += a[l] * elements_of(panel, l, half);
      total += sum;
    }
    store(unsplit != 0 ? total : load(tile + half), tile + half);
  }
}

}  // namespace
}  // namespace tmc
