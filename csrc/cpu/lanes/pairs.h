// Two vectors of elements at a time, where it does not matter which lane an element is in. A word of 32 bits holds two
// elements of bfloat16: the pair of vectors is made of the words' halves, by shifts and masks, and no lane moves.
//
// For sources compiled per instruction set (see cpu/lanes/lanes.h).
#pragma once
#include "cpu/lanes/lanes.h"

namespace tmc {
namespace {

template <class Real>
struct LanePair {
  Lanes<Real> first, second;

  LanePair& operator+=(const LanePair& other) {
    first += other.first;
    second += other.second;
    return *this;
  }
  LanePair operator/(Real divisor) const { return {first / divisor, second / divisor}; }
};
template <class T>
constexpr int64_t kPair = 2 * kLanes<accumulate_t<T>>;

using PairBits = Vector<uint16_t, kPair<BFloat16>>;
inline LanePair<float> widen_pair(PairBits bits, BFloat16) {
  const Bits32 words = bits_as<Bits32>(bits);
  return {bits_as<FloatLanes>(words << 16), bits_as<FloatLanes>(words & 0xFFFF0000u)};
}
inline LanePair<float> widen_pair(PairBits bits, Float16) {
  Bits16 halves[2];
  __builtin_memcpy(halves, &bits, sizeof(bits));
  return {widen_lanes(halves[0], Float16{}), widen_lanes(halves[1], Float16{})};
}

// Of memory, of which `count` elements exist.
template <class T>
inline LanePair<accumulate_t<T>> load_pair(const T* from, int64_t count) {
  constexpr int64_t kCount = kLanes<accumulate_t<T>>;
  if constexpr (sizeof(T) == 2) {
    return widen_pair(load_raw<uint16_t, 2 * kCount>(from, count), T{});
  } else {
    if (count == 2 * kCount) return {load(from), load(from + kCount)};
    if (count <= kCount) return {load(from, count), Lanes<accumulate_t<T>>{}};
    return {load(from), load(from + kCount, count - kCount)};
  }
}

// How a tie between two values of bfloat16 is rounded. Up takes one instruction instead of four. It is enough for a
// function whose exact results are never ties.
enum class Ties { to_even, up };

// NaN needs no care: an argument's and the processor's own have a lower half of zero, and nothing carries.
template <Ties kTies>
inline PairBits words_of(LanePair<float> pair) {
  const auto rounded = [](FloatLanes values) {
    const Bits32 word = bits_as<Bits32>(values);
    if constexpr (kTies == Ties::up) return word + 0x8000u;
    return round_to_upper_half(word);
  };
  const Bits32 words = rounded(pair.first) >> 16 | (rounded(pair.second) & 0xFFFF0000u);
  return bits_as<PairBits>(words);
}
template <Ties kTies, class T>
inline void store_pair(LanePair<accumulate_t<T>> pair, T* to, int64_t count) {
  constexpr int64_t kCount = kLanes<accumulate_t<T>>;
  if constexpr (__is_same(T, BFloat16)) {
    store_raw<uint16_t, 2 * kCount>(words_of<kTies>(pair), to, count);
  } else {
    store(pair.first, to, count < kCount ? count : kCount);
    if (count > kCount) store(pair.second, to + kCount, count - kCount);
  }
}
// Non-temporal (see stream in cpu/lanes/lanes.h): a whole pair, aligned to the vector.
template <Ties kTies, class T>
inline void stream_pair(LanePair<accumulate_t<T>> pair, T* to) {
  if constexpr (__is_same(T, BFloat16)) {
    stream_raw(words_of<kTies>(pair), to);
  } else {
    stream(pair.first, to);
    stream(pair.second, to + kLanes<accumulate_t<T>>);
  }
}

// ---- Blocks: a vector or a pair, by its type.

template <class Block, class Real>
constexpr int64_t kLanesOf = sizeof(Block) / sizeof(Real);
template <class Block, class T>
inline Block load_block(const T* from, int64_t count) {
  if constexpr (sizeof(Block) == kVectorBytes) {
    return load(from, count);
  } else {
    return load_pair(from, count);
  }
}
template <class T>
inline void store_block(Lanes<accumulate_t<T>> values, T* to, int64_t count) {
  store(values, to, count);
}
template <class T>
inline void store_block(const LanePair<accumulate_t<T>>& values, T* to, int64_t count) {
  store_pair<Ties::to_even>(values, to, count);
}
template <class T>
inline void stream_block(Lanes<accumulate_t<T>> values, T* to) {
  stream(values, to);
}
template <class T>
inline void stream_block(const LanePair<accumulate_t<T>>& values, T* to) {
  stream_pair<Ties::to_even>(values, to);
}

// to[i] = map(from[i]...) for i < size. Where `streams` says so, by non-temporal stores, for which `to` must be aligned
// to cache lines.
template <Ties kTies, class To, class F, class... From>
inline void map_elements(bool streams, int64_t size, F map, To* to, const From*... from) {
  int64_t i = 0;
  const auto result = [&](int64_t count) {
    const auto apply = [&](auto... pairs) {
      return LanePair<accumulate_t<To>>{map(pairs.first...), map(pairs.second...)};
    };
    return apply(load_pair(from + i, count)...);
  };
  if (streams) {
    for (; i + kPair<To> <= size; i += kPair<To>) stream_pair<kTies>(result(kPair<To>), to + i);
    finish_streaming();
  }
  for (; i + kPair<To> <= size; i += kPair<To>) store_pair<kTies>(result(kPair<To>), to + i, kPair<To>);
  if (i < size) store_pair<kTies>(result(size - i), to + i, size - i);
}

}  // namespace
}  // namespace tmc
