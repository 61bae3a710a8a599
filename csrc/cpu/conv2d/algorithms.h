// What each algorithm offers to the table (cpu/conv2d/algorithm.cpp), and to each other where one falls back on
// another.
#pragma once
#include "cpu/conv2d/core.h"
#include "cpu/machine/machine.h"

namespace tmc {

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
std::shared_ptr<const void> prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight);
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
std::shared_ptr<const void> prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight);
void forward(const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
             const std::optional<Tensor>& bias, Tensor& output);
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                Tensor& grad_input);
void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight);
}  // namespace phases

}  // namespace tmc
