// Convolution on checked and allocated tensors, by whichever algorithm fits: what the ops of conv2d.cpp and the fused
// stage are made of.
#pragma once
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "conv2d.h"
#include "cpu/conv2d/algorithm.h"
#include "cpu/image/image.h"
#include "cpu/machine/machine.h"
#include "tensor.h"

namespace tmc {

DType dtype_of(const Tensor& tensor);
Image read(const Tensor& tensor);
Image write(Tensor& tensor);

namespace winograd {
class Filters;
}

// The weight, and what the chosen algorithm makes of it before it meets an image: made once for a batch in parts.
struct PreparedWeight {
  Tensor weight;
  std::shared_ptr<const std::deque<winograd::Filters>> filters;  // of winograd: one for each group
  std::shared_ptr<const PreparedWeight> dense;                   // of phases: for the dense problem
};
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

// The algorithms, each with the same three signatures in a file of its own.
namespace matrix_product {  // on AMX's tiles only where `unit` is amx, which is the algorithm tile_product
void forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& output, MatrixUnit unit = MatrixUnit::avx512_bf16);
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight, Tensor& grad_input,
                MatrixUnit unit = MatrixUnit::avx512_bf16);
void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight,
                 MatrixUnit unit = MatrixUnit::avx512_bf16);
}  // namespace matrix_product
namespace winograd {
double saving(Conv2dPass pass, const Conv2dProblem& problem);  // how many times fewer products than eq. 1 it makes
PreparedWeight prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight);
void forward(const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
             const std::optional<Tensor>& bias, Tensor& output);
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                Tensor& grad_input);
void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight);
}  // namespace winograd

namespace direct {
bool can_compute(const Conv2dProblem& problem);
bool is_folded(const Conv2dShape& shape);  // whether grad_input has so few channels that it is computed as a fold
void forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& output);
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight, Tensor& grad_input);
void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight);
}  // namespace direct

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
PreparedWeight prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight);
void forward(const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
             const std::optional<Tensor>& bias, Tensor& output);
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                Tensor& grad_input);
void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight);
}  // namespace phases

}  // namespace tmc
