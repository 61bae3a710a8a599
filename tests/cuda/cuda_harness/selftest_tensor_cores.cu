// Kernels that test the emulated tensor cores, matrix loads and asynchronous copies, and the mistakes to report.
#include "cuda/conv2d/parts.h"
#include "cuda/gemm/mma_gemm.cuh"

namespace tmc {
namespace {

// One warp: 4 matrices of 8 rows of 16 bytes, through shared memory, to 4 registers a lane.
__global__ void load_matrices_kernel(const Chunk* rows, bool transposed, uint32_t* registers) {
  Chunk* const shared = reinterpret_cast<Chunk*>(dynamic_shared_memory());
  const int lane = threadIdx.x;
  shared[lane] = rows[lane];
  __syncwarp();
  uint32_t m[4];
  if (transposed)
    load_matrices_transposed(m, shared + lane);
  else
    load_matrices(m, shared + lane);
  for (int i = 0; i < 4; ++i) registers[lane * 4 + i] = m[i];
}

// One warp; the registers of the lanes one after the other.
template <class T>
__global__ void multiply_add_kernel(const uint32_t* a, const uint32_t* b, float* sums) {
  const int lane = threadIdx.x;
  uint32_t rows[4], columns[2];
  for (int i = 0; i < 4; ++i) rows[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) columns[i] = b[lane * 2 + i];
  float results[4];
  for (int i = 0; i < 4; ++i) results[i] = sums[lane * 4 + i];
  multiply_add(T{}, results, rows, columns);
  for (int i = 0; i < 4; ++i) sums[lane * 4 + i] = results[i];
}

// One thread copies two chunks, waits for the first, and reads both.
__global__ void copy_kernel(const Chunk* chunks, Chunk* results) {
  Chunk* const shared = reinterpret_cast<Chunk*>(dynamic_shared_memory());
  copy_async(shared, chunks, true);
  commit_copies();
  copy_async(shared + 1, chunks + 1, true);
  commit_copies();
  copy_async(shared + 2, chunks, false);
  commit_copies();
  wait_for_copies<2>();
  for (int i = 0; i < 3; ++i) results[i] = shared[i];
  wait_for_copies<0>();
  for (int i = 0; i < 3; ++i) results[3 + i] = shared[i];
}

__global__ void split_kernel(const uint32_t* values, uint32_t* hi, uint32_t* lo) {
  uint32_t parts[1][4] = {{values[threadIdx.x], 0, 0, 0}}, rest[1][4];
  split(parts, rest);
  hi[threadIdx.x] = parts[0][0], lo[threadIdx.x] = rest[0][0];
}

__global__ void unwaited_copy_kernel(const Chunk* chunks) {
  copy_async(dynamic_shared_memory(), chunks, true);
}
__global__ void half_a_warp_kernel(float*) {
  float sums[4] = {};
  if (threadIdx.x < 16) multiply_add(float{}, sums, {0, 0, 0, 0}, {0, 0});
}
__global__ void divided_warp_kernel(float*) {
  float sums[4] = {};
  if (threadIdx.x < 16)
    multiply_add(float{}, sums, {0, 0, 0, 0}, {0, 0});
  else
    __syncwarp();
}
// The rows of a matrix `stride` bytes apart, from `begin` on.
__global__ void strided_load_kernel(int begin, int stride) {
  uint32_t m[4];
  load_matrices(m, dynamic_shared_memory() + begin + threadIdx.x * stride);
}

}  // namespace

extern "C" {

void selftest_load_matrices(const void* rows, bool transposed, uint32_t* registers) {
  launch_with_shared_memory(load_matrices_kernel, dim3(1), 32, 512, nullptr, static_cast<const Chunk*>(rows),
                            transposed, registers);
}
void selftest_multiply_add(DType dtype, const uint32_t* a, const uint32_t* b, float* sums) {
  dispatch_mma(dtype,
               [=](auto type) { launch(multiply_add_kernel<decltype(type)>, dim3(1), 32, nullptr, a, b, sums); });
}
void selftest_copy(const void* chunks, void* results) {
  launch_with_shared_memory(copy_kernel, dim3(1), 1, 48, nullptr, static_cast<const Chunk*>(chunks),
                            static_cast<Chunk*>(results));
}
void selftest_split(const uint32_t* values, uint32_t* hi, uint32_t* lo, unsigned count) {
  launch(split_kernel, dim3(1), count, nullptr, values, hi, lo);
}

void selftest_unwaited_copy(const void* chunks) {
  launch_with_shared_memory(unwaited_copy_kernel, dim3(1), 1, 16, nullptr, static_cast<const Chunk*>(chunks));
}
void selftest_half_a_warp() {
  launch(half_a_warp_kernel, dim3(1), 32, nullptr, nullptr);
}
void selftest_divided_warp() {
  launch(divided_warp_kernel, dim3(1), 32, nullptr, nullptr);
}
void selftest_strided_load(int begin, int stride) {
  launch_with_shared_memory(strided_load_kernel, dim3(1), 32, 4096, nullptr, begin, stride);
}
void selftest_too_much_shared_memory() {
  launch_with_shared_memory(strided_load_kernel, dim3(1), 32, 100 << 10, nullptr, 0, 16);
}

// The address functions of shared memory, in chunks of 16 bytes.
int selftest_depth_inner_chunk(int line, int chunk) {
  return depth_inner_chunk(line, chunk);
}
int selftest_depth_outer_chunk(int element_bytes, int line_chunks, int line, int chunk) {
  return depth_outer_chunk(element_bytes, line_chunks, line, chunk);
}

int selftest_staged_element(int columns, int line, int column) {
  return staged_element(columns, line, column);
}

// Rows of the block that is chosen for a product over windows, and its columns.
void selftest_block_of(int rows, int columns, int64_t* extents) {
  dispatch_window_block({.groups = 1, .rows = rows, .columns = columns, .depth = 0, .parts = 1, .part_depth = 0},
                        [&](auto block) {
                          extents[0] = decltype(block)::kRows;
                          extents[1] = decltype(block)::kColumns;
                        });
}

// How a depth is cut: the number of parts, and the depth of each.
void selftest_cut(int depth, int multiple, int tiles, int64_t* cut) {
  const DepthParts parts = cut_depth(depth, multiple, tiles);
  cut[0] = parts.count, cut[1] = parts.depth;
}

}  // extern "C"
}  // namespace tmc
