// An activated value on the GPU (activation.h). The kernel learns at run time which activation it is; all threads take
// the same branch.
#pragma once
#include "activation.h"
#include "cuda/machine/primitives.h"

namespace tmc {

// The sigmoid of a value that is stored as T and computed as A. Half types use the approximate exponential and
// reciprocal: the exact ones take 336 instructions for eight values, and an H100 issues 305 in the time of their 32
// bytes. The approximations are off by 2^-17 of the result at most, the rounding to a half type by 2^-12.
template <class T, class A>
__device__ A sigmoid_of(A z) {
  if constexpr (sizeof(T) == 2)
    return approximate_reciprocal(1 + approximate_exp(-z));
  else
    return sigmoid_value(z);
}

template <class T, class A>
__device__ A activated(Activation activation, A z) {
  return activation == Activation::sigmoid ? sigmoid_of<T>(z) : activation_value(activation, z);
}

}  // namespace tmc
