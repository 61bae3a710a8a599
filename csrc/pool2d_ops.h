// The pooling operators of both backends: from arguments to a checked shape, then to one of six maps, for which
// sliding and adaptive windows are the same. A Backend has these maps as static functions:
//
//   max_pool(op, input, shape) -> (output, winners)       max_pool_gradient(op, grad_output, winners, shape)
//   select_winners(op, input, winners, shape)             winner_indices(op, winners, shape)
//   average_pool(op, input, shape, rule)                  average_pool_gradient(op, grad_output, layout, shape, rule)
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

// The arguments of max pooling, and of average pooling, whose windows have no dilation.
inline PoolArguments max_arguments(const char* op, IntList window, bool ceil_mode) {
  if (window.size() != 8)
    fail("%s: window must have 8 values (kernel_size, stride, padding, dilation), got %s", op,
         text(dims(window)).chars);
  return {{window.data(), 2}, {window.data() + 2, 2}, {window.data() + 4, 2}, {window.data() + 6, 2}, ceil_mode};
}
inline PoolArguments average_arguments(const char* op, IntList window, bool ceil_mode) {
  static constexpr int64_t kOnes[] = {1, 1};
  if (window.size() != 6)
    fail("%s: window must have 6 values (kernel_size, stride, padding), got %s", op, text(dims(window)).chars);
  return {{window.data(), 2}, {window.data() + 2, 2}, {window.data() + 4, 2}, {kOnes, 2}, ceil_mode};
}

inline AverageRule average_rule(const char* op, bool count_include_pad, std::optional<int64_t> divisor_override) {
  return check_average_rule(op, count_include_pad, divisor_override ? &*divisor_override : nullptr);
}

// Sums are averages over a divisor of 1; a message must fit whoever asked for one.
inline const char* average_name(std::optional<int64_t> divisor_override) {
  return divisor_override == 1 ? "sum_pool2d = avg_pool2d(divisor_override=1)" : "avg_pool2d";
}

template <class Backend>
struct Pool2dOps {
  static std::tuple<Tensor, Tensor> max_pool2d(Tensor input, IntList window, bool ceil_mode) {
    const char* op = "max_pool2d";
    return Backend::max_pool(op, input, pool2d_shape(op, sizes(input), max_arguments(op, window, ceil_mode)));
  }

  static Tensor max_pool2d_grad_input(Tensor grad_output, Tensor winners, IntList input_size, IntList window,
                                      bool ceil_mode) {
    const char* op = "max_pool2d_grad_input";
    const PoolShape shape = pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size),
                                                  max_arguments(op, window, ceil_mode));
    return Backend::max_pool_gradient(op, grad_output, winners, shape);
  }

  static Tensor max_pool2d_select(Tensor input, Tensor winners, IntList window, bool ceil_mode) {
    const char* op = "max_pool2d_select";
    return Backend::select_winners(op, input, winners,
                                   pool2d_shape(op, sizes(input), max_arguments(op, window, ceil_mode)));
  }

  static Tensor max_pool2d_indices(Tensor winners, IntList input_size, IntList window, bool ceil_mode) {
    const char* op = "max_pool2d_indices";
    const PoolShape shape =
        pool2d_gradient_shape(op, "winners", sizes(winners), dims(input_size), max_arguments(op, window, ceil_mode));
    return Backend::winner_indices(op, winners, shape);
  }

  static Tensor avg_pool2d(Tensor input, IntList window, bool ceil_mode, bool count_include_pad,
                           std::optional<int64_t> divisor_override) {
    const char* op = average_name(divisor_override);
    const PoolShape shape = pool2d_shape(op, sizes(input), average_arguments(op, window, ceil_mode));
    return Backend::average_pool(op, input, shape, average_rule(op, count_include_pad, divisor_override));
  }

  static Tensor avg_pool2d_grad_input(Tensor grad_output, IntList input_size, IntList window, bool ceil_mode,
                                      bool count_include_pad, std::optional<int64_t> divisor_override,
                                      std::optional<bool> channels_last) {
    const char* op = "avg_pool2d_grad_input";
    const PoolShape shape = pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size),
                                                  average_arguments(op, window, ceil_mode));
    return Backend::average_pool_gradient(op, grad_output, channels_last, shape,
                                          average_rule(op, count_include_pad, divisor_override));
  }

  static std::tuple<Tensor, Tensor> adaptive_max_pool2d(Tensor input, IntList output_size) {
    const char* op = "adaptive_max_pool2d";
    return Backend::max_pool(op, input, adaptive_pool2d_shape(op, sizes(input), dims(output_size), false));
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
    return Backend::select_winners(op, input, winners,
                                   adaptive_pool2d_shape(op, sizes(input), {output_size, 2}, false));
  }

  static Tensor adaptive_max_pool2d_indices(Tensor winners, IntList input_size) {
    const char* op = "adaptive_max_pool2d_indices";
    return Backend::winner_indices(op, winners,
                                   adaptive_pool2d_gradient_shape(op, "winners", sizes(winners), dims(input_size)));
  }

  static Tensor adaptive_avg_pool2d(Tensor input, IntList output_size) {
    const char* op = "adaptive_avg_pool2d";
    return Backend::average_pool(op, input, adaptive_pool2d_shape(op, sizes(input), dims(output_size), true),
                                 {false, 0});
  }

  static Tensor adaptive_avg_pool2d_grad_input(Tensor grad_output, IntList input_size,
                                               std::optional<bool> channels_last) {
    const char* op = "adaptive_avg_pool2d_grad_input";
    return Backend::average_pool_gradient(
        op, grad_output, channels_last,
        adaptive_pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size)), {false, 0});
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
