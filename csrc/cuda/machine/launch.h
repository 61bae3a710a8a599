// How kernels are numbered and launched: one linear index of 64 bits over blocks or threads.
#pragma once
#include <algorithm>

#include "cuda/machine/primitives.h"
#include "dtype.h"

namespace tmc {

// Runs body(T{}) for the C++ type that `dtype` names.
template <class Body>
void dispatch(DType dtype, Body body) {
  switch (dtype) {
    case DType::float64: return body(double{});
    case DType::float32: return body(float{});
    case DType::bfloat16: return body(bfloat16{});
    case DType::float16: return body(float16{});
  }
}

// At least `blocks` blocks: CUDA allows 2^31 - 1 of them along x, 65535 along y, so y is the overflow of x.
inline dim3 grid_of(int64_t blocks) {
  constexpr int64_t kMaxX = int64_t{1} << 30;
  return dim3(static_cast<unsigned>(std::min(blocks, kMaxX)), static_cast<unsigned>(ceil_div(blocks, kMaxX)));
}

__device__ inline int64_t block_index() {
  return int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
}
__device__ inline int64_t thread_index() {
  return block_index() * blockDim.x + threadIdx.x;
}

// A kernel in which each thread owns one element.
constexpr unsigned kElementThreads = 256;
inline dim3 grid_of_elements(int64_t count) {
  return grid_of(ceil_div(count, kElementThreads));
}

}  // namespace tmc
