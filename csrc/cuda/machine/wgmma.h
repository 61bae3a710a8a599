// wgmma, the matrix product of a warpgroup (4 warps), in PTX:
//
//   sums[64 x N] += a[64 x depth] b[depth x N]       depth = 32 bytes: 16 half, 8 tf32 elements; N = 256 or 128
//
// Both operands lie in shared memory and are described by 64 bits (wgmma_operand). The instruction is asynchronous: the
// sums belong to it from begin_products() until wait_for_products(). Thread t of the warpgroup holds the sums of row (t
// / 32) * 16 + t % 32 / 4 and of the eighth row below. In the first, columns 8 j + t % 4 * 2 and the next are sums[4 j]
// and sums[4 j + 1]; in the second, sums[4 j + 2] and sums[4 j + 3]. PTX ISA, "Register Fragments and Shared Memory
// Matrix Layouts".
#pragma once
#include "cuda/machine/hopper.h"

#if defined(__CUDACC__)  // else emulated_hopper.h, which cuda/machine/hopper.h includes

namespace tmc {

// Before the first product, and after other code has written to sums.
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Closes a group of products; wait_for_products waits for all but the last kPending groups.
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Tells the compiler that sums change here: between a wait and the code that reads them.
template <int kCount>
__device__ __forceinline__ void products_are_done(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

__device__ __forceinline__ uint64_t operand_of(const void* tile, int tile_bytes) {
  return wgmma_operand(shared_address(tile), tile_bytes);
}

#define TMC_SUM(i) "+f"(sums[i])
#define TMC_SUMS_4(i) TMC_SUM(i), TMC_SUM(i + 1), TMC_SUM(i + 2), TMC_SUM(i + 3)
#define TMC_SUMS_16(i) TMC_SUMS_4(i), TMC_SUMS_4(i + 4), TMC_SUMS_4(i + 8), TMC_SUMS_4(i + 12)
#define TMC_SUMS_64(i) TMC_SUMS_16(i), TMC_SUMS_16(i + 16), TMC_SUMS_16(i + 32), TMC_SUMS_16(i + 48)

#define TMC_NAMES_64                                                                 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TMC_NAMES_128                                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// `scales`: both operands as they are; for half types also whether their lines run along rows or columns of the result.
#define TMC_WGMMA_128(types, scales)                                                                    \
  asm volatile("{\n.reg .pred add;\nsetp.eq.u32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n128" types \
               " {" TMC_NAMES_64 "}, %64, %65, add, " scales ";\n}"                                     \
               : TMC_SUMS_64(0)                                                                         \
               : "l"(a), "l"(b)                                                                         \
               : "memory")
#define TMC_WGMMA_256(types, scales)                                                                    \
  asm volatile("{\n.reg .pred add;\nsetp.eq.u32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n256" types \
               " {" TMC_NAMES_128 "}, %128, %129, add, " scales ";\n}"                                  \
               : TMC_SUMS_64(0), TMC_SUMS_64(64)                                                        \
               : "l"(a), "l"(b)                                                                         \
               : "memory")

// kDepthOuter: a line of the tiles is 64 rows (of a) or columns (of b) at one depth; otherwise it runs along the depth.
#define TMC_MULTIPLY_ADD(T, columns, registers, types)                                                \
  template <bool kDepthOuter>                                                                         \
  __device__ __forceinline__ void multiply_add(T, float (&sums)[registers], uint64_t a, uint64_t b) { \
    if constexpr (kDepthOuter)                                                                        \
      TMC_WGMMA_##columns(types, "1, 1, 1, 1");                                                       \
    else                                                                                              \
      TMC_WGMMA_##columns(types, "1, 1, 0, 0");                                                       \
  }
TMC_MULTIPLY_ADD(bfloat16, 128, 64, "k16.f32.bf16.bf16")
TMC_MULTIPLY_ADD(bfloat16, 256, 128, "k16.f32.bf16.bf16")
TMC_MULTIPLY_ADD(float16, 128, 64, "k16.f32.f16.f16")
TMC_MULTIPLY_ADD(float16, 256, 128, "k16.f32.f16.f16")

// tf32 has only lines along the depth.
template <bool kDepthOuter>
__device__ __forceinline__ void multiply_add(float, float (&sums)[64], uint64_t a, uint64_t b) {
  static_assert(!kDepthOuter);
  TMC_WGMMA_128("k8.f32.tf32.tf32", "1, 1");
}
template <bool kDepthOuter>
__device__ __forceinline__ void multiply_add(float, float (&sums)[128], uint64_t a, uint64_t b) {
  static_assert(!kDepthOuter);
  TMC_WGMMA_256("k8.f32.tf32.tf32", "1, 1");
}

}  // namespace tmc

#endif
