// Average and sum pooling on the GPU (eq. 7 and 9). The thread that owns a result gathers it. Half types are summed in
// float. Bound: memory.
#include "cuda/machine/quotient.cuh"
#include "cuda/pool2d/choice.h"

namespace tmc {
namespace {

// A thread owns the lanes of output (p, q).
template <class T, class Lanes, class Windows>
__global__ void __launch_bounds__(kElementThreads, kResidentBlocks<Lanes, Windows>)
    avg_pool2d_kernel(const PoolProblem<typename Windows::Integer> problem, const AverageRule rule,
                      const T* __restrict__ input, T* __restrict__ output) {
  using Index = typename Windows::Index;
  using acc_t = accumulate_t<T>;
  constexpr int kLanes = Lanes::kLanes;
  const Index i = tile_number<Windows>();
  if (i >= problem.tiles) return;
  const PoolTile<Index> at = tile_at<Lanes>(problem, i);
  const T* input_n = input + at.image * problem.input_image + at.channel;

  acc_t sum[kLanes] = {};
  Windows::taps(problem.shape, at.row, at.column, [&](Index h, Index w, bool inside) {
    const auto values = Lanes::load_or_zero(inside, input_n + problem.input_offset(h, w), problem.input_image);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += static_cast<acc_t>(values.lanes[lane]);
  });

  const Quotient<T> quotient(average_divisor(Windows::known(problem.shape), rule, at.row, at.column));
  Vector<T, kLanes> result;
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) result.lanes[lane] = static_cast<T>(quotient.of(sum[lane]));
  T* output_n = output + at.image * problem.output_image + at.channel;
  Lanes::store(output_n + problem.output_offset(at.row, at.column), problem.output_image, result);
}

// A thread owns the lanes of a block of pixels and visits every window that contains one of them.
template <class T, class Lanes, class Windows>
__global__ void __launch_bounds__(kElementThreads, kResidentBlocks<Lanes, Windows>)
    avg_pool2d_grad_input_kernel(const PoolProblem<typename Windows::Integer> problem, const AverageRule rule,
                                 const T* __restrict__ grad_output, T* __restrict__ grad_input) {
  using Index = typename Windows::Index;
  using acc_t = accumulate_t<T>;
  constexpr int kBlock = Windows::kBlock, kLanes = Lanes::kLanes;
  const Index i = tile_number<Windows>();
  if (i >= problem.tiles) return;
  const auto& shape = problem.shape;
  const PoolTile<Index> at = tile_at<Lanes>(problem, i);
  const T* grad_output_n = grad_output + at.image * problem.output_image + at.channel;

  acc_t sum[kBlock][kBlock][kLanes] = {};
  Windows::windows(shape, at, [&](Index p, Index q, bool inside, Index top, Index left) {
    const auto gradients =
        Lanes::load_or_zero(inside, grad_output_n + problem.output_offset(p, q), problem.output_image);
    const Quotient<T> quotient(average_divisor(Windows::known(shape), rule, p, q));
    acc_t shares[kLanes];
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) shares[lane] = quotient.of(static_cast<acc_t>(gradients.lanes[lane]));
#pragma unroll
    for (int a = 0; a < kBlock; ++a)
#pragma unroll
      for (int b = 0; b < kBlock; ++b) {
        if (Windows::tap_of(shape, top + a, left + b) < 0) continue;
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) sum[a][b][lane] += shares[lane];
      }
  });
  store_block<Windows, Lanes>(problem, at, sum, grad_input);
}

}  // namespace

void launch_avg_pool2d(DType dtype, const PoolShape& shape, bool channels_last, const AverageRule& rule,
                       const void* input, void* output, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    choose<PoolResult::output, T>(
        folded(shape, channels_last), are_aligned({input, output}), [&](auto lanes, auto windows, const auto& problem) {
          launch(avg_pool2d_kernel<T, decltype(lanes), decltype(windows)>, grid_of_elements(problem.tiles),
                 kElementThreads, stream, problem, rule, static_cast<const T*>(input), static_cast<T*>(output));
        });
  });
}

void launch_avg_pool2d_grad_input(DType dtype, const PoolShape& shape, bool channels_last, const AverageRule& rule,
                                  const void* grad_output, void* grad_input, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    choose<PoolResult::input, T>(folded(shape, channels_last), are_aligned({grad_output, grad_input}),
                                 [&](auto lanes, auto windows, const auto& problem) {
                                   launch(avg_pool2d_grad_input_kernel<T, decltype(lanes), decltype(windows)>,
                                          grid_of_elements(problem.tiles), kElementThreads, stream, problem, rule,
                                          static_cast<const T*>(grad_output), static_cast<T*>(grad_input));
                                 });
  });
}

}  // namespace tmc
