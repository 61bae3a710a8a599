// The activations of a fused stage: which ones there are, and what they compute, a value at a time.
//
//   o = g(z)           none: z      sigmoid: eq. 11      relu: max(z, 0)      tanh
//   dJ/dz = dJ/do * g'(z), written with the activated value (eq. 22): g' = 1, o (1 - o), [o > 0], 1 - o^2
//
// NaN passes all of them, in both directions, as in torch.
#pragma once
#include <cmath>

#include "sigmoid.h"

namespace tmc {

enum class Activation { none, sigmoid, relu, tanh };

template <class T>
HOST_DEVICE T activation_value(Activation activation, T z) {
  switch (activation) {
    case Activation::none: return z;
    case Activation::sigmoid: return sigmoid_value(z);
    case Activation::relu: return z <= 0 ? 0 : z;
    default: return std::tanh(z);
  }
}

template <class T>
HOST_DEVICE T activation_gradient(Activation activation, T grad_output, T output) {
  switch (activation) {
    case Activation::none: return grad_output;
    case Activation::sigmoid: return sigmoid_gradient(grad_output, output);
    case Activation::relu: return output <= 0 ? 0 : grad_output;
    default: return grad_output * (1 - output * output);
  }
}

}  // namespace tmc
