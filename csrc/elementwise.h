// Elementwise operators: what is computed, on both backends.
//
// A formula computes one value of its operator, `of<Math>(tensors' values ..., scalars)`. X is a number or, on the CPU,
// a vector of them; half types are computed in float and rounded once. Math has the functions that a backend computes
// in its own way, to the accuracy of the result's dtype: LaneMath (cpu/elementwise/math.h), DeviceMath
// (cuda/elementwise/elementwise.cuh).
//
// A formula in ElementwiseOperators is compiled and registered for both backends. Its schema stands in ops.cpp.
#pragma once
#include "sigmoid.h"

namespace tmc {

constexpr int kMaxTensors = 2, kMaxScalars = 2;

// Dense arrays in one memory order, and the scalars.
struct ElementwiseArrays {
  const void* tensors[kMaxTensors];
  void* output;
  double scalars[kMaxScalars];
};

namespace {

// What a formula has unless it says otherwise.
template <int kScalarCount>
struct FormulaDefaults {
  static constexpr int kScalars = kScalarCount;
  static constexpr bool kMayTie = true;  // whether exact values lie midway between two of bfloat16
};
template <int kScalarCount = 0>
struct OfInput : FormulaDefaults<kScalarCount> {
  static constexpr int kTensors = 1;
  static constexpr const char* kTensorNames[] = {"input"};
};
template <int kScalarCount = 0>
struct OfGradientAndOutput : FormulaDefaults<kScalarCount> {
  static constexpr int kTensors = 2;
  static constexpr const char* kTensorNames[] = {"grad_output", "output"};
};
template <int kScalarCount = 0>
struct OfGradientAndInput : FormulaDefaults<kScalarCount> {
  static constexpr int kTensors = 2;
  static constexpr const char* kTensorNames[] = {"grad_output", "input"};
};

struct SigmoidValue : OfInput<> {
  static constexpr const char* kName = "sigmoid";
  static constexpr bool kMayTie = false;
  template <class Math, class X, class Real>
  HOST_DEVICE X of(X x, const Real*) {
    return Math::sigmoid(x);
  }
};
struct SigmoidGradient : OfGradientAndOutput<> {
  static constexpr const char* kName = "sigmoid_grad_input";
  template <class Math, class X, class Real>
  HOST_DEVICE X of(X dy, X y, const Real*) {
    return sigmoid_gradient(dy, y);
  }
};

// NaN passes, in both directions, as in torch.
struct ReluValue : OfInput<> {
  static constexpr const char* kName = "relu";
  template <class Math, class X, class Real>
  HOST_DEVICE X of(X x, const Real*) {
    return x <= 0 ? X{} : x;
  }
};
struct ReluGradient : OfGradientAndOutput<> {
  static constexpr const char* kName = "relu_grad_input";
  template <class Math, class X, class Real>
  HOST_DEVICE X of(X dy, X y, const Real*) {
    return y <= 0 ? X{} : dy;
  }
};

struct TanhValue : OfInput<> {
  static constexpr const char* kName = "tanh";
  template <class Math, class X, class Real>
  HOST_DEVICE X of(X x, const Real*) {
    return Math::tanh(x);
  }
};
struct TanhGradient : OfGradientAndOutput<> {
  static constexpr const char* kName = "tanh_grad_input";
  template <class Math, class X, class Real>
  HOST_DEVICE X of(X dy, X y, const Real*) {
    return dy * (1 - y * y);
  }
};

template <class... Formulas>
struct FormulaList {};

using ElementwiseOperators = FormulaList<SigmoidValue, SigmoidGradient>;
// No operators: a fused stage computes them on the CPU (cpu/elementwise/activations.h).
using StageFormulas = FormulaList<ReluValue, ReluGradient, TanhValue, TanhGradient>;

}  // namespace
}  // namespace tmc
