// What the CUDA entry points share: from torch's tensors to the launchers' plain pointers.
#pragma once
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>  // STD_CUDA_KERNEL_LAUNCH_CHECK

#include "cuda/machine/transpose.h"
#include "dtype.h"
#include "tensor.h"

namespace tmc {

using torch::stable::accelerator::DeviceGuard;

// The stream that torch is using on the tensor's device.
inline void* current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return stream;
}

// dense() for tensors of 4 dimensions, with a kernel of ours from contiguous to channels_last and back: torch copies in
// the order of one of the two, and its accesses to the other are scattered.
inline Tensor to_layout(const Tensor& tensor, bool channels_last) {
  const bool is_other = is_dense(tensor, !channels_last) && !is_dense(tensor, channels_last);
  if (!is_other || tensor.scalar_type() == ScalarType::Double) return dense(tensor, channels_last);
  const int64_t n = tensor.size(0), c = tensor.size(1), h = tensor.size(2), w = tensor.size(3);
  Tensor result = empty_nchw(tensor, n, c, h, w, channels_last);
  const int64_t element_bytes = tensor.scalar_type() == ScalarType::Float ? 4 : 2;
  launch_transpose(element_bytes, n, channels_last ? c : h * w, channels_last ? h * w : c, tensor.const_data_ptr(),
                   result.mutable_data_ptr(), current_stream(tensor));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

// The tensor itself, or a copy that begins at a multiple of 16 bytes: a view may begin anywhere.
inline Tensor aligned(const Tensor& tensor) {
  constexpr uintptr_t kChunkBytes = 16;
  const bool is_aligned = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kChunkBytes == 0;
  return is_aligned ? tensor : torch::stable::clone(tensor);
}

// Scratch memory beside `like`, from torch's allocator: of the current stream, and of a CUDA graph while one is
// captured.
inline Tensor empty_bytes(const Tensor& like, int64_t bytes) {
  return empty_list(like, bytes, ScalarType::Byte);
}

}  // namespace tmc
