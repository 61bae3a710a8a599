#include "cuda/conv2d/plan.h"

#include <algorithm>
#include <iterator>

#include "cuda/conv2d/wgmma_plan.h"

namespace tmc {
namespace {

constexpr int64_t kChunkBytes = 16;
// Kernels keep extents of a sample and of the window as int, with room to count past their ends (cuda/conv2d/mma.cu).
constexpr int64_t kMaxExtent = 1 << 15, kMaxSample = int64_t{1} << 31;

int64_t chunk_elements(DType dtype) {
  return dtype == DType::float32 ? kChunkBytes / 4 : kChunkBytes / 2;
}
int64_t round_up(int64_t value, int64_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

bool fits(const Conv2dShape& shape) {
  const int64_t extents[] = {shape.c,          shape.h,         shape.w,          shape.k,
                             shape.r,          shape.s,         shape.p,          shape.q,
                             shape.stride_h,   shape.stride_w,  shape.pad_top,    shape.pad_left,
                             shape.pad_bottom, shape.pad_right, shape.dilation_h, shape.dilation_w};
  return *std::max_element(std::begin(extents), std::end(extents)) < kMaxExtent &&
         shape.c * shape.h * shape.w < kMaxSample && shape.k * shape.p * shape.q < kMaxSample &&
         shape.c * shape.r * shape.s < kMaxSample;
}

// The convolution that is left when the image is packed in blocks; its padding is part of the packed image.
Conv2dShape packed_shape(const Conv2dShape& shape, Packing packing, int64_t chunk) {
  const bool blocks = packing.block_h * packing.block_w > 1;
  Conv2dShape packed = shape;
  packed.c = round_up(packing.block_h * packing.block_w * shape.c, chunk);
  packed.pad_top = packed.pad_bottom = packed.pad_left = packed.pad_right = 0;
  if (blocks) packed.stride_h = packed.stride_w = 1;
  packed.r = ceil_div(shape.r, packing.block_h), packed.s = ceil_div(shape.s, packing.block_w);
  packed.h = (shape.p - 1) * packed.stride_h + (packed.r - 1) * shape.dilation_h + 1;
  packed.w = (shape.q - 1) * packed.stride_w + (packed.s - 1) * shape.dilation_w + 1;
  return packed;
}

int64_t depth_of(const Conv2dShape& shape) {
  return shape.r * shape.s * shape.c;
}

constexpr const char* kPreferred = "preferred by TMC_CONV2D_ALGORITHM or prefer_conv2d_algorithm";

Conv2dPlan general(const Conv2dShape& shape, const char* reason) {
  return {false, false, false, {false, 1, 1}, shape, reason, nullptr};
}

// What all three maps need; nullptr if nothing is missing.
const char* obstacle(DType dtype, const Conv2dShape& shape, const Conv2dDevice& device) {
  if (device.preferred == CudaAlgorithm::implicit_gemm) return kPreferred;
  if (dtype == DType::float64) return "float64 has no tensor cores here";
  if (device.last == CudaAlgorithm::implicit_gemm)
    return "the device has no tensor cores for these dtypes (compute capability below 8.0)";
  if (!fits(shape)) return "an image or window is too large for 32-bit indices";
  if (filters_per_group(shape) % chunk_elements(dtype) != 0)
    return "the output channels of a group do not fill chunks of 16 bytes";
  return nullptr;
}

Conv2dPlan on_tensor_cores(DType dtype, const Conv2dShape& shape, Packing packing, Precision precision) {
  const bool strict = dtype == DType::float32 && precision == Precision::highest;
  const char* reason = strict                    ? "float32 as the sum of two TF32 numbers, float32 sums"
                       : dtype == DType::float32 ? "float32 rounded to TF32, float32 sums"
                                                 : "half precision, float32 sums";
  return {true, false, strict, packing, shape, reason, nullptr};
}

// The map reads the image through windows and has its channels in the depth: conv2d and conv2d_grad_weight.
Conv2dPlan plan_image(DType dtype, const Conv2dShape& shape, Precision precision, const Conv2dDevice& device) {
  if (const char* reason = obstacle(dtype, shape, device)) return general(shape, reason);
  const int64_t chunk = chunk_elements(dtype);
  if (channels_per_group(shape) % chunk == 0) return on_tensor_cores(dtype, shape, {false, 1, 1}, precision);
  if (shape.groups != 1) return general(shape, "the input channels of a group do not fill chunks of 16 bytes");
  Packing packing = {true, 1, 1};
  const Packing blocks = {true, shape.stride_h, shape.stride_w};
  if (shape.dilation_h == 1 && shape.dilation_w == 1 &&
      depth_of(packed_shape(shape, blocks, chunk)) < depth_of(packed_shape(shape, packing, chunk)))
    packing = blocks;
  const Conv2dShape packed = packed_shape(shape, packing, chunk);
  if (!fits(packed)) return general(shape, "an image or window is too large for 32-bit indices");
  return on_tensor_cores(dtype, packed, packing, precision);
}

// The plan with wgmma, where the device has it and nothing is in the way.
Conv2dPlan with_wgmma(DType dtype, Conv2dPlan plan, const Conv2dDevice& device,
                      decltype(wgmma::conv2d_obstacle) obstacle) {
  if (!plan.tensor_cores || device.last != CudaAlgorithm::wgmma) return plan;
  const bool wanted = device.preferred == CudaAlgorithm::wgmma;
  plan.not_wgmma = device.preferred == CudaAlgorithm::tensor_cores ? kPreferred : obstacle(dtype, plan, wanted);
  plan.wgmma = plan.not_wgmma == nullptr;
  return plan;
}

}  // namespace

Conv2dPlan plan_conv2d(DType dtype, const Conv2dShape& shape, Precision precision, const Conv2dDevice& device) {
  return with_wgmma(dtype, plan_image(dtype, shape, precision, device), device, wgmma::conv2d_obstacle);
}

Conv2dPlan plan_conv2d_grad_input(DType dtype, const Conv2dShape& shape, Precision precision,
                                  const Conv2dDevice& device) {
  if (const char* reason = obstacle(dtype, shape, device)) return general(shape, reason);
  if (channels_per_group(shape) % chunk_elements(dtype) != 0)
    return general(shape, "the input channels of a group do not fill chunks of 16 bytes");
  if ((shape.stride_h > 1 && shape.dilation_h > 1) || (shape.stride_w > 1 && shape.dilation_w > 1))
    return general(shape, "stride and dilation along one axis");
  return with_wgmma(dtype, on_tensor_cores(dtype, shape, {false, 1, 1}, precision), device,
                    wgmma::conv2d_grad_input_obstacle);
}

Conv2dPlan plan_conv2d_grad_weight(DType dtype, const Conv2dShape& shape, Precision precision,
                                   const Conv2dDevice& device) {
  if (shape.n > 0 && shape.p * shape.q >= kMaxSample / shape.n)
    return general(shape, "more pixels than 32-bit indices can count");
  return with_wgmma(dtype, plan_image(dtype, shape, precision, device), device, wgmma::conv2d_grad_weight_obstacle);
}

CudaAlgorithm algorithm_of(const Conv2dPlan& plan) {
  return plan.wgmma          ? CudaAlgorithm::wgmma
         : plan.tensor_cores ? CudaAlgorithm::tensor_cores
                             : CudaAlgorithm::implicit_gemm;
}

const char* algorithm_name(CudaAlgorithm algorithm) {
  switch (algorithm) {
    case CudaAlgorithm::implicit_gemm: return "implicit_gemm";
    case CudaAlgorithm::tensor_cores: return "tensor_cores";
    default: return "wgmma";
  }
}

}  // namespace tmc
