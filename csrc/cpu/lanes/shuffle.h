// Lanes of vectors in another order, known when this is compiled. Any vector will do; elements are only moved.
//
// For sources compiled per instruction set (see cpu/lanes/lanes.h).
#pragma once
#include <cstdint>
#include <utility>

namespace tmc {
namespace {

template <int64_t... lane>
using Order = std::integer_sequence<int64_t, lane...>;
template <int64_t kCount>
using AllLanes = std::make_integer_sequence<int64_t, kCount>;

// The lanes of a, then those of b, are numbered from 0 on.
template <class V, int64_t... lane>
inline V shuffle(V a, V b, Order<lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, lane...);
#else
  return __builtin_shuffle(a, b, decltype(a > b){lane...});
#endif
}
// a0 b0 a1 b1 ... of the lower (or, from kFirst = half the lanes on, upper) halves of a and b.
template <int64_t kFirst, class V, int64_t... lane>
inline V zip(V a, V b, Order<lane...>) {
  constexpr int64_t kCount = sizeof...(lane);
  return shuffle(a, b, Order<(kFirst + lane / 2 + lane % 2 * kCount)...>{});
}

// a0 a2 a4 ... b0 b2 ... (or, with kFirst = 1, the odd ones).
template <int64_t kFirst, class V, int64_t... lane>
inline V unzip(V a, V b, Order<lane...>) {
  return shuffle(a, b, Order<(2 * lane + kFirst)...>{});
}

// rows[i][j] becomes rows[j][i]: zipping row i with row i + half, log2(count) times over. Every step takes the same two
// orders, which stay in registers. Exchanging blocks takes two of its own for each distance: AlexNet's first layer, on
// contiguous images, took 24 ms instead of 17 with it (batch 32, float32, Zen 5, 2026-11-23).
template <class V, int64_t kCount>
inline void transpose(V (&rows)[kCount]) {
  static_assert(sizeof(rows[0]) == kCount * sizeof(rows[0][0]));
#pragma GCC unroll 4
  for (int64_t done = 1; done < kCount; done *= 2) {
    V zipped[kCount];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kCount / 2; ++i) {
      zipped[2 * i] = zip<0>(rows[i], rows[i + kCount / 2], AllLanes<kCount>{});
      zipped[2 * i + 1] = zip<kCount / 2>(rows[i], rows[i + kCount / 2], AllLanes<kCount>{});
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kCount; ++i) rows[i] = zipped[i];
  }
}

}  // namespace
}  // namespace tmc
