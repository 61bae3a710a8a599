// A whole stage on CUDA (eq. 21, 23): checks, allocation, launch. What is inside is channels_last throughout.
#include <algorithm>
#include <optional>
#include <tuple>

#include "conv_act_pool2d_ops.h"
#include "cuda/conv2d/entry.h"
#include "cuda/conv2d/mma.h"
#include "cuda/elementwise/launchers.h"
#include "cuda/glue.h"
#include "cuda/machine/layout.h"
#include "cuda/pool2d/launchers.h"
#include "cuda/stage/launchers.h"

namespace tmc {
namespace {

// `tensor`, or a copy, with exactly the strides of the layout: dense() leaves those of one channel or of an empty batch
// as they are.
Tensor in_layout(const Tensor& tensor, bool channels_last) {
  const int64_t n = tensor.size(0), c = tensor.size(1), h = tensor.size(2), w = tensor.size(3);
  const Strides wanted = dense_strides(c, h, w, channels_last);
  if (tensor.stride(0) == wanted.n && tensor.stride(1) == wanted.c && tensor.stride(2) == wanted.h &&
      tensor.stride(3) == wanted.w)
    return tensor;
  Tensor result = empty_nchw(tensor, n, c, h, w, channels_last);
  return torch::stable::copy_(result, tensor);
}

bool activates_map(const ConvActPool2dShape& shape) {
  return shape.activation != Activation::none && !activates_output(shape);
}

Tensor empty_output(const Tensor& like, const ConvActPool2dShape& shape, ScalarType dtype) {
  return empty_nchw(like, shape.conv.n, shape.conv.k, shape.pool.h.out, shape.pool.w.out, true, dtype);
}

void activate(const ConvActPool2dShape& shape, Tensor& values) {
  if (shape.activation == Activation::none || values.numel() == 0) return;
  launch_activation(dtype_of(values), shape.activation, values.mutable_data_ptr(), values.numel(),
                    current_stream(values));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// The pool and the activation of a map in memory, which becomes the activated one for averages.
void pool_map(const ConvActPool2dShape& shape, Tensor& map, Tensor& output, Tensor& winners) {
  const DType dtype = dtype_of(map);
  void* const stream = current_stream(map);
  if (shape.pooling == Pooling::max) {
    launch_max_pool2d(dtype, shape.pool, true, map.const_data_ptr(), output.mutable_data_ptr(),
                      winners.mutable_data_ptr(), stream);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return activate(shape, output);
  }
  activate(shape, map);
  launch_avg_pool2d(dtype, shape.pool, true, average_rule(shape), map.const_data_ptr(), output.mutable_data_ptr(),
                    stream);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// All of it in one kernel; a map without elements is not kept.
void fuse(const ConvActPool2dShape& shape, const StagePlan& plan, const Tensor& input, const Tensor& weight,
          std::optional<Tensor> bias, bool channels_last, Tensor& output, Tensor& winners, Tensor& map) {
  const DType dtype = dtype_of(input);
  const bool operands_last = channels_last || !plan.conv.packing.needed;
  const Tensor image = aligned(dense(input, operands_last)), matrix = aligned(dense(weight, operands_last));
  if (bias && !bias->is_contiguous()) bias = torch::stable::contiguous(*bias);
  Tensor workspace = empty_bytes(input, conv2d_mma_workspace(dtype, plan.conv));
  const auto data_or_null = [](Tensor& tensor) { return tensor.numel() > 0 ? tensor.mutable_data_ptr() : nullptr; };
  launch_conv_act_pool2d_mma(dtype, shape, plan, operands_last, image.const_data_ptr(), matrix.const_data_ptr(),
                             bias ? bias->const_data_ptr() : nullptr, workspace.mutable_data_ptr(),
                             output.mutable_data_ptr(), data_or_null(winners), data_or_null(map),
                             current_stream(input));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> conv_act_pool2d_cuda(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                                                IntList geometry, int64_t groups, std::string activation,
                                                std::string pool, IntList window, std::string precision,
                                                bool keep_activated) {
  const ConvActPool2dShape shape =
      check_conv_act_pool2d(input, weight, bias, {{geometry, groups}, activation, pool, window});
  const Precision checked_precision = check_precision("conv_act_pool2d", precision);
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  const bool keeps_map = keep_activated && activates_map(shape);

  const DeviceGuard guard(input.get_device_index());
  const auto convolved = [&](const Tensor& images) {
    return conv2d_cuda(images, weight, bias, geometry, groups, precision);
  };
  Tensor nothing = empty_list(input, 0);
  if (shape.pooling == Pooling::none) {
    Tensor output = convolved(input);
    activate(shape, output);
    return {output, nothing};
  }
  Tensor output = empty_output(input, shape, input.scalar_type());
  Tensor winners = shape.pooling == Pooling::max ? empty_output(input, shape, winners_dtype(shape.pool)) : nothing;
  const StagePlan plan = plan_stage(dtype_of(input), shape, checked_precision, keeps_map, device_of(input));
  Tensor map = nothing;
  if (plan.fused && output.numel() > 0) {
    if (keeps_map) map = empty_nchw(input, shape.conv.n, shape.conv.k, shape.conv.p, shape.conv.q, true);
    fuse(shape, plan, input, weight, bias, channels_last, output, winners, map);
  } else {
    map = in_layout(convolved(dense(input, true)), true);
    if (output.numel() > 0) pool_map(shape, map, output, winners);
  }
  return {in_layout(output, channels_last), keeps_map ? map : winners};
}

std::string conv_act_pool2d_algorithm_cuda(const Tensor& input, const Tensor& weight, IntList geometry, int64_t groups,
                                           std::string activation, std::string pool, IntList window,
                                           std::string precision, bool keep_activated) {
  const ConvActPool2dShape shape =
      check_conv_act_pool2d(input, weight, std::nullopt, {{geometry, groups}, activation, pool, window});
  const Precision checked_precision = check_precision("conv_act_pool2d_algorithm", precision);
  const DeviceGuard guard(input.get_device_index());
  const bool keeps_map = keep_activated && activates_map(shape);
  const DType dtype = dtype_of(input);
  const Conv2dDevice device = device_of(input);
  const StagePlan plan = plan_stage(dtype, shape, checked_precision, keeps_map, device);
  const Conv2dPlan conv = plan.fused ? plan.conv : plan_conv2d(dtype, shape.conv, checked_precision, device);
  const bool has_map = !plan.fused && !keeps_map && shape.pooling != Pooling::none;
  const int64_t map =
      shape.conv.n * shape.conv.k * shape.conv.p * shape.conv.q * static_cast<int64_t>(input.element_size());
  const Conv2dPlan grad_input = plan_conv2d_grad_input(dtype, shape.conv, checked_precision, device);
  const Conv2dPlan grad_weight = plan_conv2d_grad_weight(dtype, shape.conv, checked_precision, device);
  const int64_t recomputed = !keep_activated && activates_map(shape) ? map : 0;
  const int64_t forward = forward_scratch(dtype, conv) + (has_map ? map : 0);
  const int64_t backward =
      recomputed + map +
      std::max(grad_input_scratch(dtype, grad_input), grad_weight_scratch(dtype, shape.conv, grad_weight));
  return describe(plan) + "; scratch memory: " + std::to_string(forward) + " bytes, gradients " +
         std::to_string(backward) + " bytes";
}

std::tuple<Tensor, Tensor, Tensor> conv_act_pool2d_gradients_cuda(
    const Tensor& grad_output, std::optional<Tensor> input, std::optional<Tensor> weight, std::optional<Tensor> bias,
    std::optional<Tensor> activated, std::optional<Tensor> winners, IntList input_size, IntList weight_size,
    IntList geometry, int64_t groups, std::string activation, std::string pool, IntList window, std::string precision,
    bool want_input, bool want_weight, bool want_bias) {
  const char* op = "conv_act_pool2d_gradients";
  const ConvActPool2dGiven given{grad_output, input, weight, bias, activated, winners};
  const ConvActPool2dShape shape = check_conv_act_pool2d_gradients(
      given, input_size, weight_size, {{geometry, groups}, activation, pool, window}, want_input, want_weight);
  check_precision(op, precision);
  if (shape.pooling == Pooling::max) check_winners_tensor(op, *winners, shape.pool);
  const Conv2dShape& conv = shape.conv;
  const DType dtype = dtype_of(grad_output);
  const bool channels_last = is_channels_last(grad_output) || (weight && is_channels_last(*weight));

  const DeviceGuard guard(grad_output.get_device_index());
  void* const stream = current_stream(grad_output);
  const Tensor nothing = empty_list(grad_output, 0);
  Tensor grad_bias = want_bias ? empty_list(grad_output, conv.k) : nothing;
  void* const grad_bias_data = want_bias ? grad_bias.mutable_data_ptr() : nullptr;
  const bool is_empty = conv.n * conv.k * conv.p * conv.q == 0;
  Tensor gradient = grad_output;
  if (is_empty) {
    torch::stable::zero_(grad_bias);
  } else {
    if (recomputes(shape, given)) {
      activated = conv2d_cuda(dense(*input, true), *weight, bias, geometry, groups, precision);
      activate(shape, *activated);
    }
    gradient = aligned(dense(grad_output, true));
    if (activated) activated = aligned(dense(*activated, true));
    if (winners) winners = aligned(dense(*winners, true));
  }
  const void* const activated_data = activated ? activated->const_data_ptr() : nullptr;
  const void* const winners_data = winners ? winners->const_data_ptr() : nullptr;
  Tensor map_gradient = empty_nchw(grad_output, conv.n, conv.k, conv.p, conv.q, true);
  if (!is_empty) {
    Tensor workspace = empty_bytes(grad_output, want_bias ? conv_act_pool2d_map_gradient_workspace(dtype, shape) : 0);
    launch_conv_act_pool2d_map_gradient(dtype, shape, gradient.const_data_ptr(), activated_data, winners_data,
                                        workspace.mutable_data_ptr(), map_gradient.mutable_data_ptr(), grad_bias_data,
                                        stream);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  const int64_t size[] = {conv.h, conv.w}, kernel_size[] = {conv.r, conv.s};
  Tensor grad_input = nothing, grad_weight = nothing;
  if (want_input)
    grad_input = in_layout(conv2d_grad_input_cuda(map_gradient, *weight, IntList(size, 2), geometry, groups, precision),
                           channels_last);
  if (want_weight)
    grad_weight = conv2d_grad_weight_in(is_channels_last(grad_output) || is_channels_last(*input), map_gradient, *input,
                                        IntList(kernel_size, 2), geometry, groups, precision);
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CUDA, m) {
  m.impl("conv_act_pool2d", TORCH_BOX(&tmc::conv_act_pool2d_cuda));
  m.impl("conv_act_pool2d_algorithm", TORCH_BOX(&tmc::conv_act_pool2d_algorithm_cuda));
  m.impl("conv_act_pool2d_gradients", TORCH_BOX(&tmc::conv_act_pool2d_gradients_cuda));
}
