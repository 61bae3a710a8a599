// Whether a convolution runs on tensor cores (conv2d_mma.h) or by the general algorithm (implicit_gemm.cuh), and as
// which product. Decided on the host from the shape of a sample and of the weight, the dtype, the precision and whether
// the device has tensor cores: never from the batch, so that a sample's bits do not depend on it.
#pragma once
#include "../conv2d.h"
#include "dtype.h"

namespace tmc {

// Packing turns block_h x block_w pixels of the padded image into channels of one ("space to depth"), and fills the
// channels up to whole 16-byte chunks: input[n, c, y*block_h + i - pad_top, x*block_w + j - pad_left] is
// packed[n, (i*block_w + j)*C + c, y, x]. With blocks as large as the stride, a convolution of stride 1 is left; its
// window covers the old one, and the weights that do not belong to it are zero. AlexNet's first layer, 11 x 11 of
// stride 4 over 3 channels, becomes 3 x 3 of stride 1 over 48. An image that needs none has blocks of 1 x 1.
struct Packing {
  bool needed;
  int64_t block_h, block_w;
};

struct Conv2dPlan {
  bool tensor_cores;
  bool strict;  // float32 by 3xTF32 (mma_tile.cuh); otherwise as TF32, or a half type
  Packing packing;
  Conv2dShape shape;  // of the convolution that remains after packing
  const char* reason;
};

Conv2dPlan plan_conv2d(Dtype dtype, const Conv2dShape& shape, Precision precision, bool has_tensor_cores);
Conv2dPlan plan_conv2d_grad_input(Dtype dtype, const Conv2dShape& shape, Precision precision, bool has_tensor_cores);
Conv2dPlan plan_conv2d_grad_weight(Dtype dtype, const Conv2dShape& shape, Precision precision, bool has_tensor_cores);

// "tensor_cores: bfloat16, float32 sums" or "implicit_gemm: <why>".
const char* algorithm_name(const Conv2dPlan& plan);

}  // namespace tmc
