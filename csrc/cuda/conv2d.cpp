// Entry points of convolution on CUDA: checks, allocation, launch.
#include <cstdlib>
#include <cstring>

#include "conv2d_ops.h"
#include "cuda/conv2d/entry.h"
#include "cuda/conv2d/launchers.h"
#include "cuda/conv2d/mma.h"
#include "cuda/glue.h"

namespace tmc {
namespace {

// ---- Scratch memory in bytes, beside operands and results: what an entry point asks for, and conv2d_algorithms says.

// Partial sums are kept in the precision they are computed in.
int64_t sums_bytes(DType dtype, int64_t parts, int64_t count) {
  return parts * count * (dtype == DType::float64 ? 8 : 4);
}

}  // namespace

int64_t forward_scratch(DType dtype, const Conv2dPlan& plan) {
  return plan.tensor_cores ? conv2d_mma_workspace(dtype, plan) : 0;
}
int64_t grad_input_scratch(DType dtype, const Conv2dPlan& plan) {
  return plan.tensor_cores ? conv2d_grad_input_mma_workspace(dtype, plan) : 0;
}
int64_t grad_weight_scratch(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan) {
  if (plan.tensor_cores) return conv2d_grad_weight_mma_workspace(dtype, plan);
  const int64_t weight = shape.k * channels_per_group(shape) * shape.r * shape.s;
  return sums_bytes(dtype, conv2d_grad_weight_parts(shape), weight);
}

// Tensor cores that multiply half types and TF32, and asynchronous copies, since sm_80; wgmma on sm_90 alone. The
// preference is in the environment, where prefer_conv2d_algorithm has put it.
Conv2dDevice device_of(const Tensor& tensor) {
  int major = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, tensor.get_device_index()));
  Conv2dDevice device = {CudaAlgorithm::implicit_gemm, std::nullopt};
  if (major >= 8) device.last = CudaAlgorithm::tensor_cores;
  if (major == 9 && compiled_for_wgmma()) device.last = CudaAlgorithm::wgmma;
  const char* const preferred = std::getenv("TMC_CONV2D_ALGORITHM");
  for (const auto algorithm : {CudaAlgorithm::implicit_gemm, CudaAlgorithm::tensor_cores, CudaAlgorithm::wgmma})
    if (preferred != nullptr && std::strcmp(preferred, algorithm_name(algorithm)) == 0) device.preferred = algorithm;
  return device;
}

Tensor conv2d_cuda(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias, IntList geometry,
                   int64_t groups, std::string precision) {
  const Conv2dShape shape = check_conv2d(input, weight, bias, {geometry, groups});
  const DType dtype = dtype_of(input);

  const DeviceGuard guard(input.get_device_index());
  const Conv2dPlan plan = plan_conv2d(dtype, shape, check_precision("conv2d", precision), device_of(input));
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  Tensor output = empty_nchw(input, shape.n, shape.k, shape.p, shape.q, channels_last || plan.tensor_cores);
  if (output.numel() == 0) return dense(output, channels_last);
  if (bias && !bias->is_contiguous()) bias = torch::stable::contiguous(*bias);
  const void* const bias_data = bias ? bias->const_data_ptr() : nullptr;
  if (plan.tensor_cores) {
    const bool operands_last = channels_last || !plan.packing.needed;
    const Tensor image = aligned(to_layout(input, operands_last));
    const Tensor matrix = aligned(to_layout(weight, operands_last));
    Tensor workspace = empty_bytes(input, forward_scratch(dtype, plan));
    launch_conv2d_mma(dtype, shape, plan, operands_last, image.const_data_ptr(), matrix.const_data_ptr(), bias_data,
                      workspace.mutable_data_ptr(), output.mutable_data_ptr(), current_stream(input));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return to_layout(output, channels_last);
  }
  const Tensor dense_input = dense(input, channels_last), dense_weight = dense(weight, channels_last);
  launch_conv2d(dtype, shape, channels_last, dense_input.const_data_ptr(), dense_weight.const_data_ptr(), bias_data,
                output.mutable_data_ptr(), current_stream(input));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

Tensor conv2d_grad_input_cuda(const Tensor& grad_output, const Tensor& weight, IntList input_size, IntList geometry,
                              int64_t groups, std::string precision) {
  const Conv2dShape shape = check_conv2d_grad_input(grad_output, weight, input_size, {geometry, groups});
  const DType dtype = dtype_of(grad_output);

  const DeviceGuard guard(grad_output.get_device_index());
  const Conv2dPlan plan =
      plan_conv2d_grad_input(dtype, shape, check_precision("conv2d_grad_input", precision), device_of(grad_output));
  const bool channels_last = is_channels_last(grad_output) || is_channels_last(weight);
  Tensor grad_input = empty_nchw(grad_output, shape.n, shape.c, shape.h, shape.w, channels_last || plan.tensor_cores);
  if (grad_input.numel() == 0) return dense(grad_input, channels_last);
  if (plan.tensor_cores) {
    const Tensor image = aligned(to_layout(grad_output, true)), matrix = aligned(to_layout(weight, true));
    Tensor workspace = empty_bytes(grad_output, grad_input_scratch(dtype, plan));
    launch_conv2d_grad_input_mma(dtype, plan, image.const_data_ptr(), matrix.const_data_ptr(),
                                 workspace.mutable_data_ptr(), grad_input.mutable_data_ptr(),
                                 current_stream(grad_output));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return to_layout(grad_input, channels_last);
  }
  const Tensor dense_grad = dense(grad_output, channels_last), dense_weight = dense(weight, channels_last);
  launch_conv2d_grad_input(dtype, shape, channels_last, dense_grad.const_data_ptr(), dense_weight.const_data_ptr(),
                           grad_input.mutable_data_ptr(), current_stream(grad_output));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_input;
}

Tensor conv2d_grad_weight_cuda(const Tensor& grad_output, const Tensor& input, IntList kernel_size, IntList geometry,
                               int64_t groups, std::string precision) {
  const bool channels_last = is_channels_last(grad_output) || is_channels_last(input);
  return conv2d_grad_weight_in(channels_last, grad_output, input, kernel_size, geometry, groups, precision);
}

Tensor conv2d_grad_weight_in(bool weight_last, const Tensor& grad_output, const Tensor& input, IntList kernel_size,
                             IntList geometry, int64_t groups, std::string precision) {
  const Conv2dShape shape = check_conv2d_grad_weight(grad_output, input, kernel_size, {geometry, groups});
  const DType dtype = dtype_of(grad_output);

  const DeviceGuard guard(grad_output.get_device_index());
  const Conv2dPlan plan =
      plan_conv2d_grad_weight(dtype, shape, check_precision("conv2d_grad_weight", precision), device_of(grad_output));
  const bool channels_last = is_channels_last(grad_output) || is_channels_last(input);
  Tensor grad_weight = empty_nchw(grad_output, shape.k, channels_per_group(shape), shape.r, shape.s, weight_last);
  Tensor workspace = empty_bytes(grad_output, grad_weight_scratch(dtype, shape, plan));
  if (plan.tensor_cores) {
    const bool image_last = channels_last || !plan.packing.needed;
    const Tensor image = aligned(to_layout(input, image_last)), matrix = aligned(to_layout(grad_output, true));
    launch_conv2d_grad_weight_mma(dtype, shape, plan, image_last, weight_last, matrix.const_data_ptr(),
                                  image.const_data_ptr(), workspace.mutable_data_ptr(), grad_weight.mutable_data_ptr(),
                                  current_stream(grad_output));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return grad_weight;
  }
  const Tensor dense_grad = dense(grad_output, channels_last), dense_input = dense(input, channels_last);
  launch_conv2d_grad_weight(dtype, shape, channels_last, weight_last, dense_grad.const_data_ptr(),
                            dense_input.const_data_ptr(), workspace.mutable_data_ptr(), grad_weight.mutable_data_ptr(),
                            current_stream(grad_output));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_weight;
}

Tensor conv2d_grad_bias_cuda(const Tensor& grad_output) {
  check_rank4("conv2d_grad_bias", "grad_output", sizes(grad_output));
  check_floating("conv2d_grad_bias", "grad_output", grad_output);

  const DeviceGuard guard(grad_output.get_device_index());
  const int64_t n = grad_output.size(0), k = grad_output.size(1), plane = grad_output.size(2) * grad_output.size(3);
  Tensor grad_bias = empty_list(grad_output, k);
  if (k == 0) return grad_bias;
  const bool channels_last = is_channels_last(grad_output);
  const Tensor dense_grad = aligned(dense(grad_output, channels_last));
  const DType dtype = dtype_of(grad_output);
  Tensor workspace = empty_bytes(grad_output, sums_bytes(dtype, conv2d_grad_bias_parts(n, k, plane, channels_last), k));
  launch_conv2d_grad_bias(dtype, n, k, plane, channels_last, dense_grad.const_data_ptr(), workspace.mutable_data_ptr(),
                          grad_bias.mutable_data_ptr(), current_stream(grad_output));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_bias;
}

namespace {

std::string conv2d_algorithms_cuda(const Tensor& input, const Tensor& weight, IntList geometry, int64_t groups,
                                   std::string precision) {
  const Conv2dShape shape = check_conv2d(input, weight, std::nullopt, {geometry, groups});
  const Precision checked = check_precision("conv2d_algorithms", precision);
  const DeviceGuard guard(input.get_device_index());
  const DType dtype = dtype_of(input);
  const Conv2dDevice device = device_of(input);
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  // What a copy of a contiguous tensor takes; a single channel or pixel lies in both orders.
  const auto copy = [&](int64_t n, int64_t c, int64_t pixels) {
    return channels_last || c == 1 || pixels == 1 ? 0 : n * c * pixels * static_cast<int64_t>(input.element_size());
  };
  const int64_t image = copy(shape.n, shape.c, shape.h * shape.w), output = copy(shape.n, shape.k, shape.p * shape.q);
  const int64_t matrix = copy(shape.k, channels_per_group(shape), shape.r * shape.s);
  const auto line = [&](const char* pass, const Conv2dPlan& plan, int64_t scratch, int64_t copies) {
    const bool copied = plan.tensor_cores && !channels_last;
    const char* const layout = copied ? ", contiguous tensors copied to channels_last and back" : "";
    const std::string not_wgmma = plan.not_wgmma == nullptr ? "" : std::string("; not wgmma: ") + plan.not_wgmma;
    return std::string(pass) + ": " + algorithm_name(algorithm_of(plan)) + ": " + plan.reason + layout + not_wgmma +
           "; scratch memory: " + std::to_string(scratch + (copied ? copies : 0)) + " bytes\n";
  };
  const Conv2dPlan forward = plan_conv2d(dtype, shape, checked, device);
  const Conv2dPlan grad_input = plan_conv2d_grad_input(dtype, shape, checked, device);
  const Conv2dPlan grad_weight = plan_conv2d_grad_weight(dtype, shape, checked, device);
  return line("forward", forward, forward_scratch(dtype, forward),
              (forward.packing.needed ? 0 : image + matrix) + output) +
         line("grad_input", grad_input, grad_input_scratch(dtype, grad_input), output + matrix + image) +
         line("grad_weight", grad_weight, grad_weight_scratch(dtype, shape, grad_weight),
              (grad_weight.packing.needed ? 0 : image) + output);
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CUDA, m) {
  m.impl("conv2d", TORCH_BOX(&tmc::conv2d_cuda));
  m.impl("conv2d_grad_input", TORCH_BOX(&tmc::conv2d_grad_input_cuda));
  m.impl("conv2d_grad_weight", TORCH_BOX(&tmc::conv2d_grad_weight_cuda));
  m.impl("conv2d_algorithms", TORCH_BOX(&tmc::conv2d_algorithms_cuda));
  m.impl("conv2d_grad_bias", TORCH_BOX(&tmc::conv2d_grad_bias_cuda));
}
