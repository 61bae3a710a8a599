// The staging kernels of cpu/image/staging.h, for each instruction set.
#include "cpu/image/kernels.h"

#include "cpu/machine/machine.h"

namespace tmc {
namespace {

void stage(const PhasedImage& source, DType dtype, int64_t n, Region region, int64_t first, int64_t channels,
           float* pixels) {
  switch (dtype) {
    case DType::bfloat16: return stage_as<BFloat16>(source, n, region, first, channels, pixels);
    case DType::float16: return stage_as<Float16>(source, n, region, first, channels, pixels);
    default: return stage_as<float>(source, n, region, first, channels, pixels);
  }
}

void unstage(const float* pixels, int64_t channels, Region region, int64_t n, DType dtype, const Image& image) {
  switch (dtype) {
    case DType::bfloat16: return unstage_as<BFloat16>(pixels, channels, region, n, image);
    case DType::float16: return unstage_as<Float16>(pixels, channels, region, n, image);
    default: return unstage_as<float>(pixels, channels, region, n, image);
  }
}

}  // namespace

template <>
const StagingKernels& compiled<StagingKernels, kCompiledIsa>() {
  static constexpr StagingKernels kernels = {stage, unstage};
  return kernels;
}

}  // namespace tmc
