// Sigmoid: what is computed.
//   eq. 11   y = 1 / (1 + exp(-x))
//   eq. 12   dJ/dx = dJ/dy * (1 - y) * y
// Elementwise over any shape; the gradient is written with the output y, so the input need not be kept.
#pragma once
#include <cmath>

#include "common.h"

namespace tmc {

template <class T>
HOST_DEVICE T sigmoid_value(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

// T is a number, or a vector of them.
template <class T>
HOST_DEVICE T sigmoid_gradient(T grad_output, T output) {
  return grad_output * (1 - output) * output;
}

}  // namespace tmc
