// Elementwise formulas (csrc/elementwise.h) on the GPU. Over `count` values: thread i < vectors owns the i-th 16-byte
// vector, each later thread one of the values that are left. Bound by memory: a 16-byte access is the widest there is.
#pragma once
#include "cuda/elementwise/activation.cuh"
#include "cuda/machine/launch.h"
#include "cuda/machine/vector.h"
#include "elementwise.h"

namespace tmc {
namespace {

// The functions that formulas are made of, to the accuracy of T.
template <class T>
struct DeviceMath {
  template <class A>
  static __device__ A sigmoid(A x) {
    return sigmoid_of<T>(x);
  }
  template <class A>
  static __device__ A tanh(A x) {
    return std::tanh(x);
  }
};

template <class Formula, class T>
struct Operands {
  const T* data[Formula::kTensors];
  accumulate_t<T> scalars[Formula::kScalars + 1];  // one more: an array has no zero elements
};

template <class Formula, class T>
__device__ T value_of(const accumulate_t<T> (&x)[Formula::kTensors], const accumulate_t<T>* scalars) {
  if constexpr (Formula::kTensors == 1)
    return static_cast<T>(Formula::template of<DeviceMath<T>>(x[0], scalars));
  else
    return static_cast<T>(Formula::template of<DeviceMath<T>>(x[0], x[1], scalars));
}

template <class Formula, class T>
__global__ void __launch_bounds__(kElementThreads)
    elementwise_kernel(Operands<Formula, T> operands, T* output, int64_t vectors, int64_t count) {
  constexpr int kTensors = Formula::kTensors, kLanes = kVectorLanes<T>;
  const int64_t thread = thread_index();
  accumulate_t<T> x[kTensors];
  if (thread < vectors) {
    Vector<T, kLanes> loaded[kTensors], result;
#pragma unroll
    for (int j = 0; j < kTensors; ++j) loaded[j] = load<kLanes>(operands.data[j] + thread * kLanes);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
#pragma unroll
      for (int j = 0; j < kTensors; ++j) x[j] = static_cast<accumulate_t<T>>(loaded[j].lanes[lane]);
      result.lanes[lane] = value_of<Formula, T>(x, operands.scalars);
    }
    store(output + thread * kLanes, result);
    return;
  }
  const int64_t i = vectors * kLanes + (thread - vectors);
  if (i >= count) return;
#pragma unroll
  for (int j = 0; j < kTensors; ++j) x[j] = static_cast<accumulate_t<T>>(operands.data[j][i]);
  output[i] = value_of<Formula, T>(x, operands.scalars);
}

// From an address that is not aligned on, every value is a lone one.
template <class Formula, class T>
void launch_formula(const ElementwiseArrays& arrays, int64_t count, void* stream) {
  Operands<Formula, T> operands = {};
  for (int j = 0; j < Formula::kScalars; ++j) operands.scalars[j] = static_cast<accumulate_t<T>>(arrays.scalars[j]);
  bool aligned = is_aligned(arrays.output);
  for (int j = 0; j < Formula::kTensors; ++j) {
    operands.data[j] = static_cast<const T*>(arrays.tensors[j]);
    aligned = aligned && is_aligned(arrays.tensors[j]);
  }
  const int64_t vectors = aligned ? count / kVectorLanes<T> : 0;
  const int64_t threads = vectors + (count - vectors * kVectorLanes<T>);
  launch(elementwise_kernel<Formula, T>, grid_of_elements(threads), kElementThreads, stream, operands,
         static_cast<T*>(arrays.output), vectors, count);
}

}  // namespace
}  // namespace tmc
