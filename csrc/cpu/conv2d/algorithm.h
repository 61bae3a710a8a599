// Convolution on the CPU: its algorithms as a table. This room chooses one (algorithm.cpp), computes by the general
// matrix product (matrix_product.cpp) and sums grad_bias (grad_bias.cpp); direct/, winograd/ and depthwise/ are the
// other ways. What goes in and out are checked and allocated tensors (core.h, the door for the entry points and for
// fused stages).
//
// A row of the table says what an algorithm is called, when it is chosen, and how it computes the three maps. The
// choice, conv2d_algorithms, the forced preference and the table of docs/cpu.md come from it. The choice depends on the
// shape of one sample and of the weight, the dtype, the precision and the instruction set; never on the batch size or
// the number of threads, so that a sample's bits do not depend on them either.
//
// Bound: arithmetic, but for depthwise and 1 x 1 layers of few channels, which wait for memory (docs/cpu.md).
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "conv2d.h"
#include "dtype.h"
#include "tensor.h"

namespace tmc {

enum class Conv2dPass { forward, grad_input, grad_weight };
const char* pass_name(Conv2dPass pass);

struct Conv2dProblem {
  Conv2dShape shape;
  DType dtype;
  Precision precision;
};

struct Conv2dAlgorithm;

// The weight, and what the chosen algorithm makes of it before it meets an image: made once for a batch in parts.
struct PreparedWeight {
  Tensor weight;
  const Conv2dAlgorithm* algorithm = nullptr;
  std::shared_ptr<const void> made;  // in the algorithm's own form, or null
};

struct Conv2dAlgorithm {
  const char* name;
  const char* why;  // it is chosen
  bool (*can_compute)(const Conv2dProblem& problem);
  bool (*pays)(Conv2dPass pass, const Conv2dProblem& problem);
  const char* (*unit)(Conv2dPass pass, const Conv2dProblem& problem);  // what multiplies
  std::shared_ptr<const void> (*prepare)(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight);
  // Each fills its last argument.
  void (*forward)(const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
                  const std::optional<Tensor>& bias, Tensor& output);
  void (*grad_input)(const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                     Tensor& grad_input);
  void (*grad_weight)(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input,
                      Tensor& grad_weight);
};

// The preferred algorithm where it can compute this problem, else the first of the table that can and pays.
const Conv2dAlgorithm& choose_algorithm(Conv2dPass pass, const Conv2dProblem& problem);
bool is_preferred(const Conv2dAlgorithm& algorithm);

// The algorithm of a name given by `source`, which fails for an unknown one. Null for an empty name, which is no
// preference, and for the name of a CUDA algorithm.
const Conv2dAlgorithm* find_algorithm(const char* source, const std::string& name);

}  // namespace tmc
