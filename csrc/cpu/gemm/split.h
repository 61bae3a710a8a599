// float32 operands packed as sums of bfloat16 (eq. 30): x = 2^e * (part 0 + part 1 + part 2), each part the bfloat16
// nearest to what the parts before it leave. Three parts hold all 24 bits of a float; float16 needs two.
//
// A lane is a row of a or a column of b within one depth block. Its e makes its largest element 2^55 to 2^56: then no
// part is subnormal, which AMX would take for zero, no sum of 256 products overflows, and none that matters is flushed
// to zero, as long as the lane's elements are within 2^kRange of each other. A lane that they are not, or that holds an
// infinity or NaN (whose second part would be NaN), is wild: its parts are zero, its elements are kept as they are, and
// multiply adds its products in float32. A lane's form depends on its own elements only, so that a result's bits depend
// on its row and column only.
//
//   row of packed a      [part][kBlockDepth], elements of a wild row [kBlockDepth], e, wild
//   panel of packed b    [part][kBlockDepth / 2][kPanel][2], elements of wild columns [kBlockDepth][kPanel], e, wild
//
// Source: Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
// Computations" (2019).
#pragma once
#include <immintrin.h>

#include "cpu/gemm/bfloat16.h"

namespace tmc {
namespace {

constexpr int kLargestExponent = 55, kRange = 100;
constexpr int kFloats = 16;  // of a vector

struct alignas(64) RowScale {
  float exponent;
  bool wild;
};
struct alignas(64) PanelScale {
  float exponent[kPanel], wild[kPanel];  // wild: all bits or none
  bool any_wild;
};

template <int kParts>
struct SplitRow {
  BFloat16 parts[kParts][kBlockDepth];
  alignas(kVectorBytes) float wild_elements[kBlockDepth];
  RowScale scale;
};
template <int kParts>
struct SplitPanel {
  BFloat16 parts[kParts][kBlockDepth / 2][kPanel][2];
  alignas(kVectorBytes) float wild_elements[kBlockDepth][kPanel];
  PanelScale scale;
  char filled_up[sizeof(SplitRow<kParts>) * kPanel - kParts * kBlockDepth * kPanel * sizeof(BFloat16) -
                 kBlockDepth * kPanel * sizeof(float) - sizeof(PanelScale)];  // a column is as long as a row
};

using Floats = Vector<float>::aligned;
typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
constexpr uint32_t kUpperHalf = 0xFFFF0000u, kInfinity = 0x7F800000u;

// Wherever vector extensions have a word for it, it is used: GCC 12 warns of the variables in its own intrinsics.
Floats load_floats(const float* from) {
  return *reinterpret_cast<const Vector<float>::type*>(from);
}
void store_floats(float* to, Floats values) {
  *reinterpret_cast<Vector<float>::type*>(to) = values;
}
Floats times_power_of_two(Floats x, Floats exponent) {
  return _mm512_maskz_scalef_ps(-1, x, exponent);  // rounded once, whatever the exponents
}
Floats exponent_of(Bits magnitude) {
  return _mm512_maskz_getexp_ps(-1, (__m512)magnitude);  // of subnormals too
}

// The largest magnitude of each of 16 lanes and the smallest but zero, as bits (less one, the smallest).
struct Magnitudes {
  Bits largest = {}, smallest = ~Bits{};
  void include(Floats x) {
    const Bits bits = (Bits)x & 0x7FFFFFFFu;
    largest = bits > largest ? bits : largest;
    smallest = bits - 1 < smallest ? bits - 1 : smallest;
  }
};

// Of each lane: x * 2^shift is what is split; wild is all ones or zero.
struct LaneScales {
  Floats shift;
  Bits wild;
};
LaneScales scales_of(const Magnitudes& lanes) {
  const Floats high = exponent_of(lanes.largest), low = exponent_of(lanes.smallest + 1);
  const Bits zero = (Bits)(lanes.largest == 0), infinite = (Bits)(lanes.largest >= kInfinity);
  const Bits wild = (infinite | (Bits)(high - low > kRange)) & ~zero;
  return {(Floats)((Bits)(kLargestExponent - high) & ~(wild | zero)), wild};
}

// x rounded to bfloat16, to nearest even; finite and far from overflow.
Floats rounded(Floats x) {
  const Bits bits = (Bits)x;
  return (Floats)((bits + 0x7FFFu + (bits >> 16 & 1u)) & kUpperHalf);
}

// Splits two vectors at once: visit(p, part p of first, part p of second), as floats whose lower half is zero.
template <int kParts, class Visit>
void split(Floats first, Floats second, const Visit& visit) {
  for (int p = 0; p < kParts; ++p) {
    const Floats first_part = rounded(first), second_part = rounded(second);
    visit(p, (Bits)first_part, (Bits)second_part);
    first -= first_part, second -= second_part;
  }
}

template <int kParts>
void split_row(const float* from, int64_t depth, float shift, bool wild, SplitRow<kParts>& row) {
  for (int64_t l = 0; l < depth; l += 2 * kFloats) {
    Floats first = load_floats(from + l), second = load_floats(from + l + kFloats);
    if (wild) {
      store_floats(row.wild_elements + l, first), store_floats(row.wild_elements + l + kFloats, second);
      first = second = Floats{};
    }
    split<kParts>(times_power_of_two(first, Floats{} + shift), times_power_of_two(second, Floats{} + shift),
                  [&](int p, Bits low, Bits high) {
                    using Aligned = Vector<int16_t>::aligned;  // of a float, its upper half
                    *reinterpret_cast<Halves*>(row.parts[p] + l) =
                        unzip<1>((Aligned)low, (Aligned)high, AllLanes<2 * kFloats>{});
                  });
  }
}

template <int kParts, class Stored>
void pack_a_split(const MatrixView& a, Block rows, Block depth, void* packed) {
  SplitRow<kParts>* to = static_cast<SplitRow<kParts>*>(packed);
  alignas(kVectorBytes) float stage[kFloats][kBlockDepth];
  const int64_t padded = padded_depth(depth.size);
  for (int64_t i = 0; i < rows.size; i += kFloats) {
    const int64_t count = min(kFloats, rows.size - i);
    pack_a<float, Stored>(a, {rows.begin + i, count}, depth, stage);
    Magnitudes lanes;
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t l = depth.size; l < padded; ++l) stage[r][l] = 0;
      Magnitudes row;
      for (int64_t l = 0; l < padded; l += kFloats) row.include(load_floats(stage[r] + l));
      for (int64_t l = 0; l < kFloats; ++l) {
        lanes.largest[r] = max(lanes.largest[r], row.largest[l]);
        lanes.smallest[r] = min(lanes.smallest[r], row.smallest[l]);
      }
    }
    const LaneScales scales = scales_of(lanes);
    for (int64_t r = 0; r < count; ++r) {
      to[i + r].scale = {-scales.shift[r], scales.wild[r] != 0};
      split_row<kParts>(stage[r], padded, scales.shift[r], scales.wild[r] != 0, to[i + r]);
    }
  }
}

template <int kParts, class Stored>
void pack_b_split(const MatrixView& b, Block depth, Block columns, void* packed) {
  SplitPanel<kParts>* panel = static_cast<SplitPanel<kParts>*>(packed);
  alignas(kVectorBytes) float stage[kBlockDepth][kPanel];
  const int64_t padded = padded_depth(depth.size);
  for (int64_t j = 0; j < columns.size; j += kPanel, ++panel) {
    pack_b<float, Stored>(b, depth, {columns.begin + j, min(kPanel, columns.size - j)}, stage);
    for (int64_t l = depth.size; l < padded; ++l) __builtin_memset(stage[l], 0, sizeof(stage[l]));
    panel->scale.any_wild = false;
    for (int64_t half = 0; half < kPanel; half += kFloats) {
      Magnitudes lanes;
      for (int64_t l = 0; l < depth.size; ++l) lanes.include(load_floats(stage[l] + half));
      const LaneScales scales = scales_of(lanes);
      bool any_wild = false;
      for (int64_t lane = 0; lane < kFloats; ++lane) any_wild |= scales.wild[lane] != 0;
      store_floats(panel->scale.exponent + half, -scales.shift);
      store_floats(panel->scale.wild + half, (Floats)scales.wild);
      panel->scale.any_wild |= any_wild;
      for (int64_t l = 0; l < padded; l += 2) {
        Floats even = load_floats(stage[l] + half), odd = load_floats(stage[l + 1] + half);
        if (any_wild) {
          store_floats(panel->wild_elements[l] + half, even), store_floats(panel->wild_elements[l + 1] + half, odd);
          even = (Floats)((Bits)even & ~scales.wild), odd = (Floats)((Bits)odd & ~scales.wild);
        }
        split<kParts>(times_power_of_two(even, scales.shift), times_power_of_two(odd, scales.shift),
                      [&](int p, Bits low, Bits high) {
                        store_floats(reinterpret_cast<float*>(panel->parts[p][l / 2][half]),
                                     (Floats)(low >> 16 | high));
                      });
      }
    }
  }
}

// ---- Back to float32, where a lane is wild.

template <int kParts>
void elements_of(const SplitRow<kParts>& row, int64_t depth, float* to) {
  for (int64_t l = 0; l < padded_depth(depth); ++l) {
    float sum = 0;
    for (int p = kParts - 1; p >= 0; --p) {
      float part;
      convert(row.parts[p][l], part);
      sum += part;
    }
    to[l] = row.scale.wild ? row.wild_elements[l] : sum;
  }
  for (int64_t l = 0; l < depth; l += kFloats)
    store_floats(to + l, times_power_of_two(load_floats(to + l), Floats{} + row.scale.exponent));
}

template <int kParts>
Floats elements_of(const SplitPanel<kParts>& panel, int64_t l, int64_t half) {
  Floats sum = {};
  for (int p = kParts - 1; p >= 0; --p) {
    const Bits pairs = (Bits)load_floats(reinterpret_cast<const float*>(panel.parts[p][l / 2][half]));
    sum += (Floats)(l % 2 == 0 ? pairs << 16 : pairs & kUpperHalf);
  }
  sum = times_power_of_two(sum, load_floats(panel.scale.exponent + half));
  if (!panel.scale.any_wild) return sum;
  return (Bits)load_floats(panel.scale.wild + half) != 0 ? load_floats(panel.wild_elements[l] + half) : sum;
}

// tile[0 .. 31] of one row += the products of a row and the columns of a panel, where one of the two is wild.
template <int kParts>
[[gnu::noinline, gnu::cold]] void add_wild(int64_t depth, const SplitRow<kParts>& row, const SplitPanel<kParts>& panel,
                                           float* tile) {
  float a[kBlockDepth];
  elements_of(row, depth, a);
  for (int64_t half = 0; half < kPanel; half += kFloats) {
    const Bits wild = (Bits)load_floats(panel.scale.wild + half) | (row.scale.wild ? ~0u : 0u);
    Floats total = load_floats(tile + half);
    for (int64_t begin = 0; begin < depth; begin += kSumRun) {
      Floats sum = {};
      for (int64_t l = begin; l < min(begin + kSumRun, depth); ++l) sum += a[l] * elements_of(panel, l, half);
      total += sum;
    }
    store_floats(tile + half, wild != 0 ? total : load_floats(tile + half));
  }
}

}  // namespace
}  // namespace tmc
