// The activations of a fused stage, a value at a time, and their slopes, written with the activated value
// (cuda/stage/launchers.h). Which one it is the kernels learn at run time: every thread takes the same branch.
#pragma once
#include <cmath>

#include "conv_act_pool2d.h"
#include "cuda/machine/primitives.h"
#include "cuda/machine/vector.h"
#include "sigmoid.h"

namespace tmc {

// For a value of T, computed in A. With the exact exponential and division, eight values of a half type take about as
// many instructions (336) as an H100 has in the time of their 32 bytes (305); the approximate ones take half of that.
// They are wrong by 2^-17 of the result at most, a half type's rounding by 2^-12.
template <class T, class A>
__device__ A sigmoid_of(A z) {
  if constexpr (sizeof(T) == 2)
    return approximate_reciprocal(1 + approximate_exp(-z));
  else
    return sigmoid_value(z);
}

// NaN passes all of them, in both directions, as in torch.
template <class T, class A>
__device__ A activated(Activation activation, A z) {
  switch (activation) {
    case Activation::none: return z;
    case Activation::sigmoid: return sigmoid_of<T>(z);
    case Activation::relu: return z <= 0 ? 0 : z;
    default: return std::tanh(z);
  }
}

// grad * g'(z), where o = g(z).
template <class A>
__device__ A times_slope(Activation activation, A grad, A o) {
  switch (activation) {
    case Activation::none: return grad;
    case Activation::sigmoid: return sigmoid_gradient(grad, o);
    case Activation::relu: return o <= 0 ? 0 : grad;
    default: return grad * (1 - o * o);
  }
}

// The same for neighbouring values of T: one branch for all of them.
template <Activation kActivation, int kLanes, class T, class A>
__device__ void times_slopes(A (&grads)[kLanes], const T* o) {
  const Vector<T, kLanes> values = load<kLanes>(o);
#pragma unroll
  for (int i = 0; i < kLanes; ++i) grads[i] = times_slope(kActivation, grads[i], static_cast<A>(values.lanes[i]));
}
template <int kLanes, class T, class A>
__device__ void times_slopes(Activation activation, A (&grads)[kLanes], const T* o) {
  switch (activation) {
    case Activation::none: return;
    case Activation::sigmoid: return times_slopes<Activation::sigmoid>(grads, o);
    case Activation::relu: return times_slopes<Activation::relu>(grads, o);
    default: return times_slopes<Activation::tanh>(grads, o);
  }
}

}  // namespace tmc
