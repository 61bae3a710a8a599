// Everything a kernel takes from the machine, twice: for the GPU, and emulated so that the same kernel source runs
// on a CPU (tests/cuda_harness), where its logic is tested without a GPU. No other CUDA file knows which one it is.
#pragma once
#include <utility>

#include "common.h"

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace tmc {

using bfloat16 = __nv_bfloat16;
using float16 = __half;

// The block's object of type T in shared memory, uninitialised.
template <class T>
__device__ __forceinline__ T& shared_memory() {
  __shared__ T object;
  return object;
}

// To 2 + 1.173 |x| and 1 units in the last place (CUDA C++ Programming Guide, PTX ISA); infinities and NaN are exact.
__device__ __forceinline__ float approximate_exp(float x) {
  return __expf(x);
}
__device__ __forceinline__ float approximate_reciprocal(float x) {
  float result;
  asm("rcp.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// kernel<<<grid, threads, 0, stream>>>(arguments...). The caller checks cudaGetLastError.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, void* stream, Arguments&&... arguments) {
  kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(std::forward<Arguments>(arguments)...);
}

}  // namespace tmc

#else

#include "emulated_types.h"
#include "fibers.h"

namespace tmc {

// Poisoned with NaN when the block starts, and exactly sizeof(T) long for the address sanitizer to guard.
template <class T>
T& shared_memory() {
  return *static_cast<T*>(fibers::shared_memory(sizeof(T)));
}

inline float approximate_exp(float x) {
  return std::exp(x);
}
inline float approximate_reciprocal(float x) {
  return 1 / x;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, void*, Arguments&&... arguments) {
  fibers::run_grid(grid, threads, [&] { kernel(arguments...); });
}

}  // namespace tmc

#endif
