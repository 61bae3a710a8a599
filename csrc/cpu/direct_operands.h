// What the drivers of direct convolution share: kernels for this CPU, and operands as these read them.
#pragma once
#include "conv2d_core.h"
#include "direct.h"

namespace tmc::direct {

const DirectKernels& kernels_for_this_cpu();

// `tensor` as the kernels read it.
Tensor float_channels_last(const Tensor& tensor);

// Elements [first, first + count) of a tensor with one dimension.
void read_floats(const Tensor& list, int64_t first, int64_t count, float* to);

bool all_finite(const Tensor& tensor);

}  // namespace tmc::direct
