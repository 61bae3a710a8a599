// Contiguous planes <-> interleaved ones. Pooling works on [row][column][channel], where every step is one vector; up
// to kMostPlanes contiguous planes at a time are brought into that order in cache, and results back. Elements are only
// moved, so only their size matters. Bound: shuffles, about four for a vector each way.
//
// For sources compiled per instruction set (see cpu/lanes/lanes.h).
#pragma once
#include "cpu/lanes/lanes.h"
#include "cpu/lanes/transpose.h"
#include "cpu/pool2d/plan.h"

namespace tmc {
namespace {

template <int64_t kSize>
struct Unsigned;
template <>
struct Unsigned<1> {
  using type = uint8_t;
};
template <>
struct Unsigned<2> {
  using type = uint16_t;
};
template <>
struct Unsigned<4> {
  using type = uint32_t;
};
template <>
struct Unsigned<8> {
  using type = uint64_t;
};

// Lanes of a vector of elements that are only moved.
template <class Element>
constexpr int64_t kRaw = kVectorBytes / static_cast<int64_t>(sizeof(Element));

template <class T>
constexpr int64_t kTile = kRaw<T> < kPlanes ? kRaw<T> : kPlanes;

// Hardware prefetchers do not keep up with so many planes at once: so many bytes ahead in each.
constexpr int64_t kInterleavedAhead = 512;

// Calls body(i, width) for tiles that cover [0, size): whole ones, the last overlapping its neighbour, or single
// elements if there are too few for one.
template <int64_t kWidth, class F>
inline void for_tiles(int64_t size, F body) {
  if (size < kWidth) {
    for (int64_t i = 0; i < size; ++i) body(i, 1);
    return;
  }
  for (int64_t i = 0; i < size; i += kWidth) body(i < size - kWidth ? i : size - kWidth, kWidth);
}

// interleaved[i][k] = element i of plane k, for i < size and k < kPlanes, where from one i to the next are `step`
// elements. Of planes, which lie `stride` elements apart, `count` exist; the last stands in for those beyond.
template <class T>
void interleave(const T* planes, int64_t stride, int64_t count, int64_t size, T* interleaved, int64_t step) {
  using Element = typename Unsigned<sizeof(T)>::type;
  constexpr int64_t kCount = kTile<Element>;
  const T* plane[kPlanes];
  for (int64_t k = 0; k < kPlanes; ++k) plane[k] = planes + (k < count ? k : count - 1) * stride;
  for_tiles<kCount>(size, [&](int64_t i, int64_t width) {
    T* to = interleaved + i * step;
    if (width == 1) {
      for (int64_t k = 0; k < kPlanes; ++k) to[k] = plane[k][i];
      return;
    }
    for (int64_t k = 0; k < kPlanes; k += kCount) {
      Vector<Element, kCount> tile[kCount];
      for (int64_t j = 0; j < kCount; ++j) {
        __builtin_prefetch(reinterpret_cast<const char*>(plane[k + j] + i) + kInterleavedAhead, 0, 2);
        __builtin_memcpy(&tile[j], plane[k + j] + i, sizeof(tile[j]));
      }
      transpose(tile);
      for (int64_t j = 0; j < kCount; ++j) __builtin_memcpy(to + j * step + k, &tile[j], sizeof(tile[j]));
    }
  });
}

// The inverse; writes the planes that exist.
template <class T>
void deinterleave(const T* interleaved, int64_t step, T* planes, int64_t stride, int64_t count, int64_t size) {
  using Element = typename Unsigned<sizeof(T)>::type;
  constexpr int64_t kCount = kTile<Element>;
  for_tiles<kCount>(size, [&](int64_t i, int64_t width) {
    const T* from = interleaved + i * step;
    if (width == 1) {
      for (int64_t k = 0; k < count; ++k) planes[k * stride + i] = from[k];
      return;
    }
    for (int64_t k = 0; k < count; k += kCount) {
      Vector<Element, kCount> tile[kCount];
      for (int64_t j = 0; j < kCount; ++j) __builtin_memcpy(&tile[j], from + j * step + k, sizeof(tile[j]));
      transpose(tile);
      for (int64_t j = 0; j < kCount && k + j < count; ++j)
        __builtin_memcpy(planes + (k + j) * stride + i, &tile[j], sizeof(tile[j]));
    }
  });
}

}  // namespace
}  // namespace tmc
