// CUDA without a GPU, for testing: every thread of a block is a fiber on one CPU thread. A kernel's source is compiled
// by g++ with this header in place of CUDA's (csrc/cuda/machine/primitives.h decides), and runs as it would on a GPU,
// only in an order that is chosen to bring out mistakes:
//
//   - shared memory is full of NaN when a block starts;
//   - one random warp at a time runs as far as it can, to its next barrier, before any other moves: data that crosses
//     warps without a barrier is then read too early, or overwritten too soon;
//   - a barrier that not every thread of the block reaches, or at which threads stand in different places of the
//     source, is reported instead of hanging; likewise an instruction of a whole warp;
//   - an asynchronous copy lands at once or when it is waited for, at random: data that is read without waiting is
//     then not there yet, and a buffer that is refilled too early is overwritten under its readers.
//
//   - what runs beside the threads (a copy by TMA) is done at a random time, at the latest when no thread can go on
//     without it; threads that wait for ever are reported.
//
// What it cannot see: the order of memory operations inside a warp, bank conflicts other than ldmatrix's, speed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

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

constexpr unsigned kWarp = 32;

// Of dynamic shared memory a block of sm_120 may have 99 KB, the least among the architectures that are built for.
constexpr std::size_t kMaxDynamicSharedBytes = 99 << 10;

// `shared_bytes` of dynamic shared memory for each block, which may not be more than `limit`.
void run_grid(dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& kernel,
              std::size_t limit = kMaxDynamicSharedBytes);

// Called when a block begins, and when its threads have ended.
inline void (*block_begins)() = nullptr;
inline void (*block_ends)() = nullptr;

// The block's shared object; a kernel has one. dynamic_shared_memory() is the one whose size the launch gave.
void* shared_memory(std::size_t bytes);
void* dynamic_shared_memory();

void barrier(std::source_location site);

// An instruction of a whole warp: `act` runs once, when the last lane has come with its arguments.
using WarpArguments = void* [kWarp];
void warp_instruction(const char* name, void* arguments, void (*act)(const WarpArguments& lanes));
void warp_barrier(std::source_location site);

// The thread goes on when the condition holds.
void wait_until(std::function<bool()> condition, std::source_location site);
// Something that runs beside the threads.
void run_later(std::function<void()> work);
// Something that is done at once or later, at random; with seed 0 always later.
bool at_once();
// Notes the place; whether it is the one to leave out, or ("file:line^") the one to do wrongly.
bool is_left_out(std::source_location site);
bool is_done_wrongly(std::source_location site);

// Between pointers and addresses in shared memory. The latter must be `bytes` inside it.
unsigned shared_address(const void* shared);
char* shared_pointer(const char* instruction, unsigned address, std::size_t bytes);

// cp.async: 4, 8 or 16 bytes, or zeros.
void copy_async(void* shared, const void* global, bool valid, std::size_t bytes = 16);
void commit_copies();
void wait_for_copies(std::size_t pending_groups, std::source_location site);

// Reports a mistake of the kernel: the first one counts, and ends the launch.
void fail(const std::string& what);
// ... unless so many aligned bytes from `address` on are inside the block's shared memory.
void check_shared(const char* instruction, const void* address, std::size_t bytes = 16);

}  // namespace fibers

inline void __syncthreads(std::source_location site = std::source_location::current()) {
  fibers::barrier(site);
}
inline void __syncwarp(std::source_location site = std::source_location::current()) {
  fibers::warp_barrier(site);
}
