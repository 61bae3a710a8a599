// Two-dimensional convolution (cross-correlation, as torch and the lecture define it): what is computed.
//
//   eq. 1   output[n,k,p,q] = bias[k] + sum_{c,r,s} input[n, c, p*stride_h - pad_top  + r*dilation_h,
//                                                             q*stride_w - pad_left + s*dilation_w] * weight[k,c,r,s]
//   eq. 3   grad_weight[k,c,r,s] = sum_{n,p,q} grad_output[n,k,p,q] * input[n,c,row(p,r),col(q,s)]    (lecture: A)
//   eq. 4   grad_bias[k]         = sum_{n,p,q} grad_output[n,k,p,q]
//   eq. 5   grad_input[n,c,h,w]  = sum over k and all (p,r),(q,s) with row(p,r) = h, col(q,s) = w of
//                                  grad_output[n,k,p,q] * weight[k,c,r,s]                            (lecture: B, C)
//
// Positions outside the input read as zero. Channels come in `groups` independent blocks: output channel k sees
// the input channels of block k / (K / groups). The three maps (fprop, dgrad, wgrad to cuDNN and CUTLASS) are one
// bilinear form: each is linear in its two operands and each one's gradients are the other two.
#pragma once
#include "common.h"
#include "precision.h"

namespace tmc {

// Extents in CUTLASS's letters: input [n, c, h, w], weight [k, c / groups, r, s], output [n, k, p, q].
struct Conv2dShape {
  int64_t n, c, h, w;
  int64_t k, r, s;
  int64_t p, q;
  int64_t stride_h, stride_w;
  int64_t pad_top, pad_bottom, pad_left, pad_right;
  int64_t dilation_h, dilation_w;
  int64_t groups;
};

HOST_DEVICE int64_t channels_per_group(const Conv2dShape& shape) {
  return shape.c / shape.groups;
}
HOST_DEVICE int64_t filters_per_group(const Conv2dShape& shape) {
  return shape.k / shape.groups;
}

// The input row that tap r reads for output row p (may lie outside [0, h): that is the padding); likewise columns.
HOST_DEVICE int64_t input_row(const Conv2dShape& shape, int64_t p, int64_t r) {
  return p * shape.stride_h - shape.pad_top + r * shape.dilation_h;
}
HOST_DEVICE int64_t input_column(const Conv2dShape& shape, int64_t q, int64_t s) {
  return q * shape.stride_w - shape.pad_left + s * shape.dilation_w;
}

// The inverse: the output row whose tap r reads input row h, or -1 when there is none; likewise columns.
HOST_DEVICE int64_t output_row(const Conv2dShape& shape, int64_t h, int64_t r) {
  const int64_t scaled = h + shape.pad_top - r * shape.dilation_h;
  if (scaled < 0 || scaled % shape.stride_h != 0) return -1;
  const int64_t p = scaled / shape.stride_h;
  return p < shape.p ? p : -1;
}
HOST_DEVICE int64_t output_column(const Conv2dShape& shape, int64_t w, int64_t s) {
  const int64_t scaled = w + shape.pad_left - s * shape.dilation_w;
  if (scaled < 0 || scaled % shape.stride_w != 0) return -1;
  const int64_t q = scaled / shape.stride_w;
  return q < shape.q ? q : -1;
}

// eq. 24, one axis of conv2d_grad_input without its multiplications by zero. Input position h is read by the taps r and
// the outputs p with p * stride = h + pad - r * dilation. Write h + pad = stride * y + f: the residue f alone fixes
// which taps those are, and the positions of one residue are a dense correlation of grad_output, of stride 1. Every
// tap_step-th tap belongs to a residue, from first_tap on, and the u-th of them reads output
//
//   p = first_output + i - u * output_step      for the residue's input position  first + i * stride,  0 <= i < count
struct Residue {
  int64_t first_tap, tap_step, taps;
  int64_t first, count;
  int64_t first_output, output_step;
};

// How many of the taps first, first + step, ... a kernel has.
HOST_DEVICE int64_t taps_from(int64_t first, int64_t kernel, int64_t step) {
  return first < kernel ? ceil_div(kernel - first, step) : 0;
}

// Residue f, 0 <= f < stride, of an axis with `extent` input positions.
HOST_DEVICE Residue residue_of(int64_t f, int64_t extent, int64_t pad, int64_t kernel, int64_t stride,
                               int64_t dilation) {
  int64_t common = stride, rest = dilation;  // becomes their greatest common divisor
  while (rest != 0) {
    const int64_t next = common % rest;
    common = rest, rest = next;
  }
  Residue residue;
  residue.tap_step = stride / common, residue.output_step = dilation / common;
  residue.first_tap = 0;
  while (residue.first_tap < residue.tap_step && (f - residue.first_tap * dilation) % stride != 0) ++residue.first_tap;
  const bool any = residue.first_tap < residue.tap_step && residue.first_tap < kernel;
  residue.taps = any ? taps_from(residue.first_tap, kernel, residue.tap_step) : 0;
  const int64_t y = ceil_div(pad - f, stride);  // of the first position inside
  residue.first = stride * y + f - pad;
  residue.count = residue.first < extent ? ceil_div(extent - residue.first, stride) : 0;
  residue.first_output = y + (any ? (f - residue.first_tap * dilation) / stride : 0);
  return residue;
}

// The arguments that every op of the family takes. padding holds (height, width) or (top, bottom, left, right).
struct Conv2dArguments {
  Dims stride, padding, dilation;
  int64_t groups;
};

// Every check of conv2d, then its shape. bias may be null.
Conv2dShape conv2d_shape(Dims input, Dims weight, const Dims* bias, const Conv2dArguments& arguments);
// The same for the gradients, which know the missing operand by its spatial size only.
Conv2dShape conv2d_grad_input_shape(Dims grad_output, Dims weight, Dims input_size, const Conv2dArguments& arguments);
Conv2dShape conv2d_grad_weight_shape(Dims grad_output, Dims input, Dims kernel_size, const Conv2dArguments& arguments);

}  // namespace tmc
