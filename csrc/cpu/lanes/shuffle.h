// The lanes of vectors in another order, which is known at compile time. Elements of any type: they are only moved.
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

}  // namespace
}  // namespace tmc
