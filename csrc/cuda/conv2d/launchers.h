// Room conv2d: convolution and its gradients by input, weight and bias, as products of the room gemm.
//
// What goes in: images, weight, bias or a gradient, in either memory format. What comes out: the output or one
// gradient. plan.h decides on the host which of three algorithms computes it:
//
//   implicit_gemm   conv2d.cu, grad_weight.cu              everything; launched from this file
//   tensor_cores    mma.cu, grad_weight_mma.cu             half types and float32, channels in whole chunks; mma.h
//   wgmma           wgmma.cu, grad_weight_wgmma.cu         the same on sm_90a, where it pays; wgmma.cuh, wgmma_plan.h
//
// pack.cu rearranges images of 3 channels and flips weights for tensor cores; parts.cu adds a weight's gradient up;
// grad_bias.cu sums pixels. What bounds them: arithmetic, or L2; grad_bias, packing and parts are bound by memory.
//
// This is a plain C interface: pointers on the device, and a cudaStream_t as void*. Tensors are dense; channels_last
// tells of all of them at once, but for a weight's gradient. No extent of a result may be 0.
#pragma once
#include "conv2d.h"
#include "dtype.h"

namespace tmc {
extern "C" {

// bias may be null.
void launch_conv2d(DType dtype, const Conv2dShape& shape, bool channels_last, const void* input, const void* weight,
                   const void* bias, void* output, void* stream);

void launch_conv2d_grad_input(DType dtype, const Conv2dShape& shape, bool channels_last, const void* grad_output,
                              const void* weight, void* grad_input, void* stream);

// The sums over samples and pixels are cut into parts, a number that depends on the shape alone, and the partial
// sums are added in order: same bits on every run and every GPU. `workspace` holds parts * (elements of the result)
// values of the accumulation type (float64 for float64, else float32). The result is channels_last if `weight_last`,
// else contiguous.
int64_t conv2d_grad_weight_parts(const Conv2dShape& shape);
void launch_conv2d_grad_weight(DType dtype, const Conv2dShape& shape, bool channels_last, bool weight_last,
                               const void* grad_output, const void* input, void* workspace, void* grad_weight,
                               void* stream);

// grad_output: [n, k, p, q], beginning at a multiple of 16 bytes; plane = p * q. There is a channel.
int64_t conv2d_grad_bias_parts(int64_t n, int64_t k, int64_t plane, bool channels_last);
void launch_conv2d_grad_bias(DType dtype, int64_t n, int64_t k, int64_t plane, bool channels_last,
                             const void* grad_output, void* workspace, void* grad_bias, void* stream);

}  // extern "C"
}  // namespace tmc
