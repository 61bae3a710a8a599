// The maxima of overlapping windows of bfloat16 or float16: every value is turned into its key (cpu/pool2d/half_max.h)
// once, in scratch memory, for all the windows that hold it. A key tells all but NaN and the sign of zero; a task that
// holds one of them takes the values themselves along, or leaves its windows to floats. Bound: seven instructions for
// 32 values with AVX-512, and three for each of their taps; then memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/channels.h"

namespace tmc {
namespace {

// What keys do not tell: nothing, or the worst of it.
enum class Untold { nothing, negative_zeros, nans };

constexpr int16_t kSignBit = INT16_MIN;  // and, of a value, -0

inline HalfKeys larger_of(HalfKeys a, HalfKeys b) {
#if defined(__AVX512F__)
  return bits_as<HalfKeys>(_mm512_maskz_max_epi16(-1, bits_as<__m512i>(a), bits_as<__m512i>(b)));
#else
  return a > b ? a : b;
#endif
}
inline HalfKeys smaller_of(HalfKeys a, HalfKeys b) {
#if defined(__AVX512F__)
  return bits_as<HalfKeys>(_mm512_maskz_min_epi16(-1, bits_as<__m512i>(a), bits_as<__m512i>(b)));
#else
  return a < b ? a : b;
#endif
}

// Where this reads, max_key_row reads ahead meanwhile, but not far enough for inputs that no cache holds.
constexpr int64_t kKeysAhead = 8192;

// The keys of `size` values; whole vectors are written.
template <class T>
KERNEL Untold write_keys(const T* values, int64_t size, int16_t* keys) {
  HalfKeys largest{}, smallest{}, smallest_bits{};
  const auto write = [&](int64_t x, int64_t count) {
    const HalfKeys bits = load_raw<int16_t, kHalfLanes>(values + x, count), sign = bits >> 15;
    const HalfKeys key = ((bits & 0x7FFF) ^ sign) - sign;
    largest = larger_of(largest, key);
    smallest = smaller_of(smallest, key);
    smallest_bits = smaller_of(smallest_bits, bits);
    store_raw<int16_t, kHalfLanes>(key, keys + x, kHalfLanes);
  };
  int64_t x = 0;
  for (; x + kHalfLanes <= size; x += kHalfLanes) {
    __builtin_prefetch(values + x + kKeysAhead, 0, 2);
    write(x, kHalfLanes);
  }
  if (x < size) write(x, size - x);
  if (any((largest > kHalfInfinity<T>) | (smallest < -kHalfInfinity<T>))) return Untold::nans;
  return any(smallest_bits == kSignBit) ? Untold::negative_zeros : Untold::nothing;
}

// The largest key so far, its tap, and where keys do not tell it, the value.
struct LargestKey {
  HalfKeys key;
  HalfBits winner, value;
};
template <bool kValues>
inline void take_if_larger(const int16_t* key, const void* value, int64_t count, HalfBits tap, LargestKey& best) {
  const HalfKeys next = load_raw<int16_t, kHalfLanes>(key, kHalfLanes);
#if defined(__AVX512F__)
  const __mmask32 wins = _mm512_cmpgt_epi16_mask(bits_as<__m512i>(next), bits_as<__m512i>(best.key));
  const auto take = [wins](HalfBits taken, HalfBits& old) {
    old = bits_as<HalfBits>(_mm512_mask_mov_epi16(bits_as<__m512i>(old), wins, bits_as<__m512i>(taken)));
  };
#else
  const HalfBits wins = bits_as<HalfBits>(next > best.key);
  const auto take = [wins](HalfBits taken, HalfBits& old) { old = (taken & wins) | (old & ~wins); };
#endif
  take(tap, best.winner);
  if constexpr (kValues) take(load_raw<uint16_t, kHalfLanes>(value, count), best.value);
  best.key = larger_of(next, best.key);
}

// eq. 6 for output row `p`, whose tap row r has its keys at key_rows[r]: vectors are read past the last key.
template <bool kValues, class T>
inline void max_key_row(const PoolPlan& plan, int64_t p, const int16_t* const* key_rows, ReadAhead& read_ahead,
                        Rows<const T> input, Rows<T> output, Rows<uint8_t> winners) {
  const PoolShape shape = plan.shape;
  const int64_t channels = input.channels, step = shape.w.dilation * channels;
  const Window rows = plan.rows[p];
  for (int64_t q = 0; q < shape.w.out; ++q) {
    const Window columns = plan.columns[q];
    const int64_t first = columns.start + columns.begin * shape.w.dilation;
    read_ahead(channels);
    const auto find = [&]<int kSize, int kVectors>(int64_t c, int64_t count) {
      LargestKey best[kVectors];
      for (LargestKey& vector : best)
        vector = {HalfKeys{} - kHalfInfinity<T>,
                  HalfBits{} + static_cast<uint16_t>(winner_of(shape, rows.begin, columns.begin)),
                  HalfBits{} + static_cast<uint16_t>(kHalfInfinity<T> | kSignBit)};
      const int64_t row_count = kSize > 0 ? kSize : rows.end - rows.begin;
      const int64_t column_count = kSize > 0 ? kSize : columns.end - columns.begin;
      HalfBits row_tap = best[0].winner;
#pragma GCC unroll 3
      for (int64_t r = 0; r < row_count; ++r, row_tap += static_cast<uint16_t>(shape.w.kernel)) {
        const int16_t* keys = key_rows[rows.begin + r] + first * channels + c;
        const T* values = kValues ? input.at(rows.start + (rows.begin + r) * shape.h.dilation, first) + c : nullptr;
        HalfBits tap = row_tap;
#pragma GCC unroll 3
        for (int64_t s = 0; s < column_count; ++s, tap += 1)
          for (int64_t v = 0, place = s * step; v < kVectors; ++v, place += kHalfLanes)
            take_if_larger<kValues>(keys + place, values + place, count, tap, best[v]);
      }
      for (int v = 0; v < kVectors; ++v, c += kHalfLanes) {
        const HalfKeys sign = best[v].key >> 15;
        const HalfKeys bits = ((best[v].key ^ sign) - sign) | (sign & kSignBit);
        store_raw<uint16_t, kHalfLanes>(kValues ? best[v].value : bits_as<HalfBits>(bits), output.at(p, q) + c, count);
        store_raw<uint8_t, kHalfLanes>(resize<Vector<uint8_t, kHalfLanes>>(best[v].winner), winners.at(p, q) + c,
                                       count);
      }
    };
    const auto find_all = [&]<int kSize>() {
      int64_t c = 0;
      for (; c + 2 * kHalfLanes <= channels; c += 2 * kHalfLanes) find.template operator()<kSize, 2>(c, kHalfLanes);
      for (; c < channels; c += kHalfLanes)
        find.template operator()<kSize, 1>(c, channels - c < kHalfLanes ? channels - c : kHalfLanes);
    };
    if (rows.end - rows.begin == 3 && columns.end - columns.begin == 3) {  // the usual ones, without loops
      find_all.template operator()<3>();
    } else {
      find_all.template operator()<0>();
    }
  }
}

// eq. 6 for output rows `p_range`. The keys of input row h stand in row h % kernel_span of `ring`.
template <class T>
KERNEL void max_rows_by_keys(const PoolPlan& plan, Range p_range, Rows<const T> input, Rows<T> output,
                             Rows<uint8_t> winners, int16_t* ring) {
  const PoolAxis axis = plan.shape.h;
  const int64_t span = kernel_span(axis), row_size = input.width * input.channels;
  const int64_t pitch = ceil_div(row_size, kHalfLanes) * kHalfLanes;
  ReadAhead read_ahead(plan, input, axis.kernel, p_range.begin);
  Untold untold[kMaxSpan];
  const int16_t* key_rows[kMaxByteTaps];
  int64_t next = 0;  // input row to be turned into keys
  for (int64_t p = p_range.begin; p < p_range.end; ++p) {
    const Window rows = plan.rows[p];
    const auto input_row = [&](int64_t tap) { return rows.start + tap * axis.dilation; };
    Untold worst = Untold::nothing;
    if (next < rows.start) next = rows.start;
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const int64_t h = input_row(r);
      for (; next <= h; ++next)
        untold[next % span] = write_keys(input.at(next, 0), row_size, ring + next % span * pitch);
      key_rows[r] = ring + h % span * pitch;
      if (untold[h % span] > worst) worst = untold[h % span];
    }
    if (worst == Untold::nothing) {
      max_key_row<false>(plan, p, key_rows, read_ahead, input, output, winners);
    } else if (worst == Untold::negative_zeros) {
      max_key_row<true>(plan, p, key_rows, read_ahead, input, output, winners);
    } else {
      max_rows(plan, {p, p + 1}, input, output, winners);
    }
  }
}

}  // namespace
}  // namespace tmc
