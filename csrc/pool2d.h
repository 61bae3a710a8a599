// Pooling over rectangular windows, each channel alone: what is computed. window(p,q) holds the positions of output
// (p,q) that lie in the input.
//
//   eq. 6   max      output[p,q] = max over (h,w) in window(p,q) of input[h,w]; its winner is the first maximum,
//                    or the last NaN (torch's rule)
//   eq. 7   average  output[p,q] = sum over (h,w) in window(p,q) of input[h,w] / divisor(p,q); sum pooling: divisor = 1
//   eq. 8   max      grad_input[h,w] = sum of grad_output[p,q] over the windows whose winner is (h,w)
//   eq. 9   average  grad_input[h,w] = sum of grad_output[p,q] / divisor(p,q) over the windows that contain (h,w)
//   eq. 10  select   output[p,q] = input[winner(p,q)], the transpose of eq. 8
//
// A winner is stored as its offset inside the window, tap_h * window_w + tap_w: one byte for windows of up to
// 256 taps, int32 above. Sliding and adaptive pooling differ only in how a window is found, so every kernel is
// written once over the two functions `window` and `covering` below.
#pragma once
#include "common.h"

namespace tmc {

// One axis of a pooling problem. Integer is int64_t, or on a GPU a 32-bit integer that is fast to divide by.
template <class Integer>
struct PoolAxisOf {
  Integer in, out;                        // extents
  Integer kernel, stride, pad, dilation;  // adaptive: kernel = largest window, stride = 0
};
using PoolAxis = PoolAxisOf<int64_t>;

template <class Integer>
struct PoolShapeOf {
  int64_t n, c;
  PoolAxisOf<Integer> h, w;
};
using PoolShape = PoolShapeOf<int64_t>;

// What positions along an axis are counted in: int64_t or int32_t.
template <class Integer>
using index_t = decltype(Integer{} + Integer{});

template <class Integer>
HOST_DEVICE bool is_adaptive(const PoolAxisOf<Integer>& axis) {
  return axis.stride == 0;
}

// The taps of output i: tap t of [begin, end) reads input position start + t * dilation, inside the input.
template <class Index>
struct WindowOf {
  Index start, begin, end;
};
using Window = WindowOf<int64_t>;
template <class Integer>
HOST_DEVICE WindowOf<index_t<Integer>> window(const PoolAxisOf<Integer>& axis, index_t<Integer> i) {
  WindowOf<index_t<Integer>> taps;
  if (is_adaptive(axis)) {  // torch: floor(i * in / out) ... ceil((i + 1) * in / out)
    taps.start = i * axis.in / axis.out;
    taps.begin = 0;
    taps.end = ceil_div((i + 1) * axis.in, axis.out) - taps.start;
    return taps;
  }
  taps.start = i * axis.stride - axis.pad;
  taps.begin = taps.start < 0 ? ceil_div(-taps.start, axis.dilation) : 0;
  taps.end = taps.start < axis.in ? ceil_div(axis.in - taps.start, axis.dilation) : 0;
  if (taps.end > axis.kernel) taps.end = axis.kernel;
  if (taps.end < taps.begin) taps.end = taps.begin;
  return taps;
}

// The inverse: the outputs [first, last] whose undilated span contains input position `position`. With dilation
// a window in the range may still step over it: tap_at tells.
template <class Index>
struct CoveringOf {
  Index first, last;
};
using Covering = CoveringOf<int64_t>;
template <class Integer>
HOST_DEVICE CoveringOf<index_t<Integer>> covering(const PoolAxisOf<Integer>& axis, index_t<Integer> position) {
  CoveringOf<index_t<Integer>> outputs;
  if (is_adaptive(axis)) {
    outputs.first = position * axis.out / axis.in;
    outputs.last = ceil_div((position + 1) * axis.out, axis.in) - 1;
    return outputs;
  }
  const index_t<Integer> padded = position + axis.pad, reach = axis.dilation * (axis.kernel - 1);
  outputs.first = padded < reach ? 0 : ceil_div(padded - reach, axis.stride);
  outputs.last = padded / axis.stride;
  if (outputs.last > axis.out - 1) outputs.last = axis.out - 1;
  return outputs;
}

// The tap of output i that reads `position`, or -1 when the window steps over it. i must come from covering().
template <class Integer>
HOST_DEVICE index_t<Integer> tap_at(const PoolAxisOf<Integer>& axis, index_t<Integer> i, index_t<Integer> position) {
  if (is_adaptive(axis)) return position - i * axis.in / axis.out;
  const index_t<Integer> distance = position + axis.pad - i * axis.stride;
  return distance % axis.dilation == 0 ? distance / axis.dilation : -1;
}

// What an average is divided by. torch counts padding inside the padded input, never beyond it (ceil_mode).
struct AverageRule {
  bool count_include_pad;
  int64_t divisor_override;  // 0: none
};
template <class Integer>
HOST_DEVICE index_t<Integer> window_extent(const PoolAxisOf<Integer>& axis, index_t<Integer> i,
                                           bool count_include_pad) {
  if (is_adaptive(axis)) {
    const WindowOf<index_t<Integer>> taps = window(axis, i);
    return taps.end - taps.begin;
  }
  index_t<Integer> begin = i * axis.stride - axis.pad, end = begin + axis.kernel;
  if (end > axis.in + axis.pad) end = axis.in + axis.pad;
  if (!count_include_pad) {
    if (begin < 0) begin = 0;
    if (end > axis.in) end = axis.in;
  }
  return end - begin;
}
template <class Integer>
HOST_DEVICE int64_t average_divisor(const PoolShapeOf<Integer>& shape, const AverageRule& rule, index_t<Integer> p,
                                    index_t<Integer> q) {
  if (rule.divisor_override != 0) return rule.divisor_override;
  return window_extent(shape.h, p, rule.count_include_pad) * window_extent(shape.w, q, rule.count_include_pad);
}

// Taps in the largest window; winners are uint8 up to kMaxByteTaps and int32 above.
constexpr int64_t kMaxByteTaps = 256;
template <class Integer>
HOST_DEVICE index_t<Integer> window_taps(const PoolShapeOf<Integer>& shape) {
  return shape.h.kernel * shape.w.kernel;
}
template <class Integer>
HOST_DEVICE index_t<Integer> winner_of(const PoolShapeOf<Integer>& shape, index_t<Integer> tap_h,
                                       index_t<Integer> tap_w) {
  return tap_h * shape.w.kernel + tap_w;
}

// Does `winner` name a tap of window (p, q) that lies inside the input? For winners that come from outside.
template <class Integer>
HOST_DEVICE bool is_valid_winner(const PoolShapeOf<Integer>& shape, index_t<Integer> winner, index_t<Integer> p,
                                 index_t<Integer> q) {
  if (winner < 0 || winner >= window_taps(shape)) return false;
  const auto rows = window(shape.h, p), columns = window(shape.w, q);
  const index_t<Integer> tap_h = winner / shape.w.kernel, tap_w = winner % shape.w.kernel;
  return tap_h >= rows.begin && tap_h < rows.end && tap_w >= columns.begin && tap_w < columns.end;
}
// The winner's flat position h * in_w + w in its plane: torch's `indices`.
template <class Integer>
HOST_DEVICE index_t<Integer> winner_position(const PoolShapeOf<Integer>& shape, index_t<Integer> winner,
                                             index_t<Integer> p, index_t<Integer> q) {
  const index_t<Integer> tap_h = winner / shape.w.kernel, tap_w = winner % shape.w.kernel;
  const index_t<Integer> h = window(shape.h, p).start + tap_h * shape.h.dilation;
  const index_t<Integer> w = window(shape.w, q).start + tap_w * shape.w.dilation;
  return h * shape.w.in + w;
}

// torch's order of preference while scanning a window: larger wins, NaN always wins.
template <class T>
HOST_DEVICE bool beats(T value, T best) {
  return value > best || value != value;
}

// ---- Checks, then the shape. `op` is the op's name for messages.
struct PoolArguments {
  Dims kernel_size, stride, padding, dilation;  // avg_pool2d passes {1, 1} for dilation
  bool ceil_mode;
};
PoolShape pool2d_shape(const char* op, Dims input, const PoolArguments& arguments);
// any_channels: zero as well, which torch's adaptive average takes and its maximum does not.
PoolShape adaptive_pool2d_shape(const char* op, Dims input, Dims output_size, bool any_channels);

// The same problem seen from its output: `output` (called `name` in messages) must be what the forward op returns
// for an input of spatial size `input_size`.
PoolShape pool2d_gradient_shape(const char* op, const char* name, Dims output, Dims input_size,
                                const PoolArguments& arguments);
PoolShape adaptive_pool2d_gradient_shape(const char* op, const char* name, Dims output, Dims input_size);

// winners must have the output's shape.
void check_winners_shape(const char* op, Dims winners, const PoolShape& shape);
// For the kernels: a winner was found outside its window.
[[noreturn]] void fail_winner(const char* op, const PoolShape& shape, int64_t winner, int64_t p, int64_t q);

AverageRule check_average_rule(const char* op, bool count_include_pad, const int64_t* divisor_override);

}  // namespace tmc
