// The geometry of a convolution as the kernels on tensor cores see it: in chunks of 16 bytes, whose number in a sample
// fits 32 bits (cuda/conv2d/plan.h).
#pragma once
#include "cuda/conv2d/mma.h"

namespace tmc {

struct MmaConv2d {
  int groups;
  int c, group_c, h, w;  // the image: chunks of channels in all, and of one group
  int k;                 // channels of the result, or of grad_output, in all
  int r, s, p, q;        // the window; the pixels that have one
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
};

// In chunks of so many elements.
inline MmaConv2d mma_conv2d(const Conv2dShape& shape, int64_t chunk_elements) {
  MmaConv2d conv;
  conv.groups = static_cast<int>(shape.groups);
  conv.c = static_cast<int>(shape.c / chunk_elements), conv.group_c = conv.c / conv.groups;
  conv.h = static_cast<int>(shape.h), conv.w = static_cast<int>(shape.w), conv.k = static_cast<int>(shape.k);
  conv.r = static_cast<int>(shape.r), conv.s = static_cast<int>(shape.s);
  conv.p = static_cast<int>(shape.p), conv.q = static_cast<int>(shape.q);
  conv.stride_h = static_cast<int>(shape.stride_h), conv.stride_w = static_cast<int>(shape.stride_w);
  conv.pad_top = static_cast<int>(shape.pad_top), conv.pad_left = static_cast<int>(shape.pad_left);
  conv.dilation_h = static_cast<int>(shape.dilation_h), conv.dilation_w = static_cast<int>(shape.dilation_w);
  return conv;
}

// Where the rows' pixels p, q stand in the result: at first + step * p, likewise q. conv2d_grad_input with a stride
// writes every stride-th pixel.
struct Lattice {
  int h, w, first_h, first_w, step_h, step_w;
};

// image: channels_last; matrix: [k, r, s, c of a group]; bias may be null.
struct WindowOperands {
  const void *image, *matrix, *bias;
  void* result;
};

// Parts of a workspace begin at multiples of this, which every access is happy with.
constexpr int64_t kWorkspaceAlignment = 256;
inline int64_t workspace_bytes(int64_t bytes) {
  return ceil_div(bytes, kWorkspaceAlignment) * kWorkspaceAlignment;
}
inline int64_t element_bytes(DType dtype) {
  return dtype == DType::float32 ? 4 : 2;
}
inline int64_t chunk_elements(DType dtype) {
  return 16 / element_bytes(dtype);
}
inline int64_t image_bytes(DType dtype, const Conv2dShape& shape) {
  return shape.n * shape.c * shape.h * shape.w * element_bytes(dtype);
}
inline int64_t weight_bytes(DType dtype, const Conv2dShape& shape) {
  return shape.k * channels_per_group(shape) * shape.r * shape.s * element_bytes(dtype);
}

}  // namespace tmc
