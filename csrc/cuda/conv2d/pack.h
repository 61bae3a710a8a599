// Rearranging operands for convolution on tensor cores. The first two do what cuda/conv2d/plan.h calls packing.
#pragma once
#include "cuda/conv2d/plan.h"
#include "cuda/machine/layout.h"

namespace tmc {

// A weight element of one group, by its place in the unpacked weight; c = -1 if packing has added it.
struct WeightPlace {
  int64_t c, r, s;
};

// Which one stands at channel `packed_c` of the packed tap (packed_r, packed_s).
HOST_DEVICE WeightPlace unpacked(const Conv2dShape& shape, const Packing& packing, int64_t packed_c, int64_t packed_r,
                                 int64_t packed_s) {
  const int64_t pixel = packed_c / channels_per_group(shape), c = packed_c - pixel * channels_per_group(shape);
  const int64_t i = pixel / packing.block_w, j = pixel - i * packing.block_w;
  const int64_t r = packed_r * packing.block_h + i, s = packed_s * packing.block_w + j;
  return i < packing.block_h && r < shape.r && s < shape.s ? WeightPlace{c, r, s} : WeightPlace{-1, 0, 0};
}

// packed: channels_last [plan.shape.n, .c, .h, .w].
void pack_image(Dtype dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last, const void* input,
                void* packed, void* stream);
// packed: [k, r, s, c] of plan.shape, in this order. The weight has one group.
void pack_weight(Dtype dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last, const void* weight,
                 void* packed, void* stream);

// eq. 5 as eq. 1: input row h = stride * y + f - pad is read by the taps r = f, f + stride, ... and the output rows
// p = y - (r - f) / stride (dilation 1). So each residue f, of `stride` many, is a correlation of grad_output with its
// taps in reverse order, of stride 1. With stride 1 there is one residue, and the dilation stays.
//
// One axis of one residue: `taps` taps; its rows are first, first + stride, ..., `count` of them; the first one's
// window begins at output row -pad.
struct Residue {
  int taps, first, count, pad;
};
HOST_DEVICE int taps_of_residue(int64_t f, int64_t kernel, int64_t stride) {
  return static_cast<int>(f < kernel ? ceil_div(kernel - f, stride) : 0);
}
HOST_DEVICE Residue residue_of(int64_t f, int64_t extent, int64_t pad, int64_t kernel, int64_t stride,
                               int64_t dilation) {
  const int64_t y = ceil_div(pad - f, stride), first = stride * y + f - pad, taps = taps_of_residue(f, kernel, stride);
  const int64_t count = first < extent ? ceil_div(extent - first, stride) : 0;
  return {static_cast<int>(taps), static_cast<int>(first), static_cast<int>(count),
          static_cast<int>((taps - 1) * dilation - y)};
}

// Where the flipped weight of residue (f, g) begins: taps of the residues before it, each with c * k / groups elements.
HOST_DEVICE int64_t taps_before_residue(const Conv2dShape& shape, int64_t f, int64_t g) {
  int64_t rows = 0, columns = 0;
  for (int64_t before = 0; before < f; ++before) rows += taps_of_residue(before, shape.r, shape.stride_h);
  for (int64_t before = 0; before < g; ++before) columns += taps_of_residue(before, shape.s, shape.stride_w);
  return rows * shape.s + taps_of_residue(f, shape.r, shape.stride_h) * columns;
}

// weight: [k, r, s, c / groups] in memory; flipped: for each residue [c, taps_h, taps_w, k / groups], taps reversed.
void flip_weight(Dtype dtype, const Conv2dShape& shape, const void* weight, void* flipped, void* stream);

}  // namespace tmc
