// Pooling on the CPU: the operators, which check, allocate and call the room behind (cpu/pool2d/plan.h).
#include <tuple>

#include "cpu/pool2d/core.h"
#include "cpu/pool2d/winners.h"
#include "pool2d_ops.h"
#include "tensor.h"

namespace tmc {
namespace {

// The maps that pool2d_ops.h asks for: checks, allocation, then one of the above.
struct CpuPool {
  static std::tuple<Tensor, Tensor> max_pool(const char* op, const Tensor& input, const PoolShape& shape) {
    check_floating(op, "input", input);
    const bool channels_last = is_channels_last(input);
    Tensor output = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, channels_last);
    Tensor winners = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, channels_last, winners_dtype(shape));
    if (output.numel() > 0) tmc::max_pool(shape, channels_last, dense(input, channels_last), output, winners);
    return {output, winners};
  }

  static Tensor max_pool_gradient(const char* op, const Tensor& grad_output, const Tensor& winners,
                                  const PoolShape& shape) {
    check_floating(op, "grad_output", grad_output);
    check_device(op, "winners", winners, "grad_output", grad_output);
    const bool channels_last = is_channels_last(winners);
    const Tensor checked = check_winners(op, winners, shape, channels_last);
    Tensor grad_input = empty_nchw(grad_output, shape.n, shape.c, shape.h.in, shape.w.in, channels_last);
    if (grad_input.numel() > 0)
      tmc::max_pool_gradient(shape, channels_last, dense(grad_output, channels_last), checked, grad_input);
    return grad_input;
  }

  static Tensor average_pool(const char* op, const Tensor& input, const PoolShape& shape, const AverageRule& rule) {
    check_floating(op, "input", input);
    const bool channels_last = is_channels_last(input);
    Tensor output = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, channels_last);
    if (output.numel() > 0) tmc::average_pool(shape, channels_last, rule, dense(input, channels_last), output);
    return output;
  }

  static Tensor average_pool_gradient(const char* op, const Tensor& grad_output, std::optional<bool> layout,
                                      const PoolShape& shape, const AverageRule& rule) {
    check_floating(op, "grad_output", grad_output);
    const bool channels_last = layout ? *layout : is_channels_last(grad_output);
    Tensor grad_input = empty_nchw(grad_output, shape.n, shape.c, shape.h.in, shape.w.in, channels_last);
    if (grad_input.numel() > 0)
      tmc::average_pool_gradient(shape, channels_last, rule, dense(grad_output, channels_last), grad_input);
    return grad_input;
  }

  static constexpr auto select_winners = tmc::select_winners;
  static constexpr auto winner_indices = tmc::winner_indices;
};

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  tmc::register_pool2d<tmc::CpuPool>(m);
}
