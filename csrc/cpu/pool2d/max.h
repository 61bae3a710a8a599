// The maxima of windows and their winners, a vector of channels at a time: one scan over the taps of a window, with two
// kinds of lanes.
//
//   WideLanes  float and double as they are; half precision widened to float. torch's comparison: five instructions.
//   HalfLanes  bfloat16 and float16 as the integers that they are stored as: twice as many lanes and nothing to
//              convert. Seven instructions with AVX-512, of which only one waits for the tap before.
//
// Where the next row of outputs shares half of a window or more (3 x 3 at a stride of 1), two rows are scanned at a
// time, so that what they share is compared once: 12 taps and one comparison of maxima instead of 18 taps.
//
// Bound: instructions; from two taps a value down, memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/channels.h"

namespace tmc {
namespace {

// The largest values so far and their taps.
template <class T>
struct WideLanes {
  using Real = accumulate_t<T>;
  using Taps = IntegerLanes<Real>;
  static constexpr int64_t kCount = kLanes<Real>;
  Lanes<Real> value;
  Taps winner;

  static Taps taps(int64_t tap) { return Taps{} + static_cast<Integer<Real>>(tap); }
  static WideLanes nothing(Taps first) { return {Lanes<Real>{} - static_cast<Real>(__builtin_inf()), first}; }
  void take(const T* from, int64_t count, Taps tap) { take_if_beats<Real>(load(from, count), tap, value, winner); }
  // A part of the window that follows this one.
  void take(const WideLanes& later, Taps moved) {
    take_if_beats<Real>(later.value, later.winner + moved, value, winner);
  }
  bool is_exact() const { return true; }
  template <class Winner>
  void write(T* output, Winner* winners, int64_t count) const {
    store(value, output, count);
    store_winners<Real>(winner, winners, count);
  }
};

template <class T>
constexpr int16_t kHalfInfinity = 0x7C00;
template <>
constexpr int16_t kHalfInfinity<BFloat16> = 0x7F80;

// A value's key is its bits, of which those below a minus sign are inverted: keys are ordered as the values are. But a
// NaN has to win whatever its sign, and -0 equals 0: `is_exact` fails where the order may not be torch's, and the
// windows are scanned once more as floats.
template <class T>
struct HalfLanes {
  static constexpr int64_t kCount = kVectorBytes / 2;
  using Taps = Vector<uint16_t, kCount>;
  using Keys = Vector<int16_t, kCount>;
  Keys key, smallest;
  Taps winner;

  static Taps taps(int64_t tap) { return Taps{} + static_cast<uint16_t>(tap); }
  static HalfLanes nothing(Taps first) { return {Keys{} + kLeast, Keys{}, first}; }
  void take(const T* from, int64_t count, Taps tap) {
    const Keys next = flipped(load_raw<int16_t, kCount>(from, count));
    take(next, next, tap);
  }
  void take(const HalfLanes& later, Taps moved) { take(later.key, later.smallest, later.winner + moved); }
  bool is_exact() const { return !any((key > kHalfInfinity<T>) | (smallest < kLeast) | ((key == 0) & (smallest < 0))); }
  void write(T* output, uint8_t* winners, int64_t count) const {
    store_raw<int16_t, kCount>(flipped(key), output, count);
    store_raw<uint8_t, kCount>(resize<Vector<uint8_t, kCount>>(winner), winners, count);
  }

 private:
  static constexpr int16_t kLeast = static_cast<int16_t>(-kHalfInfinity<T> - 1);  // the key of -infinity

  // Values to keys, and keys to values.
  static Keys flipped(Keys bits) {
#if defined(__AVX512F__)
    return bits_as<Keys>(_mm512_ternarylogic_epi32(bits_as<__m512i>(bits), bits_as<__m512i>(bits >> 15),
                                                   _mm512_set1_epi16(0x7FFF), 0x78));  // a ^ (b & c)
#else
    return bits ^ ((bits >> 15) & 0x7FFF);
#endif
  }
  void take(Keys next, Keys next_smallest, Taps tap) {
#if defined(__AVX512F__)
    const __m512i a = bits_as<__m512i>(next), b = bits_as<__m512i>(key);
    winner = bits_as<Taps>(
        _mm512_mask_mov_epi16(bits_as<__m512i>(winner), _mm512_cmpgt_epi16_mask(a, b), bits_as<__m512i>(tap)));
    key = bits_as<Keys>(_mm512_maskz_max_epi16(-1, a, b));
    smallest = bits_as<Keys>(_mm512_maskz_min_epi16(-1, bits_as<__m512i>(next_smallest), bits_as<__m512i>(smallest)));
#else
    const Taps wins = bits_as<Taps>(next > key);
    winner = (tap & wins) | (winner & ~wins);
    key = next > key ? next : key;
    smallest = next_smallest < smallest ? next_smallest : smallest;
#endif
  }
  static bool any(Keys lanes) {  // of -1 and 0
#if defined(__AVX512F__)
    return _mm512_movepi16_mask(bits_as<__m512i>(lanes)) != 0;
#else
    const auto words = bits_as<Vector<int64_t, kVectorBytes / 8>>(lanes);
    int64_t found = 0;
    for (int64_t word = 0; word < kVectorBytes / 8; ++word) found |= words[word];
    return found != 0;
#endif
  }
};

inline bool shares_half(const PoolAxis& axis) {
  return !is_adaptive(axis) && axis.dilation == 1 && 2 * (axis.kernel - axis.stride) >= axis.kernel;
}

// eq. 6 for output rows `p_range`, two at a time where kPaired says so; a window without a single input position gives
// -inf and its first tap.
template <bool kPaired, class T, class Winner>
KERNEL void max_rows(const PoolPlan& plan, Range p_range, Rows<const T> input, Rows<T> output, Rows<Winner> winners) {
  constexpr int kRows = kPaired ? 2 : 1;
  const PoolShape shape = plan.shape;
  const int64_t step = shape.w.dilation * input.channels, down = shape.h.stride;
  const int64_t rows_scanned = shape.h.kernel + (kPaired ? down : 0);  // for kRows rows of outputs
  ReadAhead read_ahead(plan, input, rows_scanned, p_range.begin, ceil_div(rows_scanned, int64_t{kRows}));
  for (int64_t p = p_range.begin; p < p_range.end; p += kRows)
    for (int64_t q = 0; q < shape.w.out; ++q) {
      const Window upper = plan.rows[p], lower = plan.rows[p + kRows - 1], columns = plan.columns[q];
      const int64_t first_column = columns.start + columns.begin * shape.w.dilation;
      // The channels from c on; false, and nothing written, if the lanes cannot tell.
      const auto find = [&]<class Found, int kVectors>(int64_t c, int64_t count) {
        struct Maxima {
          Found vector[kVectors];
        };
        const auto nothing = [&](const Window& rows) {
          Maxima maxima;
          for (Found& vector : maxima.vector)
            vector = Found::nothing(Found::taps(winner_of(shape, rows.begin, columns.begin)));
          return maxima;
        };
        const auto scan = [&](const Window& rows, int64_t begin, int64_t end, Maxima& maxima) {
          for (int64_t r = begin; r < end; ++r) {
            read_ahead(kVectors * count);
            const T* tap = input.at(rows.start + r * shape.h.dilation, first_column) + c;
            auto index = Found::taps(winner_of(shape, r, columns.begin));
            for (int64_t s = columns.begin; s < columns.end; ++s, index += 1, tap += step)
              for (int v = 0; v < kVectors; ++v) maxima.vector[v].take(tap + v * Found::kCount, count, index);
          }
        };
        const auto is_exact = [&](const Maxima& maxima) {
          bool exact = true;
          for (const Found& vector : maxima.vector) exact &= vector.is_exact();
          return exact;
        };
        const auto write = [&](int64_t row, const Maxima& maxima) {
          for (int64_t v = 0, at = c; v < kVectors; ++v, at += Found::kCount)
            maxima.vector[v].write(output.at(row, q) + at, winners.at(row, q) + at, count);
        };
        Maxima whole = nothing(upper);
        if constexpr (kPaired) {
          const int64_t upper_stop = upper.end < down ? upper.end : down;
          const int64_t lower_stop = upper.end - down > lower.begin ? upper.end - down : lower.begin;
          Maxima shared = nothing(lower);
          scan(lower, lower.begin, lower_stop, shared);
          scan(upper, upper.begin, upper_stop, whole);
          for (int v = 0; v < kVectors; ++v)
            whole.vector[v].take(shared.vector[v], Found::taps(winner_of(shape, down, int64_t{0})));
          scan(lower, lower_stop, lower.end, shared);
          if (!is_exact(whole) || !is_exact(shared)) return false;
          write(p + 1, shared);
        } else {
          scan(upper, upper.begin, upper.end, whole);
          if (!is_exact(whole)) return false;
        }
        write(p, whole);
        return true;
      };
      const int64_t channels = input.channels;
      if constexpr (sizeof(T) == 2 && sizeof(Winner) == 1) {
        constexpr int64_t kHalves = HalfLanes<T>::kCount, kWide = WideLanes<T>::kCount;
        const auto find_halves = [&]<int kVectors>(int64_t c, int64_t count) {
          if (find.template operator()<HalfLanes<T>, kVectors>(c, count)) return;
          for (const int64_t end = c + (kVectors - 1) * kHalves + count; c < end; c += kWide)
            find.template operator()<WideLanes<T>, 1>(c, end - c < kWide ? end - c : kWide);
        };
        int64_t c = 0;
        for (; c + 2 * kHalves <= channels; c += 2 * kHalves) find_halves.template operator()<2>(c, kHalves);
        for (; c < channels; c += kHalves)
          find_halves.template operator()<1>(c, channels - c < kHalves ? channels - c : kHalves);
      } else {
        for_channels<accumulate_t<T>>(channels, [&]<class, int kVectors>(int64_t c, int64_t count) {
          find.template operator()<WideLanes<T>, kVectors>(c, count);
        });
      }
    }
}

}  // namespace
}  // namespace tmc
