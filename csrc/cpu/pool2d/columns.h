// Few channels: the columns of a row stand side by side where otherwise the channels do. For each tap of the windows
// along a row the pixels that it reads are copied into a row of their own, [tap][output][channel]; what is left are
// windows of one column, in an image whose pixels are whole rows. The gradient of an average is copied the other way
// round: each position's outputs, [which][position][channel]. Bound: the copies, one for each pixel and tap.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/channels.h"
#include "cpu/pool2d/planes.h"

namespace tmc {
namespace {

template <class T>
using Raw = Vector<T, kRaw<T>>;
template <class T>
inline Raw<T> load_whole(const T* from) {
  return load_raw<T, kRaw<T>>(from, kRaw<T>);
}
template <class T>
inline void store_whole(Raw<T> values, T* to) {
  __builtin_memcpy(to, &values, sizeof(values));
}

// `count` pixels of `size` elements, from and to places so many elements apart: every second element is taken by
// vectors (to_step is then 1).
template <class T>
void copy_pixels(const T* from, int64_t from_step, T* to, int64_t to_step, int64_t count, int64_t size) {
  if (from_step == size && to_step == size) {
    __builtin_memcpy(to, from, count * size * sizeof(T));
    return;
  }
  if (size == 1 && from_step == 2 && count > kRaw<T>) {
    const auto take = [&]<int64_t kFirst>(int64_t i) {
      const T* at = from + 2 * i - kFirst;
      store_whole<T>(unzip<kFirst>(load_whole(at), load_whole(at + kRaw<T>), AllLanes<kRaw<T>>{}), to + i);
    };
    for (int64_t i = 0; i + kRaw<T> < count; i += kRaw<T>) take.template operator()<0>(i);
    return take.template operator()<1>(count - kRaw<T>);  // reads no further than the last
  }
  const auto copy = [&]<int64_t kBytes>(int64_t bytes) {  // the last kBytes may overlap those before
    for (; count > 0; --count, from += from_step, to += to_step) {
      const auto part = [&](int64_t at) {
        __builtin_memcpy(reinterpret_cast<char*>(to) + at, reinterpret_cast<const char*>(from) + at, kBytes);
      };
      for (int64_t at = 0; at + kBytes < bytes; at += kBytes) part(at);
      part(bytes - kBytes);
    }
  };
  constexpr int64_t kBytes = sizeof(T);
  if (size == 1) return copy.template operator()<kBytes>(kBytes);
  if (size == 2) return copy.template operator()<2 * kBytes>(2 * kBytes);
  if (size == 3) return copy.template operator()<3 * kBytes>(3 * kBytes);
  if (size * kBytes < 16) return copy.template operator()<8>(size * kBytes);
  copy.template operator()<16>(size * kBytes);
}

// A tap of the window in the input: the nearest one.
inline int64_t tap_inside(const Window& window, int64_t tap) {
  return min(max(tap, window.begin), window.end - 1);
}

// The taps of image rows `range`. Taps beside the input are zeros in a sum; in a maximum they repeat the nearest tap of
// their window.
template <class T>
Rows<const T> take_taps(const PoolPlan& plan, int64_t plane, Range range, char*& scratch) {
  using Element = typename Unsigned<sizeof(T)>::type;
  const ColumnTaps& taps = *plan.taps;
  const PoolAxis& axis = taps.axis;
  const int64_t size = taps.pixel, row_size = axis.in * size;
  const Element* row = static_cast<const Element*>(plan.source) + (plane * plan.shape.h.in + range.begin) * row_size;
  Element* const copies = reinterpret_cast<Element*>(scratch);
  Element* to = copies;
  for (int64_t h = range.begin; h < range.end; ++h, row += row_size)
    for (int64_t tap = 0; tap < axis.kernel; ++tap, to += axis.out * size) {
      const int64_t first = tap * axis.dilation - axis.pad;
      const Range inside = plan.taps->outputs[tap];
      copy_pixels(row + (inside.begin * axis.stride + first) * size, axis.stride * size, to + inside.begin * size, size,
                  inside.size(), size);
      const auto fill = [&](int64_t begin, int64_t end) {
        for (int64_t q = begin; q < end; ++q) {
          const Window& window = taps.windows[q];
          const Element* nearest = row + (window.start + tap_inside(window, tap) * axis.dilation) * size;
          for (int64_t i = 0; i < size; ++i) to[q * size + i] = plan.winners == nullptr ? Element{0} : nearest[i];
        }
      };
      fill(0, inside.begin);
      fill(inside.end, axis.out);
    }
  scratch += ceil_div((to - copies) * static_cast<int64_t>(sizeof(T)), 64) * 64;
  return {reinterpret_cast<const T*>(copies), range.begin, axis.kernel, plan.shape.c};
}

// A repeated tap that won is the one that it repeats.
template <class Winner>
void correct_winners(const PoolPlan& plan, Range range, const Rows<Winner>& winners) {
  const ColumnTaps& taps = *plan.taps;
  for (int64_t q = 0; q < taps.axis.out; ++q) {
    const Window& window = taps.windows[q];
    if (window.end - window.begin == taps.axis.kernel) continue;
    for (int64_t p = range.begin; p < range.end; ++p)
      for (int64_t i = q * taps.pixel; i < (q + 1) * taps.pixel; ++i) {
        Winner& winner = winners.at(p, 0)[i];
        const int64_t tap = winner % taps.axis.kernel;
        winner = static_cast<Winner>(winner - tap + tap_inside(window, tap));
      }
  }
}

// The gradients of output rows `range`, each at the positions of its window: of those that reach a position the first
// in the first row, and zeros where there are fewer than in most.
template <class T>
Rows<T> spread_outputs(const PoolPlan& plan, const T* source, Range range, char*& scratch) {
  using Element = typename Unsigned<sizeof(T)>::type;
  const PoolAxis& axis = plan.taps->axis;
  const int64_t size = plan.taps->pixel, row_size = axis.out * size, most = plan.shape.w.out, copy = axis.in * size;
  const Element* row = reinterpret_cast<const Element*>(source);
  Element* const copies = reinterpret_cast<Element*>(scratch);
  const int64_t bytes = range.size() * most * copy * static_cast<int64_t>(sizeof(T));
  __builtin_memset(copies, 0, bytes);
  Element* to = copies;
  Range paired{0, 0};
  for (int64_t p = range.begin; p < range.end; ++p, row += row_size, to += most * copy)
    for (int64_t tap = 0; tap < axis.kernel; ++tap) {
      const Range inside = plan.taps->outputs[tap];
      Element* const first = to + (most - 1 - tap / axis.stride) * copy + (tap - axis.pad) * size;
      if (size == 1 && axis.stride == 2 && tap % 2 == 0) {  // two taps at once
        const bool has_next = tap + 1 < axis.kernel;
        const Range next = has_next ? plan.taps->outputs[tap + 1] : inside;
        paired.begin = paired.end = max(inside.begin, next.begin);
        for (; paired.end + kRaw<Element> < min(inside.end, next.end); paired.end += kRaw<Element>) {
          const auto pixels = load_whole(row + paired.end), beside = has_next ? pixels : pixels ^ pixels;
          store_whole<Element>(zip<0>(pixels, beside, AllLanes<kRaw<Element>>{}), first + 2 * paired.end);
          store_whole<Element>(zip<kRaw<Element> / 2>(pixels, beside, AllLanes<kRaw<Element>>{}),
                               first + 2 * paired.end + kRaw<Element>);
        }
      }
      const auto copy_outputs = [&](int64_t begin, int64_t end) {
        copy_pixels(row + begin * size, size, first + begin * axis.stride * size, axis.stride * size,
                    max(0, end - begin), size);
      };
      copy_outputs(inside.begin, paired.begin);
      copy_outputs(max(inside.begin, paired.end), inside.end);
    }
  scratch += ceil_div(bytes, 64) * 64;
  return {reinterpret_cast<T*>(copies), range.begin, most, plan.shape.c};
}

}  // namespace
}  // namespace tmc
