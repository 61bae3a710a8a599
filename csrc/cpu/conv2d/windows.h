// How output, kernel and input positions of a convolution are related along one spatial axis: what its algorithms on
// windows share.
#pragma once
#include <algorithm>
#include <numeric>

#include "common.h"

namespace tmc {

// `count` positions of a window with `taps` taps; tap t of position i is at origin + i * step + t * tap_step.
struct Window {
  int64_t count, origin, step, taps, tap_step;
};
inline Window pixels(int64_t extent) {
  return {extent, 0, 1, 1, 1};
}
inline Window all_taps(int64_t extent) {
  return {1, 0, 1, extent, 1};
}

// One spatial axis of O = P W^T: how image, weight and output are stepped through.
struct Windows {
  Window image, weight, output;
};

inline Windows forward_windows(int64_t count, int64_t pad, int64_t stride, int64_t kernel, int64_t dilation) {
  return {{count, -pad, stride, kernel, dilation}, all_taps(kernel), pixels(count)};
}

// ---- grad_input. Row h of the input is read by the taps r and output rows p with p * stride = h + pad - r * dilation.
// With h + pad = stride * y + f, the residue f fixes which taps those are: r = first + u * tap_step, and then
// p = y + (f - first * dilation) / stride - u * p_step: for each f a dense correlation of grad_output, of stride 1.

// The windows of residues f .. f + joint - 1 along one axis. Joint residues are further columns of one product; their
// kernels are filled up with zeros to equal length (dilation 1 only, where first = f).
inline Windows residue_windows(int64_t f, int64_t joint, int64_t extent, int64_t pad, int64_t stride, int64_t kernel,
                               int64_t dilation) {
  const int64_t common = std::gcd(stride, dilation), tap_step = stride / common, p_step = dilation / common;
  int64_t first = 0;
  while (first < kernel && first < tap_step && (f - first * dilation) % stride != 0) ++first;
  const bool any = first < kernel && (f - first * dilation) % stride == 0;
  const int64_t taps = any ? ceil_div(kernel - first, tap_step) : 0;
  const int64_t shift = any ? (f - first * dilation) / stride : 0;
  const int64_t y_begin = ceil_div(pad - f - joint + 1, stride), y_end = floor_div(extent - 1 + pad - f, stride) + 1;
  const int64_t count = std::max<int64_t>(0, y_end - y_begin);
  return {{count, y_begin + shift - (taps - 1) * p_step, 1, taps, p_step},
          {joint, first + (taps - 1) * tap_step, 1, taps, -tap_step},
          {count, stride * y_begin + f - pad, stride, joint, 1}};
}

// All residues that occur along one axis.
template <class Use>
void for_each_residue(int64_t extent, int64_t pad, int64_t stride, int64_t kernel, int64_t dilation, const Use& use) {
  for (int64_t h = 0; h < std::min(stride, extent); ++h)
    use(residue_windows((h + pad) % stride, 1, extent, pad, stride, kernel, dilation));
}

}  // namespace tmc
