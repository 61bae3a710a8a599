#include "direct_operands.h"

#include "isa.h"
#include "tasks.h"

namespace tmc::direct {

const DirectKernels& kernels_for_this_cpu() {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return direct_kernels_avx512;
  if (isa() == Isa::avx2) return direct_kernels_avx2;
#endif
  return direct_kernels_base;
}

Tensor float_channels_last(const Tensor& tensor) {
  const DType dtype = dtype_of(tensor);
  if (dtype == DType::float32 && is_channels_last(tensor)) return dense(tensor, true);
  const Image from = read(tensor);
  Tensor copy = empty_nchw(tensor, from.n, from.c, from.h, from.w, true, ScalarType::Float);
  const Image to = write(copy);
  const DirectKernels& kernels = kernels_for_this_cpu();
  // The kernel writes whole vectors of channels.
  if (from.c % kernels.width != 0) {
    torch::stable::copy_(copy, tensor);
    return copy;
  }
  const int64_t rows = from.n * from.h;
  for_each_task(rows, workers_for(rows), [&](int64_t row, int64_t) {
    const int64_t n = row / from.h, h = row % from.h;
    kernels.stage(from, dtype, n, {h, 0, 1, from.w}, from.c,
                  reinterpret_cast<float*>(to.data) + n * to.n_stride + h * to.h_stride);
  });
  return copy;
}

namespace {

// No exponent has all its bits set.
template <class Bits>
bool all_finite(const void* data, int64_t count, Bits exponent) {
  const Bits* const bits = static_cast<const Bits*>(data);
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) finite &= (bits[i] & exponent) != exponent;
  return finite;
}

}  // namespace

bool all_finite(const Tensor& tensor) {
  const void* data = tensor.const_data_ptr();
  switch (dtype_of(tensor)) {
    case DType::float64: return all_finite<uint64_t>(data, tensor.numel(), 0x7FF0000000000000);
    case DType::float32: return all_finite<uint32_t>(data, tensor.numel(), 0x7F800000);
    case DType::bfloat16: return all_finite<uint16_t>(data, tensor.numel(), 0x7F80);
    default: return all_finite<uint16_t>(data, tensor.numel(), 0x7C00);
  }
}

}  // namespace tmc::direct
