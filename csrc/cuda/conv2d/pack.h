// Rearranges operands for convolution on tensor cores. cuda/conv2d/plan.h says what packing is.
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
void pack_image(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last, const void* input,
                void* packed, void* stream);
// packed: [k, r, s, c] of plan.shape, in this order. The weight has one group.
void pack_weight(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last, const void* weight,
                 void* packed, void* stream);

// conv2d_grad_input residue by residue (eq. 24; where there is a stride, the dilation is 1): each is a convolution of
// grad_output with the residue's taps in reverse order. Its padding:
HOST_DEVICE int64_t padding_of(const Residue& residue) {
  return (residue.taps - 1) * residue.output_step - residue.first_output;
}

// How many taps of the residues before (f, g), each with c * k / groups elements, stand before its flipped weight.
HOST_DEVICE int64_t taps_before_residue(const Conv2dShape& shape, int64_t f, int64_t g) {
  int64_t rows = 0, columns = 0;
  for (int64_t before = 0; before < f; ++before) rows += taps_from(before, shape.r, shape.stride_h);
  for (int64_t before = 0; before < g; ++before) columns += taps_from(before, shape.s, shape.stride_w);
  return rows * shape.s + taps_from(f, shape.r, shape.stride_h) * columns;
}

// weight: [k, r, s, c / groups] in memory; flipped: for each residue [c, taps_h, taps_w, k / groups], taps reversed.
void flip_weight(DType dtype, const Conv2dShape& shape, const void* weight, void* flipped, void* stream);

}  // namespace tmc
