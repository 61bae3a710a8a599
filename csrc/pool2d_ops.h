// The pooling operators of both backends: from arguments to a checked shape, then to one of six maps, for which
// sliding and adaptive windows are the same. A Backend has these maps as static functions:
//
//   max_pool(op, input, shape) -> (output, winners)       max_pool_gradient(op, grad_output, winners, shape)
//   select_winners(op, input, winners, shape)             winner_indices(op, winners, shape)
//   average_pool(op, input, shape, rule)                  average_pool_gradient(op, grad_output, shape, rule)
#pragma once
#include <optional>
#include <tuple>

#include "pool2d.h"
#include "tensor.h"

namespace tmc {

inline ScalarType winners_dtype(const PoolShape& shape) {
  return window_taps(shape) <= kMaxByteTaps ? ScalarType::Byte : ScalarType::Int;
}

inline void check_winners_tensor(const char* op, const Tensor& winners, const PoolShape& shape) {
  check_winners_shape(op, sizes(winners), shape);
  check_dtype(op, "winners", winners, winners_dtype(shape), "windows of up to 256 positions have uint8, larger int32");
}

template <class Backend>
struct Pool2dOps {
  static constexpr int64_t kOnes[] = {1, 1};
  static constexpr Dims kNoDilation{kOnes, 2};

  static std::tuple<Tensor, Tensor> max_pool2d(Tensor input, IntList kernel_size, IntList stride, IntList padding,
                                               IntList dilation, bool ceil_mode) {
    const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
    return Backend::max_pool("max_pool2d", input, pool2d_shape("max_pool2d", sizes(input), arguments));
  }

  static Tensor max_pool2d_grad_input(Tensor grad_output, Tensor winners, IntList input_size, IntList kernel_size,
                                      IntList stride, IntList padding, IntList dilation, bool ceil_mode) {
    const char* op = "max_pool2d_grad_input";
    const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
    const PoolShape shape = pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size), arguments);
    return Backend::max_pool_gradient(op, grad_output, winners, shape);
  }

  static Tensor max_pool2d_select(Tensor input, Tensor winners, IntList kernel_size, IntList stride, IntList padding,
                                  IntList dilation, bool ceil_mode) {
    const char* op = "max_pool2d_select";
    const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
    return Backend::select_winners(op, input, winners, pool2d_shape(op, sizes(input), arguments));
  }

  static Tensor max_pool2d_indices(Tensor winners, IntList input_size, IntList kernel_size, IntList stride,
                                   IntList padding, IntList dilation, bool ceil_mode) {
    const char* op = "max_pool2d_indices";
    const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
    return Backend::winner_indices(op, winners,
                                   pool2d_gradient_shape(op, "winners", sizes(winners), dims(input_size), arguments));
  }

  static Tensor avg_pool2d(Tensor input, IntList kernel_size, IntList stride, IntList padding, bool ceil_mode,
                           bool count_include_pad, std::optional<int64_t> divisor_override) {
    const char* op = "avg_pool2d";
    const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), kNoDilation, ceil_mode};
    const PoolShape shape = pool2d_shape(op, sizes(input), arguments);
    return Backend::average_pool(
        op, input, shape, check_average_rule(op, count_include_pad, divisor_override ? &*divisor_override : nullptr));
  }

  static Tensor avg_pool2d_grad_input(Tensor grad_output, IntList input_size, IntList kernel_size, IntList stride,
                                      IntList padding, bool ceil_mode, bool count_include_pad,
                                      std::optional<int64_t> divisor_override) {
    const char* op = "avg_pool2d_grad_input";
    const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), kNoDilation, ceil_mode};
    const PoolShape shape = pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size), arguments);
    return Backend::average_pool_gradient(
        op, grad_output, shape,
        check_average_rule(op, count_include_pad, divisor_override ? &*divisor_override : nullptr));
  }

  static std::tuple<Tensor, Tensor> adaptive_max_pool2d(Tensor input, IntList output_size) {
    const char* op = "adaptive_max_pool2d";
    return Backend::max_pool(op, input, adaptive_pool2d_shape(op, sizes(input), dims(output_size)));
  }

  static Tensor adaptive_max_pool2d_grad_input(Tensor grad_output, Tensor winners, IntList input_size) {
    const char* op = "adaptive_max_pool2d_grad_input";
    return Backend::max_pool_gradient(
        op, grad_output, winners,
        adaptive_pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size)));
  }

  static Tensor adaptive_max_pool2d_select(Tensor input, Tensor winners) {
    const char* op = "adaptive_max_pool2d_select";
    check_rank4(op, "winners", sizes(winners));
    const int64_t output_size[] = {winners.size(2), winners.size(3)};
    return Backend::select_winners(op, input, winners, adaptive_pool2d_shape(op, sizes(input), {output_size, 2}));
  }

  static Tensor adaptive_max_pool2d_indices(Tensor winners, IntList input_size) {
    const char* op = "adaptive_max_pool2d_indices";
    return Backend::winner_indices(op, winners,
                                   adaptive_pool2d_gradient_shape(op, "winners", sizes(winners), dims(input_size)));
  }

  static Tensor adaptive_avg_pool2d(Tensor input, IntList output_size) {
    const char* op = "adaptive_avg_pool2d";
    return Backend::average_pool(op, input, adaptive_pool2d_shape(op, sizes(input), dims(output_size)), {false, 0});
  }

  static Tensor adaptive_avg_pool2d_grad_input(Tensor grad_output, IntList input_size) {
    const char* op = "adaptive_avg_pool2d_grad_input";
    return Backend::average_pool_gradient(
        op, grad_output, adaptive_pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size)),
        {false, 0});
  }
};

template <class Backend, class Library>
void register_pool2d(Library& m) {
  using Ops = Pool2dOps<Backend>;
  m.impl("max_pool2d", TORCH_BOX(&Ops::max_pool2d));
  m.impl("max_pool2d_grad_input", TORCH_BOX(&Ops::max_pool2d_grad_input));
  m.impl("max_pool2d_select", TORCH_BOX(&Ops::max_pool2d_select));
  m.impl("max_pool2d_indices", TORCH_BOX(&Ops::max_pool2d_indices));
  m.impl("avg_pool2d", TORCH_BOX(&Ops::avg_pool2d));
  m.impl("avg_pool2d_grad_input", TORCH_BOX(&Ops::avg_pool2d_grad_input));
  m.impl("adaptive_max_pool2d", TORCH_BOX(&Ops::adaptive_max_pool2d));
  m.impl("adaptive_max_pool2d_grad_input", TORCH_BOX(&Ops::adaptive_max_pool2d_grad_input));
  m.impl("adaptive_max_pool2d_select", TORCH_BOX(&Ops::adaptive_max_pool2d_select));
  m.impl("adaptive_max_pool2d_indices", TORCH_BOX(&Ops::adaptive_max_pool2d_indices));
  m.impl("adaptive_avg_pool2d", TORCH_BOX(&Ops::adaptive_avg_pool2d));
  m.impl("adaptive_avg_pool2d_grad_input", TORCH_BOX(&Ops::adaptive_avg_pool2d_grad_input));
}

}  // namespace tmc
