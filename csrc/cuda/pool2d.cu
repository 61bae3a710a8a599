// Pooling on the GPU (eq. 6-10). Each thread owns one element of the result, in memory order, and gathers what it
// needs: no atomics, so the same bits on every run. Half types are compared and summed in float. Bound: memory.
#include <cmath>

#include "launch.h"
#include "layout.h"
#include "pool2d.h"

namespace tmc {
namespace {

struct PoolProblem {
  PoolShape shape;
  bool channels_last;
  Strides input, output;
};

PoolProblem problem_of(const PoolShape& shape, bool channels_last) {
  return {shape, channels_last, dense_strides(shape.c, shape.h.in, shape.w.in, channels_last),
          dense_strides(shape.c, shape.h.out, shape.w.out, channels_last)};
}

HOST_DEVICE int64_t input_count(const PoolShape& shape) {
  return shape.n * shape.c * shape.h.in * shape.w.in;
}
HOST_DEVICE int64_t output_count(const PoolShape& shape) {
  return shape.n * shape.c * shape.h.out * shape.w.out;
}

__device__ Place output_place(const PoolProblem& problem, int64_t i) {
  return place_of(i, problem.shape.c, problem.shape.h.out, problem.shape.w.out, problem.channels_last);
}
__device__ Place input_place(const PoolProblem& problem, int64_t i) {
  return place_of(i, problem.shape.c, problem.shape.h.in, problem.shape.w.in, problem.channels_last);
}

// Element (n, c, 0, 0) of the tensor with these strides.
__device__ int64_t plane_offset(const Strides& strides, const Place& place) {
  return place.n * strides.n + place.c * strides.c;
}

// Does the window of output `at` hold any input? A dilated one may step over all of it.
__device__ bool has_input(const PoolShape& shape, const Place& at) {
  const Window rows = window(shape.h, at.h), columns = window(shape.w, at.w);
  return rows.begin < rows.end && columns.begin < columns.end;
}

// Blocks of a gradient kernel on one multiprocessor. With five, ptxas's own choice, the divisions that find a window
// spill registers; four leave 64 for each thread.
constexpr int kGradientBlocks = 4;

// ---- Max, eq. 6, 8 and 10.

// Thread i owns output[i] and winners[i].
template <class T, class W>
__global__ void __launch_bounds__(kElementThreads)
    max_pool2d_kernel(const PoolProblem problem, const T* __restrict__ input, T* __restrict__ output,
                      W* __restrict__ winners) {
  using acc_t = accumulate_t<T>;
  const PoolShape& shape = problem.shape;
  const int64_t i = thread_index();
  if (i >= output_count(shape)) return;
  const Place at = output_place(problem, i);
  const Window rows = window(shape.h, at.h), columns = window(shape.w, at.w);
  const T* input_nc = input + plane_offset(problem.input, at);

  acc_t best = -INFINITY;
  int64_t winner = winner_of(shape, rows.begin, columns.begin);
  for (int64_t r = rows.begin; r < rows.end; ++r)
    for (int64_t s = columns.begin; s < columns.end; ++s) {
      const int64_t h = rows.start + r * shape.h.dilation, w = columns.start + s * shape.w.dilation;
      const acc_t value = static_cast<acc_t>(input_nc[h * problem.input.h + w * problem.input.w]);
      if (beats(value, best)) best = value, winner = winner_of(shape, r, s);
    }
  output[i] = static_cast<T>(best);
  winners[i] = static_cast<W>(winner);
}

// Thread i owns grad_input[i] and visits every window that may have chosen it.
template <class T, class W>
__global__ void __launch_bounds__(kElementThreads, kGradientBlocks)
    max_pool2d_grad_input_kernel(const PoolProblem problem, const T* __restrict__ grad_output,
                                 const W* __restrict__ winners, T* __restrict__ grad_input) {
  const PoolShape& shape = problem.shape;
  const int64_t i = thread_index();
  if (i >= input_count(shape)) return;
  const Place at = input_place(problem, i);
  const Covering rows = covering(shape.h, at.h), columns = covering(shape.w, at.w);
  const int64_t plane = plane_offset(problem.output, at);

  accumulate_t<T> sum = 0;
  for (int64_t p = rows.first; p <= rows.last; ++p) {
    const int64_t r = tap_at(shape.h, p, at.h);
    if (r < 0) continue;
#pragma unroll 1
    for (int64_t q = columns.first; q <= columns.last; ++q) {
      const int64_t s = tap_at(shape.w, q, at.w);
      const int64_t offset = plane + p * problem.output.h + q * problem.output.w;
      if (s >= 0 && winners[offset] == winner_of(shape, r, s)) sum += static_cast<accumulate_t<T>>(grad_output[offset]);
    }
  }
  grad_input[i] = static_cast<T>(sum);
}

// Thread i owns output[i] = the input at winners[i].
template <class T, class W>
__global__ void __launch_bounds__(kElementThreads)
    max_pool2d_select_kernel(const PoolProblem problem, const T* __restrict__ input, const W* __restrict__ winners,
                             T* __restrict__ output) {
  const PoolShape& shape = problem.shape;
  const int64_t i = thread_index();
  if (i >= output_count(shape)) return;
  const Place at = output_place(problem, i);
  const int64_t winner = winners[i];
  if (!is_valid_winner(shape, winner, at.h, at.w)) {
    output[i] = static_cast<T>(has_input(shape, at) ? NAN : 0.0f);
    return;
  }
  const int64_t position = winner_position(shape, winner, at.h, at.w);
  output[i] = input[plane_offset(problem.input, at) + position * problem.input.w];
}

// Thread i owns indices[i], the winner's position in its plane.
template <class W>
__global__ void __launch_bounds__(kElementThreads)
    max_pool2d_indices_kernel(const PoolProblem problem, const W* __restrict__ winners, int64_t* __restrict__ indices) {
  const PoolShape& shape = problem.shape;
  const int64_t i = thread_index();
  if (i >= output_count(shape)) return;
  const Place at = output_place(problem, i);
  const int64_t winner = winners[i];
  const bool named = is_valid_winner(shape, winner, at.h, at.w) || !has_input(shape, at);
  indices[i] = named ? winner_position(shape, winner, at.h, at.w) : -1;
}

// ---- Average, eq. 7 and 9.

// Thread i owns output[i].
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    avg_pool2d_kernel(const PoolProblem problem, const AverageRule rule, const T* __restrict__ input,
                      T* __restrict__ output) {
  using acc_t = accumulate_t<T>;
  const PoolShape& shape = problem.shape;
  const int64_t i = thread_index();
  if (i >= output_count(shape)) return;
  const Place at = output_place(problem, i);
  const Window rows = window(shape.h, at.h), columns = window(shape.w, at.w);
  const T* input_nc = input + plane_offset(problem.input, at);

  acc_t sum = 0;
  for (int64_t h = rows.start + rows.begin; h < rows.start + rows.end; ++h)
    for (int64_t w = columns.start + columns.begin; w < columns.start + columns.end; ++w)
      sum += static_cast<acc_t>(input_nc[h * problem.input.h + w * problem.input.w]);
  output[i] = static_cast<T>(sum / static_cast<acc_t>(average_divisor(shape, rule, at.h, at.w)));
}

// Thread i owns grad_input[i] and visits every window that contains it.
template <class T>
__global__ void __launch_bounds__(kElementThreads, kGradientBlocks)
    avg_pool2d_grad_input_kernel(const PoolProblem problem, const AverageRule rule, const T* __restrict__ grad_output,
                                 T* __restrict__ grad_input) {
  using acc_t = accumulate_t<T>;
  const PoolShape& shape = problem.shape;
  const int64_t i = thread_index();
  if (i >= input_count(shape)) return;
  const Place at = input_place(problem, i);
  const Covering rows = covering(shape.h, at.h), columns = covering(shape.w, at.w);
  const T* grad_output_nc = grad_output + plane_offset(problem.output, at);

  acc_t sum = 0;
  for (int64_t p = rows.first; p <= rows.last; ++p)
#pragma unroll 1
    for (int64_t q = columns.first; q <= columns.last; ++q)
      sum += static_cast<acc_t>(grad_output_nc[p * problem.output.h + q * problem.output.w]) /
             static_cast<acc_t>(average_divisor(shape, rule, p, q));
  grad_input[i] = static_cast<T>(sum);
}

template <class Body>
void dispatch_winners(const PoolShape& shape, Body body) {
  if (window_taps(shape) <= kMaxByteTaps) return body(uint8_t{});
  body(int32_t{});
}

}  // namespace

void launch_max_pool2d(Dtype dtype, const PoolShape& shape, bool channels_last, const void* input, void* output,
                       void* winners, void* stream) {
  dispatch(dtype, [&](auto type) {
    dispatch_winners(shape, [&](auto winner_type) {
      using T = decltype(type);
      using W = decltype(winner_type);
      launch(max_pool2d_kernel<T, W>, grid_of_elements(output_count(shape)), kElementThreads, stream,
             problem_of(shape, channels_last), static_cast<const T*>(input), static_cast<T*>(output),
             static_cast<W*>(winners));
    });
  });
}

void launch_max_pool2d_grad_input(Dtype dtype, const PoolShape& shape, bool channels_last, const void* grad_output,
                                  const void* winners, void* grad_input, void* stream) {
  dispatch(dtype, [&](auto type) {
    dispatch_winners(shape, [&](auto winner_type) {
      using T = decltype(type);
      using W = decltype(winner_type);
      launch(max_pool2d_grad_input_kernel<T, W>, grid_of_elements(input_count(shape)), kElementThreads, stream,
             problem_of(shape, channels_last), static_cast<const T*>(grad_output), static_cast<const W*>(winners),
             static_cast<T*>(grad_input));
    });
  });
}

void launch_max_pool2d_select(Dtype dtype, const PoolShape& shape, bool channels_last, const void* input,
                              const void* winners, void* output, void* stream) {
  dispatch(dtype, [&](auto type) {
    dispatch_winners(shape, [&](auto winner_type) {
      using T = decltype(type);
      using W = decltype(winner_type);
      launch(max_pool2d_select_kernel<T, W>, grid_of_elements(output_count(shape)), kElementThreads, stream,
             problem_of(shape, channels_last), static_cast<const T*>(input), static_cast<const W*>(winners),
             static_cast<T*>(output));
    });
  });
}

void launch_max_pool2d_indices(const PoolShape& shape, bool channels_last, const void* winners, int64_t* indices,
                               void* stream) {
  dispatch_winners(shape, [&](auto winner_type) {
    using W = decltype(winner_type);
    launch(max_pool2d_indices_kernel<W>, grid_of_elements(output_count(shape)), kElementThreads, stream,
           problem_of(shape, channels_last), static_cast<const W*>(winners), indices);
  });
}

void launch_avg_pool2d(Dtype dtype, const PoolShape& shape, bool channels_last, const AverageRule& rule,
                       const void* input, void* output, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    launch(avg_pool2d_kernel<T>, grid_of_elements(output_count(shape)), kElementThreads, stream,
           problem_of(shape, channels_last), rule, static_cast<const T*>(input), static_cast<T*>(output));
  });
}

void launch_avg_pool2d_grad_input(Dtype dtype, const PoolShape& shape, bool channels_last, const AverageRule& rule,
                                  const void* grad_output, void* grad_input, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    launch(avg_pool2d_grad_input_kernel<T>, grid_of_elements(input_count(shape)), kElementThreads, stream,
           problem_of(shape, channels_last), rule, static_cast<const T*>(grad_output), static_cast<T*>(grad_input));
  });
}

}  // namespace tmc
