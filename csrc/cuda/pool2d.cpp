// Entry points of pooling on CUDA: checks, allocation, launch.
#include "pool2d.h"

#include <optional>
#include <tuple>

#include "glue.h"

namespace tmc {
namespace {

ScalarType winners_dtype(const PoolShape& shape) {
  return window_taps(shape) <= kMaxByteTaps ? ScalarType::Byte : ScalarType::Int;
}

void check_winners(const char* op, const Tensor& winners, const PoolShape& shape) {
  check_winners_shape(op, sizes(winners), shape);
  if (winners.scalar_type() != winners_dtype(shape))
    fail("%s: winners must be %s for windows of %lld positions", op,
         window_taps(shape) <= kMaxByteTaps ? "uint8" : "int32", static_cast<long long>(window_taps(shape)));
}

Tensor empty_output(const Tensor& like, const PoolShape& shape, bool channels_last, ScalarType dtype) {
  return empty_nchw(like, shape.n, shape.c, shape.h.out, shape.w.out, channels_last, dtype);
}

Tensor empty_input(const Tensor& like, const PoolShape& shape, bool channels_last) {
  return empty_nchw(like, shape.n, shape.c, shape.h.in, shape.w.in, channels_last);
}

// ---- The maps, whatever the windows.

std::tuple<Tensor, Tensor> max_forward(const char* op, const Tensor& input, const PoolShape& shape) {
  check_floating(op, "input", input);
  const DeviceGuard guard(input.get_device_index());
  const bool channels_last = is_channels_last(input);
  Tensor output = empty_output(input, shape, channels_last, input.scalar_type());
  Tensor winners = empty_output(input, shape, channels_last, winners_dtype(shape));
  if (output.numel() == 0) return {output, winners};
  const Tensor source = dense(input, channels_last);
  launch_max_pool2d(dtype_of(input), shape, channels_last, source.const_data_ptr(), output.mutable_data_ptr(),
                    winners.mutable_data_ptr(), current_stream(input));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {output, winners};
}

Tensor max_gradient(const char* op, const Tensor& grad_output, const Tensor& winners, const PoolShape& shape) {
  check_floating(op, "grad_output", grad_output);
  check_winners(op, winners, shape);
  check_device(op, "winners", winners, "grad_output", grad_output);
  const DeviceGuard guard(grad_output.get_device_index());
  const bool channels_last = is_channels_last(grad_output);
  Tensor grad_input = empty_input(grad_output, shape, channels_last);
  if (grad_input.numel() == 0) return grad_input;
  const Tensor gradient = dense(grad_output, channels_last), chosen = dense(winners, channels_last);
  launch_max_pool2d_grad_input(dtype_of(grad_output), shape, channels_last, gradient.const_data_ptr(),
                               chosen.const_data_ptr(), grad_input.mutable_data_ptr(), current_stream(grad_output));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_input;
}

Tensor max_select(const char* op, const Tensor& input, const Tensor& winners, const PoolShape& shape) {
  check_floating(op, "input", input);
  check_winners(op, winners, shape);
  check_device(op, "winners", winners, "input", input);
  const DeviceGuard guard(input.get_device_index());
  const bool channels_last = is_channels_last(input);
  Tensor output = empty_output(input, shape, channels_last, input.scalar_type());
  if (output.numel() == 0) return output;
  const Tensor source = dense(input, channels_last), chosen = dense(winners, channels_last);
  launch_max_pool2d_select(dtype_of(input), shape, channels_last, source.const_data_ptr(), chosen.const_data_ptr(),
                           output.mutable_data_ptr(), current_stream(input));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

Tensor max_indices(const char* op, const Tensor& winners, const PoolShape& shape) {
  check_winners(op, winners, shape);
  const DeviceGuard guard(winners.get_device_index());
  const bool channels_last = is_channels_last(winners);
  Tensor indices = empty_output(winners, shape, channels_last, ScalarType::Long);
  if (indices.numel() == 0) return indices;
  const Tensor chosen = dense(winners, channels_last);
  launch_max_pool2d_indices(shape, channels_last, chosen.const_data_ptr(), indices.mutable_data_ptr<int64_t>(),
                            current_stream(winners));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return indices;
}

Tensor avg_forward(const char* op, const Tensor& input, const PoolShape& shape, const AverageRule& rule) {
  check_floating(op, "input", input);
  const DeviceGuard guard(input.get_device_index());
  const bool channels_last = is_channels_last(input);
  Tensor output = empty_output(input, shape, channels_last, input.scalar_type());
  if (output.numel() == 0) return output;
  const Tensor source = dense(input, channels_last);
  launch_avg_pool2d(dtype_of(input), shape, channels_last, rule, source.const_data_ptr(), output.mutable_data_ptr(),
                    current_stream(input));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

Tensor avg_gradient(const char* op, const Tensor& grad_output, const PoolShape& shape, const AverageRule& rule) {
  check_floating(op, "grad_output", grad_output);
  const DeviceGuard guard(grad_output.get_device_index());
  const bool channels_last = is_channels_last(grad_output);
  Tensor grad_input = empty_input(grad_output, shape, channels_last);
  if (grad_input.numel() == 0) return grad_input;
  const Tensor gradient = dense(grad_output, channels_last);
  launch_avg_pool2d_grad_input(dtype_of(grad_output), shape, channels_last, rule, gradient.const_data_ptr(),
                               grad_input.mutable_data_ptr(), current_stream(grad_output));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_input;
}

// ---- The operators.
constexpr int64_t kNoDilation[] = {1, 1};

std::tuple<Tensor, Tensor> max_pool2d_cuda(Tensor input, IntList kernel_size, IntList stride, IntList padding,
                                           IntList dilation, bool ceil_mode) {
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
  return max_forward("max_pool2d", input, pool2d_shape("max_pool2d", sizes(input), arguments));
}

Tensor max_pool2d_grad_input_cuda(Tensor grad_output, Tensor winners, IntList input_size, IntList kernel_size,
                                  IntList stride, IntList padding, IntList dilation, bool ceil_mode) {
  const char* op = "max_pool2d_grad_input";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
  const PoolShape shape = pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size), arguments);
  return max_gradient(op, grad_output, winners, shape);
}

Tensor max_pool2d_select_cuda(Tensor input, Tensor winners, IntList kernel_size, IntList stride, IntList padding,
                              IntList dilation, bool ceil_mode) {
  const char* op = "max_pool2d_select";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
  return max_select(op, input, winners, pool2d_shape(op, sizes(input), arguments));
}

Tensor max_pool2d_indices_cuda(Tensor winners, IntList input_size, IntList kernel_size, IntList stride, IntList padding,
                               IntList dilation, bool ceil_mode) {
  const char* op = "max_pool2d_indices";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
  return max_indices(op, winners, pool2d_gradient_shape(op, "winners", sizes(winners), dims(input_size), arguments));
}

Tensor avg_pool2d_cuda(Tensor input, IntList kernel_size, IntList stride, IntList padding, bool ceil_mode,
                       bool count_include_pad, std::optional<int64_t> divisor_override) {
  const char* op = "avg_pool2d";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), {kNoDilation, 2}, ceil_mode};
  const PoolShape shape = pool2d_shape(op, sizes(input), arguments);
  return avg_forward(op, input, shape,
                     check_average_rule(op, count_include_pad, divisor_override ? &*divisor_override : nullptr));
}

Tensor avg_pool2d_grad_input_cuda(Tensor grad_output, IntList input_size, IntList kernel_size, IntList stride,
                                  IntList padding, bool ceil_mode, bool count_include_pad,
                                  std::optional<int64_t> divisor_override) {
  const char* op = "avg_pool2d_grad_input";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), {kNoDilation, 2}, ceil_mode};
  const PoolShape shape = pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size), arguments);
  return avg_gradient(op, grad_output, shape,
                      check_average_rule(op, count_include_pad, divisor_override ? &*divisor_override : nullptr));
}

std::tuple<Tensor, Tensor> adaptive_max_pool2d_cuda(Tensor input, IntList output_size) {
  const char* op = "adaptive_max_pool2d";
  return max_forward(op, input, adaptive_pool2d_shape(op, sizes(input), dims(output_size)));
}

Tensor adaptive_max_pool2d_grad_input_cuda(Tensor grad_output, Tensor winners, IntList input_size) {
  const char* op = "adaptive_max_pool2d_grad_input";
  return max_gradient(op, grad_output, winners,
                      adaptive_pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size)));
}

Tensor adaptive_max_pool2d_select_cuda(Tensor input, Tensor winners) {
  const char* op = "adaptive_max_pool2d_select";
  check_rank4(op, "winners", sizes(winners));
  const int64_t output_size[] = {winners.size(2), winners.size(3)};
  return max_select(op, input, winners, adaptive_pool2d_shape(op, sizes(input), {output_size, 2}));
}

Tensor adaptive_max_pool2d_indices_cuda(Tensor winners, IntList input_size) {
  const char* op = "adaptive_max_pool2d_indices";
  return max_indices(op, winners, adaptive_pool2d_gradient_shape(op, "winners", sizes(winners), dims(input_size)));
}

Tensor adaptive_avg_pool2d_cuda(Tensor input, IntList output_size) {
  const char* op = "adaptive_avg_pool2d";
  return avg_forward(op, input, adaptive_pool2d_shape(op, sizes(input), dims(output_size)), {false, 0});
}

Tensor adaptive_avg_pool2d_grad_input_cuda(Tensor grad_output, IntList input_size) {
  const char* op = "adaptive_avg_pool2d_grad_input";
  return avg_gradient(op, grad_output,
                      adaptive_pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size)),
                      {false, 0});
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CUDA, m) {
  m.impl("max_pool2d", TORCH_BOX(&tmc::max_pool2d_cuda));
  m.impl("max_pool2d_grad_input", TORCH_BOX(&tmc::max_pool2d_grad_input_cuda));
  m.impl("max_pool2d_select", TORCH_BOX(&tmc::max_pool2d_select_cuda));
  m.impl("max_pool2d_indices", TORCH_BOX(&tmc::max_pool2d_indices_cuda));
  m.impl("avg_pool2d", TORCH_BOX(&tmc::avg_pool2d_cuda));
  m.impl("avg_pool2d_grad_input", TORCH_BOX(&tmc::avg_pool2d_grad_input_cuda));
  m.impl("adaptive_max_pool2d", TORCH_BOX(&tmc::adaptive_max_pool2d_cuda));
  m.impl("adaptive_max_pool2d_grad_input", TORCH_BOX(&tmc::adaptive_max_pool2d_grad_input_cuda));
  m.impl("adaptive_max_pool2d_select", TORCH_BOX(&tmc::adaptive_max_pool2d_select_cuda));
  m.impl("adaptive_max_pool2d_indices", TORCH_BOX(&tmc::adaptive_max_pool2d_indices_cuda));
  m.impl("adaptive_avg_pool2d", TORCH_BOX(&tmc::adaptive_avg_pool2d_cuda));
  m.impl("adaptive_avg_pool2d_grad_input", TORCH_BOX(&tmc::adaptive_avg_pool2d_grad_input_cuda));
}
