// Convolution on checked and allocated tensors, by whichever algorithm fits: what the ops of conv2d.cpp and the fused
// stage are made of.
#pragma once
#include <optional>
#include <vector>

#include "conv2d.h"
#include "cpu/conv2d/algorithm.h"
#include "cpu/image/of_tensor.h"
#include "tensor.h"

namespace tmc {

// The weight for the algorithm that is chosen for this problem: chosen here, once, for all parts of a batch.
PreparedWeight prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight);

// Each fills its last argument. Tensors may have any strides; the result is dense, in either layout. problem.shape.n
// may differ from that of the preparation. grad_weight may be float32 beside operands of a half type: its sum,
// unrounded.
void conv2d_forward(const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
                    const std::optional<Tensor>& bias, Tensor& output);
void conv2d_grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                       Tensor& grad_input);
void conv2d_grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input,
                        Tensor& grad_weight);

// grad_bias in two steps, so that a batch may come in parts: adds grad_output's sums over samples and positions to
// sums[k], and rounds them to the dtype of `like`.
void conv2d_add_grad_bias(const Tensor& grad_output, double* sums);
Tensor conv2d_grad_bias(const Tensor& like, const std::vector<double>& sums);

}  // namespace tmc
