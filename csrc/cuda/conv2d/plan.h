// Which algorithm computes a convolution, and as which product. Decided on the host from the shape of a sample and of
// the weight, the dtype, the precision and the device. Never from the batch: a sample's bits do not depend on it.
#pragma once
#include <optional>

#include "conv2d.h"
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

//   implicit_gemm    the general algorithm (cuda/gemm/implicit_gemm.cuh)
//   tensor_cores     mma.sync (cuda/conv2d/mma.h): sm_80 and later
//   wgmma            the same product by TMA and wgmma (cuda/conv2d/wgmma.cuh): sm_90a
enum class CudaAlgorithm { implicit_gemm, tensor_cores, wgmma };

// The last algorithm that the device can run, and one that is wanted wherever it can compute the convolution.
struct Conv2dDevice {
  CudaAlgorithm last;
  std::optional<CudaAlgorithm> preferred;
};

struct Conv2dPlan {
  bool tensor_cores, wgmma;  // wgmma is on tensor cores, too
  bool strict;               // float32 by 3xTF32 (cuda/gemm/mma_tile.cuh); otherwise as TF32, or a half type
  Packing packing;
  Conv2dShape shape;  // of the convolution that remains after packing
  const char* reason;
  const char* not_wgmma;  // why not, on a device that has it; else null
};

Conv2dPlan plan_conv2d(DType dtype, const Conv2dShape& shape, Precision precision, const Conv2dDevice& device);
Conv2dPlan plan_conv2d_grad_input(DType dtype, const Conv2dShape& shape, Precision precision,
                                  const Conv2dDevice& device);
Conv2dPlan plan_conv2d_grad_weight(DType dtype, const Conv2dShape& shape, Precision precision,
                                   const Conv2dDevice& device);

CudaAlgorithm algorithm_of(const Conv2dPlan& plan);
const char* algorithm_name(CudaAlgorithm algorithm);

}  // namespace tmc
