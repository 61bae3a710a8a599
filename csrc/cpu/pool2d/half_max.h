// The maxima of windows of bfloat16 or float16, compared as the integers that they are stored as: twice as many to a
// vector as floats, and nothing to convert.
//
// A sign and a magnitude m are the integer +-m (the key), which is ordered as the numbers are; both zeros are 0, so
// that the first one wins. A NaN has a larger magnitude than infinity and no place in that order: windows that hold one
// are left to floats.
// Bound: eight instructions for a tap of 32 values with AVX-512, none of which but a maximum waits for the tap before;
// then memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/lanes/lanes.h"
#include "cpu/pool2d/plan.h"

namespace tmc {
namespace {

constexpr int64_t kHalfLanes = kVectorBytes / 2;
using HalfBits = Vector<uint16_t, kHalfLanes>;
using HalfKeys = Vector<int16_t, kHalfLanes>;

template <class T>
constexpr int16_t kHalfInfinity = 0x7C00;
template <>
constexpr int16_t kHalfInfinity<BFloat16> = 0x7F80;

struct HalfMaximum {
  HalfBits value, winner;
  HalfKeys key, largest;  // magnitude so far
};

inline void take_if_larger(HalfBits value, HalfBits winner, HalfMaximum& best) {
  const HalfKeys magnitude = bits_as<HalfKeys>(value & 0x7FFF);
#if defined(__AVX512F__)
  const auto larger = [](HalfKeys a, HalfKeys b) {
    return bits_as<HalfKeys>(_mm512_maskz_max_epi16(-1, bits_as<__m512i>(a), bits_as<__m512i>(b)));
  };
  const __m512i positive = bits_as<__m512i>(magnitude), bits = bits_as<__m512i>(value);
  const HalfKeys key =
      bits_as<HalfKeys>(_mm512_mask_sub_epi16(positive, _mm512_movepi16_mask(bits), _mm512_setzero_si512(), positive));
  const __mmask32 wins = _mm512_cmpgt_epi16_mask(bits_as<__m512i>(key), bits_as<__m512i>(best.key));
  best.value = bits_as<HalfBits>(_mm512_mask_mov_epi16(bits_as<__m512i>(best.value), wins, bits));
  best.winner = bits_as<HalfBits>(_mm512_mask_mov_epi16(bits_as<__m512i>(best.winner), wins, bits_as<__m512i>(winner)));
#else
  const auto larger = [](HalfKeys a, HalfKeys b) { return a > b ? a : b; };
  const HalfKeys sign = bits_as<HalfKeys>(value) >> 15, key = (magnitude ^ sign) - sign, wins = key > best.key;
  best.value = wins ? value : best.value;
  best.winner = wins ? winner : best.winner;
#endif
  best.key = larger(key, best.key);
  best.largest = larger(magnitude, best.largest);
}

// Of lanes that are -1 or 0.
inline bool any(HalfKeys lanes) {
#if defined(__AVX512F__)
  return _mm512_movepi16_mask(bits_as<__m512i>(lanes)) != 0;
#else
  const auto words = bits_as<Vector<int64_t, kVectorBytes / 8>>(lanes);
  int64_t found = 0;
  for (int64_t word = 0; word < kVectorBytes / 8; ++word) found |= words[word];
  return found != 0;
#endif
}

// eq. 6 for kVectors * kHalfLanes channels of one output, from the first tap inside the input on; false, and nothing
// written, if there is a NaN.
template <int kVectors, class T>
inline bool max_by_bits(const PoolShape& shape, const Window& rows, const Window& columns, const T* tap,
                        int64_t next_row, int64_t next_column, T* output, uint8_t* winners) {
  HalfMaximum best[kVectors];
  for (HalfMaximum& vector : best)
    vector = {HalfBits{} + static_cast<uint16_t>(kHalfInfinity<T> | 0x8000),
              HalfBits{} + static_cast<uint16_t>(winner_of(shape, rows.begin, columns.begin)),
              HalfKeys{} - kHalfInfinity<T>, HalfKeys{}};
  for (int64_t r = rows.begin; r < rows.end; ++r, tap += next_row) {
    HalfBits index = HalfBits{} + static_cast<uint16_t>(winner_of(shape, r, columns.begin));
    const T* from = tap;
    for (int64_t s = columns.begin; s < columns.end; ++s, index += 1, from += next_column)
      for (int v = 0; v < kVectors; ++v)
        take_if_larger(load_raw<uint16_t, kHalfLanes>(from + v * kHalfLanes, kHalfLanes), index, best[v]);
  }
  for (const HalfMaximum& vector : best)
    if (any(vector.largest > kHalfInfinity<T>)) return false;
  for (int v = 0; v < kVectors; ++v) {
    store_raw<uint16_t, kHalfLanes>(best[v].value, output + v * kHalfLanes, kHalfLanes);
    store_raw<uint8_t, kHalfLanes>(resize<Vector<uint8_t, kHalfLanes>>(best[v].winner), winners + v * kHalfLanes,
                                   kHalfLanes);
  }
  return true;
}

}  // namespace
}  // namespace tmc
