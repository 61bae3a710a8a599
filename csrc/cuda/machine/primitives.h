// Room machine: what kernels take from the GPU, and nothing of any operator.
//
// This file has memory, launches, asynchronous copies and tensor cores (mma.sync). hopper.h and wgmma.h add what sm_90a
// has. layout.h, vector.h, divisor.h and quotient.cuh are index maths and vectors; launch.h numbers blocks and threads;
// transpose.cu changes between contiguous and channels_last.
//
// All PTX is in primitives.h, hopper.h and wgmma.h, and each function in them exists twice: for the GPU, and emulated,
// so that the same kernel source runs on a CPU (tests/cuda/cuda_harness) and is tested without a GPU. No other file
// knows which one it is.
//
// What bounds a kernel here: only the transposition is one, and it is bound by memory.
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

// What a grid should fill: an H100's. A constant, not the GPU at hand, since the bits of a sum that is cut into parts
// depend on their number.
constexpr int64_t kMultiprocessors = 132;

// The results of one launch whose indices have 32 bits.
constexpr int64_t kMaxLaunchResults = INT32_MAX;

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

// The bytes that launch_with_shared_memory gave the block, uninitialised.
__device__ __forceinline__ char* dynamic_shared_memory() {
  extern __shared__ __align__(128) char bytes[];
  return bytes;
}

// kernel<<<grid, threads, 0, stream>>>(arguments...). The caller checks cudaGetLastError.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, void* stream, Arguments&&... arguments) {
  kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(std::forward<Arguments>(arguments)...);
}

// The same with `bytes` of dynamic shared memory; above 48 KB a kernel must ask for them by name.
template <class... Parameters, class... Arguments>
void launch_with_shared_memory(void (*kernel)(Parameters...), dim3 grid, unsigned threads, int bytes, void* stream,
                               Arguments&&... arguments) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<grid, threads, bytes, static_cast<cudaStream_t>(stream)>>>(std::forward<Arguments>(arguments)...);
}

// ---- Tensor cores and asynchronous copies: sm_80 and later. The host asks for them (cuda/conv2d/plan.h) before such a
// launch; for an older architecture the bodies only compile.

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define TMC_SM80_PTX(...) __trap()
#else
#define TMC_SM80_PTX(...) asm volatile(__VA_ARGS__)
#endif

__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Starts to copy 16 bytes from global to shared memory past the registers; writes zeros where !valid. The first goes
// past L1 as well; the second through it, for what the multiprocessor will copy again soon, or 4 or 8 bytes.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  TMC_SM80_PTX("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0) : "memory");
}
template <int kBytes = 16>
__device__ __forceinline__ void copy_async_through_cache(void* shared, const void* global, bool valid) {
  TMC_SM80_PTX("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(kBytes),
               "r"(valid ? kBytes : 0) : "memory");
}
// Closes a group of the thread's copies; wait_for_copies waits until all but its last kPending groups have landed.
__device__ __forceinline__ void commit_copies() {
  TMC_SM80_PTX("cp.async.commit_group;" :: : "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  TMC_SM80_PTX("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements (or 8 x 4 of 32-bit ones): lane l gives the address of row l % 8 of matrix
// l / 8, and gets of every matrix the 32 bits at row l / 4, place l % 4. Transposed: column l / 4, rows 2 (l % 4), + 1.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], const void* row) {
  TMC_SM80_PTX("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]),
               "=r"(m[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&m)[4], const void* row) {
  TMC_SM80_PTX("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(m[0]), "=r"(m[1]),
               "=r"(m[2]), "=r"(m[3]) : "r"(shared_address(row)) : "memory");
}

// sums[16 x 8] += a[16 x depth] b[depth x 8] by one warp, depth = 16 for the half types and 8 for tf32. With g = lane
// / 4 and t = lane % 4 a thread holds sums of (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1), and 32 bits of a at
// rows g, g + 8, g, g + 8 and of b at column g: depth 2t and 2t + 1 (tf32: t), in the second half of the registers
// + 8 (tf32: + 4). PTX ISA, "Matrix Fragments for mma.m16n8k16" and "m16n8k8".
#define TMC_MMA(shape_and_types)                                                                                    \
  TMC_SM80_PTX("mma.sync.aligned." shape_and_types                                                                  \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" : "+f"(sums[0]),                  \
               "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), \
               "r"(b[1]))

__device__ __forceinline__ void multiply_add(bfloat16, float (&sums)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  TMC_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
__device__ __forceinline__ void multiply_add(float16, float (&sums)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  TMC_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
// The operands are tf32: floats of which the 13 lowest bits are not read.
__device__ __forceinline__ void multiply_add(float, float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  TMC_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}

// Rounded to tf32 (a mantissa of 10 bits), to nearest, ties away from zero; NaN stays NaN, and the largest floats
// become infinite.
__device__ __forceinline__ float round_to_tf32(float value) {
  uint32_t bits = 0;
  TMC_SM80_PTX("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}

}  // namespace tmc

#else

#include "emulated_tensor_cores.h"
#include "emulated_types.h"
#include "fibers.h"
#include "recorder.h"

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
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, void* stream, Arguments&&... arguments) {
  recorder::launched(stream);
  fibers::run_grid(grid, threads, 0, [&] { kernel(arguments...); });
}

template <class... Parameters, class... Arguments>
void launch_with_shared_memory(void (*kernel)(Parameters...), dim3 grid, unsigned threads, int bytes, void* stream,
                               Arguments&&... arguments) {
  recorder::launched(stream);
  fibers::run_grid(grid, threads, bytes, [&] { kernel(arguments...); });
}

}  // namespace tmc

#endif
