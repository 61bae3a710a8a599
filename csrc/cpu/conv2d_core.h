// Convolution on checked and allocated tensors, by whichever algorithm fits: what the ops of conv2d.cpp and the fused
// stage are made of.
#pragma once
#include <optional>
#include <vector>

#include "conv2d.h"
#include "conv2d_algorithm.h"
#include "image.h"
#include "tensor.h"

namespace tmc {

DType dtype_of(const Tensor& tensor);
Image read(const Tensor& tensor);
Image write(Tensor& tensor);

// Each fills its last argument. Tensors may have any strides; the result is dense, in either layout.
void conv2d_forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight,
                    const std::optional<Tensor>& bias, Tensor& output);
void conv2d_grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight,
                       Tensor& grad_input);
void conv2d_grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input,
                        Tensor& grad_weight);

// grad_bias in two steps, so that a batch may come in parts: adds grad_output's sums over samples and positions to
// sums[k], and rounds them to the dtype of `like`.
void conv2d_add_grad_bias(const Tensor& grad_output, double* sums);
Tensor conv2d_grad_bias(const Tensor& like, const std::vector<double>& sums);

// The algorithms, each with the same three signatures in a file of its own.
namespace matrix_product {
void forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& output);
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight, Tensor& grad_input);
void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight);
}  // namespace matrix_product
namespace winograd {
void forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& output);
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight, Tensor& grad_input);
void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight);
}  // namespace winograd

namespace depthwise {
bool can_compute(const Conv2dShape& shape);
void forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& output);
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight, Tensor& grad_input);
void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight);
}  // namespace depthwise

namespace phases {
bool can_compute(const Conv2dProblem& problem);
Conv2dProblem dense_problem(const Conv2dProblem& problem);  // what is left for winograd
void forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& output);
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight, Tensor& grad_input);
void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight);
}  // namespace phases

}  // namespace tmc
