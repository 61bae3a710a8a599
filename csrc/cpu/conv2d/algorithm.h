// Which algorithm computes a convolution, and why. The choice depends on the shape of one sample and of the weight, the
// dtype, the precision and the instruction set; never on the batch size or the number of threads, so that a sample's
// bits do not depend on them either.
#pragma once
#include <string>

#include "conv2d.h"
#include "dtype.h"

namespace tmc {

enum class Conv2dPass { forward, grad_input, grad_weight };
enum class Conv2dAlgorithm { matrix_product, tile_product, direct, winograd, winograd_phases, depthwise };

struct Conv2dProblem {
  Conv2dShape shape;
  DType dtype;
  Precision precision;
};

struct Conv2dChoice {
  Conv2dAlgorithm algorithm;
  const char* reason;
};

const char* pass_name(Conv2dPass pass);
const char* algorithm_name(Conv2dAlgorithm algorithm);

// What the library would choose, or the preferred algorithm where it can compute this problem.
Conv2dChoice choose_algorithm(Conv2dPass pass, const Conv2dProblem& problem);

}  // namespace tmc
