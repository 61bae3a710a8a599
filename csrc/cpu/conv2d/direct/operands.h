// What the drivers of direct convolution share: kernels for this CPU, and operands as these read them.
#pragma once
#include "cpu/conv2d/algorithms.h"
#include "cpu/conv2d/direct/direct.h"
#include "cpu/conv2d/finite.h"

namespace tmc::direct {

// `tensor` as the kernels read it.
Tensor float_channels_last(const Tensor& tensor);

// How forward and grad_input read their operands: as floats, or, if pairs of channels can be multiplied, as bfloat16.
struct Operands {
  const DirectKernels& kernels;
  Operands(DType dtype, int64_t group_channels, int64_t groups);
  Tensor image(const Tensor& tensor) const;
  Tensor weight(const Tensor& tensor) const;
  // The words of one group of `count` channels.
  Image words(const Tensor& image, int64_t group, int64_t count) const;

 private:
  bool pairs() const { return kernels.per_word == 2; }
};

// grad_input of few channels; operands as `by` makes them.
void fold_grad_input(const Operands& by, const Conv2dShape& shape, const Tensor& grad_output, const Tensor& kernel,
                     Tensor& grad_input);

// For grad_weight: bfloat16 is multiplied in pairs of pixels.
const DirectKernels& kernels_for_weight(const Conv2dProblem& problem);

// Whether the planes of a contiguous image are better packed by the matrix product: in bfloat16, for kernels of one tap
// at every pixel, that takes half as long as turning them into pixels first (MobileNetV2 on Zen 5).
bool planes_are_packed(const Conv2dProblem& problem, const Tensor& image);

// Elements [first, first + count) of a tensor with one dimension.
void read_floats(const Tensor& list, int64_t first, int64_t count, float* to);

}  // namespace tmc::direct
