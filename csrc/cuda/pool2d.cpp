// Entry points of pooling on CUDA: checks, allocation, launch.
#include "cuda/glue.h"
#include "cuda/pool2d/launchers.h"
#include "pool2d_ops.h"

namespace tmc {
namespace {

Tensor empty_output(const Tensor& like, const PoolShape& shape, bool channels_last, ScalarType dtype) {
  return empty_nchw(like, shape.n, shape.c, shape.h.out, shape.w.out, channels_last, dtype);
}

Tensor empty_input(const Tensor& like, const PoolShape& shape, bool channels_last) {
  return empty_nchw(like, shape.n, shape.c, shape.h.in, shape.w.in, channels_last);
}

struct CudaPool {
  static std::tuple<Tensor, Tensor> max_pool(const char* op, const Tensor& input, const PoolShape& shape) {
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

  static Tensor max_pool_gradient(const char* op, const Tensor& grad_output, const Tensor& winners,
                                  const PoolShape& shape) {
    check_floating(op, "grad_output", grad_output);
    check_winners_tensor(op, winners, shape);
    check_device(op, "winners", winners, "grad_output", grad_output);
    const DeviceGuard guard(grad_output.get_device_index());
    const bool channels_last = is_channels_last(winners);
    Tensor grad_input = empty_input(grad_output, shape, channels_last);
    if (grad_input.numel() == 0) return grad_input;
    const Tensor gradient = dense(grad_output, channels_last), chosen = dense(winners, channels_last);
    launch_max_pool2d_grad_input(dtype_of(grad_output), shape, channels_last, gradient.const_data_ptr(),
                                 chosen.const_data_ptr(), grad_input.mutable_data_ptr(), current_stream(grad_output));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return grad_input;
  }

  static Tensor select_winners(const char* op, const Tensor& input, const Tensor& winners, const PoolShape& shape) {
    check_floating(op, "input", input);
    check_winners_tensor(op, winners, shape);
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

  static Tensor winner_indices(const char* op, const Tensor& winners, const PoolShape& shape) {
    check_winners_tensor(op, winners, shape);
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

  static Tensor average_pool(const char* op, const Tensor& input, const PoolShape& shape, const AverageRule& rule) {
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

  static Tensor average_pool_gradient(const char* op, const Tensor& grad_output, std::optional<bool> layout,
                                      const PoolShape& shape, const AverageRule& rule) {
    check_floating(op, "grad_output", grad_output);
    const DeviceGuard guard(grad_output.get_device_index());
    const bool channels_last = layout ? *layout : is_channels_last(grad_output);
    Tensor grad_input = empty_input(grad_output, shape, channels_last);
    if (grad_input.numel() == 0) return grad_input;
    const Tensor gradient = dense(grad_output, channels_last);
    launch_avg_pool2d_grad_input(dtype_of(grad_output), shape, channels_last, rule, gradient.const_data_ptr(),
                                 grad_input.mutable_data_ptr(), current_stream(grad_output));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return grad_input;
  }
};

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CUDA, m) {
  tmc::register_pool2d<tmc::CudaPool>(m);
}
