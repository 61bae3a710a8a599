// Max pooling on the GPU (eq. 6 and 8). The gradient needs the winner's tap alone, one byte for each output. It
// gathers: each thread adds up what belongs to its own pixels, so that there are no atomics. Half types are compared
// and summed in float. Bound: memory. A 3 x 3 window, stride 2, in bfloat16 costs about 10 instructions an input (a
// byte compare, an addition and their share of loads), where a GPU issues about 26 in the time of its bytes [counted,
// not measured].
#include <cmath>

#include "cuda/pool2d/choice.h"

namespace tmc {
namespace {

// A thread owns the lanes of output (p, q), and their winners.
template <class T, class W, class Lanes, class Windows>
__global__ void __launch_bounds__(kElementThreads, kResidentBlocks<Lanes, Windows>)
    max_pool2d_kernel(const PoolProblem<typename Windows::Integer> problem, const T* __restrict__ input,
                      T* __restrict__ output, W* __restrict__ winners) {
  using Index = typename Windows::Index;
  using acc_t = accumulate_t<T>;
  constexpr int kLanes = Lanes::kLanes;
  const Index i = tile_number<Windows>();
  if (i >= problem.tiles) return;
  const auto& shape = problem.shape;
  const PoolTile<Index> at = tile_at<Lanes>(problem, i);
  const T* input_n = input + at.image * problem.input_image + at.channel;

  acc_t best[kLanes];
  Index winner[kLanes];
  const auto known = Windows::known(shape);
  const Index first = winner_of(known, window(known.h, at.row).begin, window(known.w, at.column).begin);
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) best[lane] = -INFINITY, winner[lane] = first;

  Windows::nearest_taps(shape, at.row, at.column, [&](Index tap, Index h, Index w) {
    const auto values = Lanes::load(input_n + problem.input_offset(h, w), problem.input_image);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      const acc_t value = static_cast<acc_t>(values.lanes[lane]);
      if (beats(value, best[lane])) best[lane] = value, winner[lane] = tap;
    }
  });

  Vector<T, kLanes> result;
  Vector<W, kLanes> chosen;
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) {
    result.lanes[lane] = static_cast<T>(best[lane]);
    chosen.lanes[lane] = static_cast<W>(winner[lane]);
  }
  const int64_t offset = at.image * problem.output_image + at.channel + problem.output_offset(at.row, at.column);
  Lanes::store(output + offset, problem.output_image, result);
  Lanes::store(winners + offset, problem.output_image, chosen);
}

// A thread owns the lanes of a block of pixels and visits every window that may have chosen one of them.
template <class T, class W, class Lanes, class Windows>
__global__ void __launch_bounds__(kElementThreads, kResidentBlocks<Lanes, Windows>)
    max_pool2d_grad_input_kernel(const PoolProblem<typename Windows::Integer> problem,
                                 const T* __restrict__ grad_output, const W* __restrict__ winners,
                                 T* __restrict__ grad_input) {
  using Index = typename Windows::Index;
  using acc_t = accumulate_t<T>;
  constexpr int kBlock = Windows::kBlock, kLanes = Lanes::kLanes;
  const Index i = tile_number<Windows>();
  if (i >= problem.tiles) return;
  const auto& shape = problem.shape;
  const PoolTile<Index> at = tile_at<Lanes>(problem, i);
  const T* grad_output_n = grad_output + at.image * problem.output_image + at.channel;
  const W* winners_n = winners + at.image * problem.output_image + at.channel;

  acc_t sum[kBlock][kBlock][kLanes] = {};
  Windows::windows(shape, at, [&](Index p, Index q, bool inside, Index top, Index left) {
    const Index offset = problem.output_offset(p, q);
    const auto chosen = Lanes::load(winners_n + offset, problem.output_image);
    const auto gradients = Lanes::load(grad_output_n + offset, problem.output_image);
#pragma unroll
    for (int a = 0; a < kBlock; ++a)
#pragma unroll
      for (int b = 0; b < kBlock; ++b) {
        Index tap = Windows::tap_of(shape, top + a, left + b);
        if (tap < 0) continue;
        if (!inside) tap = -1;
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane)
          if (chosen.lanes[lane] == tap) sum[a][b][lane] += static_cast<acc_t>(gradients.lanes[lane]);
      }
  });
  store_block<Windows, Lanes>(problem, at, sum, grad_input);
}

// Calls body(T, W, lanes, windows, problem) with types and counts as values. Winners for more than 256 taps are rare.
template <PoolResult kResult, class Body>
void dispatch_max(DType dtype, const PoolShape& shape, std::initializer_list<const void*> arrays, const void* winners,
                  Body body) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    if (window_taps(shape) > kMaxByteTaps)
      return choose_plain<kResult>(shape, [&](auto... choice) { body(type, int32_t{}, choice...); });
    const bool aligned = are_aligned(arrays) && is_aligned(winners, kVectorLanes<T>);
    choose<kResult, T>(shape, aligned, [&](auto... choice) { body(type, uint8_t{}, choice...); });
  });
}

}  // namespace

void launch_max_pool2d(DType dtype, const PoolShape& shape, bool channels_last, const void* input, void* output,
                       void* winners, void* stream) {
  dispatch_max<PoolResult::output>(dtype, folded(shape, channels_last), {input, output}, winners,
                                   [&](auto type, auto winner_type, auto lanes, auto windows, const auto& problem) {
                                     using T = decltype(type);
                                     using W = decltype(winner_type);
                                     launch(max_pool2d_kernel<T, W, decltype(lanes), decltype(windows)>,
                                            grid_of_elements(problem.tiles), kElementThreads, stream, problem,
                                            static_cast<const T*>(input), static_cast<T*>(output),
                                            static_cast<W*>(winners));
                                   });
}

void launch_max_pool2d_grad_input(DType dtype, const PoolShape& shape, bool channels_last, const void* grad_output,
                                  const void* winners, void* grad_input, void* stream) {
  dispatch_max<PoolResult::input>(dtype, folded(shape, channels_last), {grad_output, grad_input}, winners,
                                  [&](auto type, auto winner_type, auto lanes, auto windows, const auto& problem) {
                                    using T = decltype(type);
                                    using W = decltype(winner_type);
                                    launch(max_pool2d_grad_input_kernel<T, W, decltype(lanes), decltype(windows)>,
                                           grid_of_elements(problem.tiles), kElementThreads, stream, problem,
                                           static_cast<const T*>(grad_output), static_cast<const W*>(winners),
                                           static_cast<T*>(grad_input));
                                  });
}

}  // namespace tmc
