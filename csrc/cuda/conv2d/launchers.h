// Launchers of the convolution kernels, a plain C interface: pointers on the device, and a cudaStream_t as void*.
// Tensors are dense; channels_last tells of all of them at once, but for a weight's gradient. No extent of a result may
// be 0.
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
