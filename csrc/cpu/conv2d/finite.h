// Whether all values are finite: in none of them, all bits of the exponent are set. For sources that are compiled once.
#pragma once
#include <cstring>

#include "cpu/conv2d/core.h"

namespace tmc {

template <class Bits>
bool all_finite(const void* data, int64_t count, Bits exponent) {
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, static_cast<const char*>(data) + i * sizeof bits, sizeof bits);
    finite &= (bits & exponent) != exponent;
  }
  return finite;
}

inline bool all_finite(DType dtype, const void* data, int64_t count) {
  switch (dtype) {
    case DType::float64: return all_finite<uint64_t>(data, count, 0x7FF0000000000000);
    case DType::float32: return all_finite<uint32_t>(data, count, 0x7F800000);
    case DType::bfloat16: return all_finite<uint16_t>(data, count, 0x7F80);
    default: return all_finite<uint16_t>(data, count, 0x7C00);
  }
}
inline bool all_finite(const Tensor& tensor) {
  return all_finite(dtype_of(tensor), tensor.const_data_ptr(), tensor.numel());
}

}  // namespace tmc
