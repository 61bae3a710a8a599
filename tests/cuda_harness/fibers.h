// CUDA without a GPU, for testing: every thread of a block is a fiber on one CPU thread. A kernel's source is compiled
// by g++ with this header in place of CUDA's (csrc/cuda/primitives.h decides), and runs as it would on a GPU, only in
// an order that is chosen to bring out mistakes:
//
//   - shared memory is full of NaN when a block starts;
//   - one random warp at a time runs as far as it can, to its next barrier, before any other moves: data that crosses
//     warps without a barrier is then read too early, or overwritten too soon;
//   - a barrier that not every thread of the block reaches, or at which threads stand in different places of the
//     source, is reported instead of hanging.
//
// What it cannot see: the order of memory operations inside a warp, bank conflicts, speed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

#define __global__
#define __device__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the fiber that is running.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace fibers {

void run_grid(dim3 grid, unsigned threads, const std::function<void()>& kernel);

// The block's shared object; a kernel has one.
void* shared_memory(std::size_t bytes);

void barrier(std::source_location site);

}  // namespace fibers

inline void __syncthreads(std::source_location site = std::source_location::current()) {
  fibers::barrier(site);
}
