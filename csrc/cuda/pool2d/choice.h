// From the shape of a pool to the kernel that computes it, and that kernel's arguments; on the host.
#pragma once
#include <algorithm>

#include "cuda/pool2d/windows.h"

namespace tmc {

// Below this, positions, offsets inside an image and numbers of tiles fit 32 bits, with room for the threads that have
// no tile. Tests lower it, so that small tensors go the way of the largest.
#ifndef TMC_POOL_NARROW_LIMIT
#define TMC_POOL_NARROW_LIMIT ((int64_t{1} << 31) - (int64_t{1} << 16))
#endif
constexpr int64_t kNarrowLimit = TMC_POOL_NARROW_LIMIT;

inline bool is_narrow(const PoolAxis& axis) {
  if (is_adaptive(axis)) return (axis.in + 1) * (axis.out + 1) < kNarrowLimit;
  const int64_t reach = axis.dilation * (axis.kernel - 1);
  return std::max({axis.out * axis.stride + reach, axis.in + 2 * axis.pad, axis.dilation}) < kNarrowLimit;
}
inline bool is_narrow(const PoolShape& shape) {
  const int64_t pixels = std::max(shape.h.in * shape.w.in, shape.h.out * shape.w.out);
  return is_narrow(shape.h) && is_narrow(shape.w) && pixels * shape.c < kNarrowLimit;
}

template <class Integer>
Integer converted(int64_t value) {
  if constexpr (std::is_same_v<Integer, Divisor>)
    return divisor(value);
  else
    return value;
}
template <class Integer>
PoolAxisOf<Integer> converted(const PoolAxis& axis) {
  return {converted<Integer>(axis.in),     converted<Integer>(axis.out), converted<Integer>(axis.kernel),
          converted<Integer>(axis.stride), converted<Integer>(axis.pad), converted<Integer>(axis.dilation)};
}

enum class PoolResult { output, input };

// Calls body(lanes, windows, problem) if the problem can be counted in the integers of `windows`; tells whether.
template <PoolResult kResult, class Lanes, class Windows, class Body>
bool attempt(const PoolShape& shape, Lanes lanes, Windows windows, Body body) {
  using Integer = typename Windows::Integer;
  const int64_t rows = kResult == PoolResult::output ? shape.h.out : Windows::gradient_tiles(shape.h);
  const int64_t columns = kResult == PoolResult::output ? shape.w.out : Windows::gradient_tiles(shape.w);
  const int64_t vectors = shape.c / Lanes::kChannels, tiles = shape.n / Lanes::kImages * rows * columns * vectors;
  if (std::is_same_v<Integer, Divisor> && !(is_narrow(shape) && tiles < kNarrowLimit)) return false;
  body(lanes, windows,
       PoolProblem<Integer>{
           .shape = {shape.n, shape.c, converted<Integer>(shape.h), converted<Integer>(shape.w)},
           .input_image = shape.c * shape.h.in * shape.w.in,
           .output_image = shape.c * shape.h.out * shape.w.out,
           .input_row = static_cast<index_t<Integer>>(shape.c * shape.w.in),
           .output_row = static_cast<index_t<Integer>>(shape.c * shape.w.out),
           .channels = static_cast<index_t<Integer>>(shape.c),
           .tiles = static_cast<index_t<Integer>>(tiles),
           .vectors = converted<Integer>(vectors),
           .columns = converted<Integer>(columns),
           .rows = converted<Integer>(rows),
       });
  return true;
}

// The shape as the kernels see it.
inline PoolShape folded(const PoolShape& shape, bool channels_last) {
  return channels_last ? shape : PoolShape{shape.n * shape.c, 1, shape.h, shape.w};
}

// Calls body with one value a thread and AnyWindow: for what is rare.
template <PoolResult kResult, class Body>
void choose_plain(const PoolShape& shape, Body body) {
  attempt<kResult>(shape, Channels<1>{}, AnyWindow<Divisor>{}, body) ||
      attempt<kResult>(shape, Channels<1>{}, AnyWindow<int64_t>{}, body);
}

// Calls body with the best that the shape allows: vectors of channels where `aligned` tells that all arrays start at a
// multiple of a vector; else four planes, which is as many values as keep their windows within the registers; and the
// windows of AlexNet (3 x 3, stride 2) and of most others (2 x 2, stride 2) fixed.
template <PoolResult kResult, class T, class Body>
void choose(const PoolShape& shape, bool aligned, Body body) {
  const auto choose_windows = [&](auto lanes) {
    using Overlapping = FixedWindow<3, 2>;
    using Tiling = FixedWindow<2, 2>;
    if (Overlapping::fits(shape.h) && Overlapping::fits(shape.w))
      return attempt<kResult>(shape, lanes, Overlapping{}, body);
    if (Tiling::fits(shape.h) && Tiling::fits(shape.w)) return attempt<kResult>(shape, lanes, Tiling{}, body);
    return attempt<kResult>(shape, lanes, AnyWindow<Divisor>{}, body);
  };
  using Pixel = Channels<kVectorLanes<T>>;
  using Plane = Planes<4>;
  if (aligned && Pixel::fit(shape) && choose_windows(Pixel{})) return;
  if (Plane::fit(shape) && choose_windows(Plane{})) return;
  choose_plain<kResult>(shape, body);
}

}  // namespace tmc
