// Kernels that test the harness itself: conversions, numbering, and mistakes that it must report.
#include "cuda/machine/divisor.h"
#include "cuda/machine/launch.h"

namespace tmc {
namespace {

template <class T>
__global__ void convert_kernel(const float* values, T* rounded, float* back, int64_t count) {
  const int64_t i = thread_index();
  if (i >= count) return;
  rounded[i] = static_cast<T>(values[i]);
  back[i] = static_cast<float>(rounded[i]);
}

__global__ void block_index_kernel(int64_t* indices) {
  indices[thread_index()] = block_index();
}

// results: n / d, n % d and ceil(n / d) of each n, one after the other.
__global__ void divide_kernel(Divisor d, const int32_t* n, int32_t* results, int64_t count) {
  const int64_t i = thread_index();
  if (i >= count) return;
  results[i] = n[i] / d;
  results[count + i] = n[i] % d;
  results[2 * count + i] = ceil_div(n[i], d);
}

struct Line {
  float values[64];
};

__global__ void read_unwritten_kernel(float* values) {
  values[threadIdx.x] = shared_memory<Line>().values[threadIdx.x];
}

__global__ void early_exit_kernel(float*) {
  if (threadIdx.x == 7) return;
  __syncthreads();
}

__global__ void divergent_kernel(float*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

}  // namespace

extern "C" {

void selftest_convert(DType dtype, const float* values, void* rounded, float* back, int64_t count) {
  dispatch(dtype, [=](auto type) {
    using T = decltype(type);
    launch(convert_kernel<T>, grid_of_elements(count), kElementThreads, nullptr, values, static_cast<T*>(rounded), back,
           count);
  });
}

void selftest_grid_of(int64_t blocks, int64_t* extents) {
  const dim3 grid = grid_of(blocks);
  extents[0] = grid.x, extents[1] = grid.y;
}
void selftest_block_index(unsigned x, unsigned y, int64_t* indices) {
  launch(block_index_kernel, dim3(x, y), 1, nullptr, indices);
}

void selftest_divide(int64_t d, const int32_t* n, int32_t* results, int64_t count) {
  launch(divide_kernel, grid_of_elements(count), kElementThreads, nullptr, divisor(d), n, results, count);
}

void selftest_read_unwritten(float* values) {
  launch(read_unwritten_kernel, dim3(1), 64, nullptr, values);
}
void selftest_early_exit() {
  launch(early_exit_kernel, dim3(1), 64, nullptr, nullptr);
}
void selftest_divergent() {
  launch(divergent_kernel, dim3(1), 64, nullptr, nullptr);
}
void selftest_bad_launch() {
  launch(early_exit_kernel, dim3(1, 65536), 64, nullptr, nullptr);
}

}  // extern "C"
}  // namespace tmc
