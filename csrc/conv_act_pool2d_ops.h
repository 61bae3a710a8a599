// The operators of a fused stage, from their arguments to a checked shape.
#pragma once
#include <optional>
#include <string>

#include "conv2d_ops.h"
#include "conv_act_pool2d.h"
#include "pool2d_ops.h"

namespace tmc {

// The arguments that both ops end with.
struct ConvActPool2dStage {
  Conv2dGeometry conv;
  std::string activation, pool;
  IntList window;
  ConvActPool2dArguments arguments() const {
    const char* op = "conv_act_pool2d";
    return {conv.arguments(op), activation.c_str(), pool.c_str(), average_arguments(op, window, false)};
  }
};

inline ConvActPool2dShape check_conv_act_pool2d(const Tensor& input, const Tensor& weight,
                                                const std::optional<Tensor>& bias, const ConvActPool2dStage& stage) {
  check_conv2d(input, weight, bias, stage.conv);
  return conv_act_pool2d_shape(sizes(input), sizes(weight), nullptr, stage.arguments());
}

// What the gradients are made of; which of the tensors are needed depends on the stage and on what is wanted.
struct ConvActPool2dGiven {
  Tensor grad_output;
  std::optional<Tensor> input, weight, bias, activated, winners;
};

inline bool recomputes(const ConvActPool2dShape& shape, const ConvActPool2dGiven& given) {
  return !activates_output(shape) && shape.activation != Activation::none && !given.activated;
}

// `tensor` must be given for the reason `needed`, of the size wanted, like grad_output.
inline void check_given(const char* name, const std::optional<Tensor>& tensor, bool needed, Dims wanted,
                        const Tensor& grad_output) {
  const char* op = "conv_act_pool2d_gradients";
  if (!tensor) {
    if (needed) fail("%s: %s must be given for the gradients that are wanted, got None", op, name);
    return;
  }
  check_like(op, name, *tensor, "grad_output", grad_output);
  const Dims got = sizes(*tensor);
  bool same = got.count == wanted.count;
  for (int64_t i = 0; same && i < got.count; ++i) same = got[i] == wanted[i];
  if (!same) fail("%s: %s must have shape %s, got %s", op, name, text(wanted).chars, text(got).chars);
}

// winners are checked where their values are.
inline ConvActPool2dShape check_conv_act_pool2d_gradients(const ConvActPool2dGiven& given, IntList input_size,
                                                          IntList weight_size, const ConvActPool2dStage& stage,
                                                          bool want_input, bool want_weight) {
  const char* op = "conv_act_pool2d_gradients";
  check_floating(op, "grad_output", given.grad_output);
  const ConvActPool2dShape shape =
      conv_act_pool2d_shape(dims(input_size), dims(weight_size), nullptr, stage.arguments());
  const int64_t map[] = {shape.conv.n, shape.conv.k, shape.conv.p, shape.conv.q};
  const int64_t output[] = {shape.conv.n, shape.conv.k, shape.pool.h.out, shape.pool.w.out};
  const bool activates = shape.activation != Activation::none, again = recomputes(shape, given);
  check_given("grad_output", given.grad_output, true, {output, 4}, given.grad_output);
  check_given("input", given.input, want_weight || again, dims(input_size), given.grad_output);
  check_given("weight", given.weight, want_input || again, dims(weight_size), given.grad_output);
  check_given("bias", given.bias, false, {&shape.conv.k, 1}, given.grad_output);
  check_given("activated", given.activated, activates && activates_output(shape),
              {activates_output(shape) ? output : map, 4}, given.grad_output);
  if (shape.pooling == Pooling::max) {
    if (!given.winners) fail("%s: winners must be given for max pooling, got None", op);
    check_device(op, "winners", *given.winners, "grad_output", given.grad_output);
  }
  return shape;
}

}  // namespace tmc
