// What sm_90a (H100, H200) adds to cuda/machine/primitives.h: barriers that count bytes, and copies of whole tiles by
// the tensor memory accelerator (TMA). Again for the GPU and emulated. The matrix product is in cuda/machine/wgmma.h.
//
// A tile in shared memory consists of lines of 128 bytes. The 16-byte chunks of line i are permuted by XOR with i % 8
// ("128-byte swizzle"): TMA writes them so, wgmma reads them so, and the eight lines that are read together lie in
// different banks. A tile begins at a multiple of kTileAlignment, since the permutation is one of address bits.
#pragma once
#include "cuda/machine/primitives.h"

namespace tmc {

constexpr int kLineBytes = 128, kTileAlignment = 1024;
constexpr int kWarpgroupThreads = 128;

// The elements of a line, and a matrix of lines: element (row, plane, column) stands at
// data + (row * planes + plane) * columns + column.
template <class T>
constexpr int kLineElements = kLineBytes / sizeof(T);
struct LineMatrix {
  const void* data;
  int64_t columns, planes, rows;
};

// Where an operand of wgmma lies: in a tile of lines. The PTX ISA calls it a matrix descriptor: address, distance of
// the next tile where a line holds 64 of more columns ("leading"), distance of 8 lines ("stride"), each in 16 bytes,
// and 1 for this swizzle. `address` is one of shared memory.
HOST_DEVICE uint64_t wgmma_operand(unsigned address, int tile_bytes) {
  constexpr uint64_t kEightLines = 8 * kLineBytes / 16, kSwizzle128 = 1;
  return uint64_t{address >> 4} | static_cast<uint64_t>(tile_bytes >> 4) << 16 | kEightLines << 32 | kSwizzle128 << 62;
}
// The operand `bytes` further: 32 along a line, or a number of lines.
HOST_DEVICE uint64_t advanced(uint64_t operand, int bytes) {
  return operand + (bytes >> 4);
}

// A channels_last image, and the pixels that a convolution's tap 0, 0 reads for its outputs: count_h x count_w of every
// sample, the first at first_h, first_w (which may lie outside), step_h, step_w apart.
struct PixelGrid {
  const void* data;
  int64_t channels, w, h, n;
  int count_h, count_w, first_h, first_w, step_h, step_w;
};

// The same as TMA takes it: how far the first pixels lie from the image's first, and the last ones from its last. The
// width comes first, as in CUTLASS.
struct PixelCorners {
  int low[2], high[2];
};
inline PixelCorners corners_of(const PixelGrid& grid) {
  return {{grid.first_w, grid.first_h},
          {grid.first_w + (grid.count_w - 1) * grid.step_w - static_cast<int>(grid.w) + 1,
           grid.first_h + (grid.count_h - 1) * grid.step_h - static_cast<int>(grid.h) + 1}};
}

}  // namespace tmc

#if defined(__CUDACC__)

#include <cuda.h>

namespace tmc {

// True in the pass of the compiler that knows these instructions; kernels are empty in the others.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kIsHopper = true;
#else
constexpr bool kIsHopper = false;
#endif

// Whether the library has machine code of them: setup.py takes 9.0 for 9.0a.
constexpr bool compiled_for_hopper() {
  constexpr int kArchs[] = {__CUDA_ARCH_LIST__};
  for (const int arch : kArchs)
    if (arch == 900) return true;
  return false;
}

// The current device's multiprocessors.
inline int multiprocessors() {
  int device = 0, count = static_cast<int>(kMultiprocessors);
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

// A launch with up to 227 KB of shared memory, which tile_aligned_shared_memory() returns.
template <class... Arguments>
void launch_on_hopper(Arguments&&... arguments) {
  launch_with_shared_memory(std::forward<Arguments>(arguments)...);
}
__device__ __forceinline__ char* tile_aligned_shared_memory() {
  extern __shared__ __align__(1024) char tiles[];
  return tiles;
}

// ---- Tensor maps: how TMA finds a tile. Made on the host by the driver, which is asked for by name, so that the
// library loads on machines without one.

using TensorMap = CUtensorMap;

template <class Encode>
Encode driver_function(const char* name) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found;
  constexpr unsigned kCudaVersion = 12000;  // of the function's signature
  if (cudaGetDriverEntryPointByVersion(name, &address, kCudaVersion, cudaEnableDefault, &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess)
    fail("conv2d: the CUDA driver has no %s", name);
  return reinterpret_cast<Encode>(address);
}

// Float is rounded to TF32 on the way.
template <class T>
constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
template <>
inline constexpr CUtensorMapDataType kMapType<bfloat16> = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
template <>
inline constexpr CUtensorMapDataType kMapType<float16> = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;

inline void check_encoded(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) fail("conv2d: the CUDA driver refused a tensor map of %s, error %d", what, int(result));
}

// Boxes of a line from each of `box_rows` rows. Beyond the matrix there are zeros.
template <class T>
TensorMap line_map(const LineMatrix& matrix, int box_rows) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  const cuuint64_t extents[] = {cuuint64_t(matrix.columns), cuuint64_t(matrix.planes), cuuint64_t(matrix.rows)};
  const cuuint64_t strides[] = {extents[0] * sizeof(T), extents[0] * extents[1] * sizeof(T)};
  const cuuint32_t box[] = {kLineElements<T>, 1, cuuint32_t(box_rows)}, steps[] = {1, 1, 1};
  TensorMap map;
  check_encoded(encode(&map, kMapType<T>, 3, const_cast<void*>(matrix.data), extents, strides, box, steps,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
                "a matrix");
  return map;
}

// Boxes of a line from each of `box_pixels` pixels that follow one another in the grid, row after row and sample after
// sample ("im2col mode"). Outside the image, and behind the last sample, there are zeros.
template <class T>
TensorMap pixel_map(const PixelGrid& grid, int box_pixels) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  const cuuint64_t extents[] = {cuuint64_t(grid.channels), cuuint64_t(grid.w), cuuint64_t(grid.h), cuuint64_t(grid.n)};
  const cuuint64_t pixel = extents[0] * sizeof(T),
                   strides[] = {pixel, pixel * extents[1], pixel * extents[1] * extents[2]};
  const PixelCorners corners = corners_of(grid);
  const cuuint32_t steps[] = {1, cuuint32_t(grid.step_w), cuuint32_t(grid.step_h), 1};
  TensorMap map;
  check_encoded(
      encode(&map, kMapType<T>, 4, const_cast<void*>(grid.data), extents, strides, corners.low, corners.high,
             kLineElements<T>, cuuint32_t(box_pixels), steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
      "an image");
  return map;
}

// ---- Barriers in shared memory. A phase of a barrier ends when all arrivals and all expected bytes have come; the
// first one has parity 0.

struct alignas(8) Barrier {
  uint64_t bits;
};

__device__ __forceinline__ void init_barrier(Barrier& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}
// After init_barrier and before the block's barrier: TMA, too, then sees what was initialised.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void arrive(Barrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}
__device__ __forceinline__ void arrive_expecting(Barrier& barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes)
               : "memory");
}
// Waits for the end of the phase of this parity; of the phase before the first one it does not wait.
__device__ __forceinline__ void wait_for_phase(Barrier& barrier, int parity) {
  unsigned ended = 0;
  while (ended == 0)
    asm volatile(
        "{\n.reg .pred ended;\nmbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\nselp.u32 %0, 1, 0, ended;\n}"
        : "=r"(ended)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
}

// `threads` threads wait for one another; number 0 is __syncthreads().
__device__ __forceinline__ void wait_for_threads(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// How many registers a thread of this warpgroup has from here on; the block's warpgroups share what it was started
// with.
template <int kCount>
__device__ __forceinline__ void give_up_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// ---- Copies by TMA, started by one thread; they complete bytes at `barrier`.

// The box at (column, plane, row) of a line_map.
__device__ __forceinline__ void copy_lines(void* tile, const TensorMap& map, Barrier& barrier, int column, int plane,
                                           int row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(tile)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(column), "r"(plane), "r"(row)
      : "memory");
}
// The box of a pixel_map that begins at pixel (n, h, w) of the grid, read at the place shifted by (shift_h, shift_w).
__device__ __forceinline__ void copy_pixels(void* tile, const TensorMap& map, Barrier& barrier, int channel, int w,
                                            int h, int n, int shift_w, int shift_h) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(tile)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(channel), "r"(w), "r"(h), "r"(n), "h"(static_cast<short>(shift_w)),
      "h"(static_cast<short>(shift_h))
      : "memory");
}

// Four 8 x 8 matrices of 16-bit elements, held as load_matrices returns them, written transposed: lane l gives the
// address of column l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrices_transposed(void* column, const uint32_t (&m)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(column)),
               "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3])
               : "memory");
}

}  // namespace tmc

#else

#include "emulated_hopper.h"

#endif
