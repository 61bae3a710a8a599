// How output, kernel and input positions of a convolution are related along one spatial axis: what its algorithms on
// windows share.
#pragma once
#include <algorithm>

#include "conv2d.h"

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

// grad_input: the windows of residues f .. f + joint - 1 along one axis (eq. 24, residue_of in conv2d.h): a dense
// correlation of grad_output, whose taps run backwards. Joint residues are further columns of one product; their
// kernels are filled up with zeros to the length of the first (dilation 1 only, where a residue's first tap is f).
inline Windows residue_windows(int64_t f, int64_t joint, int64_t extent, int64_t pad, int64_t stride, int64_t kernel,
                               int64_t dilation) {
  const Residue residue = residue_of(f, extent, pad, kernel, stride, dilation);
  const int64_t last = residue.taps - 1;
  // The first position of the last residue may lie a stride before that of the first one.
  const int64_t before = ceil_div(pad - f, stride) - ceil_div(pad - f - joint + 1, stride);
  const int64_t count = residue.count + before;
  return {{count, residue.first_output - before - last * residue.output_step, 1, residue.taps, residue.output_step},
          {joint, residue.first_tap + last * residue.tap_step, 1, residue.taps, -residue.tap_step},
          {count, residue.first - before * stride, stride, joint, 1}};
}

// All residues that occur along one axis.
template <class Use>
void for_each_residue(int64_t extent, int64_t pad, int64_t stride, int64_t kernel, int64_t dilation, const Use& use) {
  for (int64_t h = 0; h < std::min(stride, extent); ++h)
    use(residue_windows((h + pad) % stride, 1, extent, pad, stride, kernel, dilation));
}

}  // namespace tmc
