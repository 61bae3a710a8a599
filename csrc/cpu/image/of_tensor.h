// The image that a tensor of four dimensions holds. For sources that are compiled once.
#pragma once
#include "cpu/image/image.h"
#include "tensor.h"

namespace tmc {

inline Image image_at(void* data, const Tensor& tensor) {
  return {static_cast<char*>(data), static_cast<int64_t>(tensor.element_size()),
          tensor.size(0),           tensor.size(1),
          tensor.size(2),           tensor.size(3),
          tensor.stride(0),         tensor.stride(1),
          tensor.stride(2),         tensor.stride(3)};
}

// To be read only.
inline Image image_of(const Tensor& tensor) {
  return image_at(const_cast<void*>(tensor.const_data_ptr()), tensor);
}
inline Image mutable_image_of(Tensor& tensor) {
  return image_at(tensor.mutable_data_ptr(), tensor);
}

}  // namespace tmc
