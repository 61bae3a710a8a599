// What reads winners beside the gradient: the input at the winners (eq. 10, for second derivatives), and torch's
// indices. Bound: memory. A training step needs neither.
#include <cmath>

#include "cuda/pool2d/choice.h"

namespace tmc {
namespace {

// Does the window of output (p, q) hold any input? A dilated one may step over all of it.
template <class Integer>
__device__ bool has_input(const PoolShapeOf<Integer>& shape, index_t<Integer> p, index_t<Integer> q) {
  const auto rows = window(shape.h, p), columns = window(shape.w, q);
  return rows.begin < rows.end && columns.begin < columns.end;
}

// Thread i owns output[i] = the input at winners[i].
template <class T, class W, class Integer>
__global__ void __launch_bounds__(kElementThreads)
    max_pool2d_select_kernel(const PoolProblem<Integer> problem, const T* __restrict__ input,
                             const W* __restrict__ winners, T* __restrict__ output) {
  using Index = index_t<Integer>;
  const Index i = static_cast<Index>(thread_index());
  if (i >= problem.tiles) return;
  const auto& shape = problem.shape;
  const PoolTile<Index> at = tile_at<Channels<1>>(problem, i);
  const Index winner = winners[i];
  if (!is_valid_winner(shape, winner, at.row, at.column)) {
    output[i] = static_cast<T>(has_input(shape, at.row, at.column) ? NAN : 0.0f);
    return;
  }
  const Index position = winner_position(shape, winner, at.row, at.column);
  output[i] = input[at.image * problem.input_image + at.channel + position * problem.channels];
}

// Thread i owns indices[i], the winner's position in its plane.
template <class W, class Integer>
__global__ void __launch_bounds__(kElementThreads)
    max_pool2d_indices_kernel(const PoolProblem<Integer> problem, const W* __restrict__ winners,
                              int64_t* __restrict__ indices) {
  using Index = index_t<Integer>;
  const Index i = static_cast<Index>(thread_index());
  if (i >= problem.tiles) return;
  const auto& shape = problem.shape;
  const PoolTile<Index> at = tile_at<Channels<1>>(problem, i);
  const Index winner = winners[i];
  const bool named = is_valid_winner(shape, winner, at.row, at.column) || !has_input(shape, at.row, at.column);
  indices[i] = named ? winner_position(shape, winner, at.row, at.column) : -1;
}

template <class Body>
void dispatch_winners(const PoolShape& shape, Body body) {
  choose_plain<PoolResult::output>(shape, [&](auto, auto, const auto& problem) {
    if (window_taps(shape) <= kMaxByteTaps) return body(uint8_t{}, problem);
    body(int32_t{}, problem);
  });
}

}  // namespace

void launch_max_pool2d_select(DType dtype, const PoolShape& shape, bool channels_last, const void* input,
                              const void* winners, void* output, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    dispatch_winners(folded(shape, channels_last), [&](auto winner_type, const auto& problem) {
      using W = decltype(winner_type);
      launch(max_pool2d_select_kernel<T, W, decltype(problem.columns)>, grid_of_elements(problem.tiles),
             kElementThreads, stream, problem, static_cast<const T*>(input), static_cast<const W*>(winners),
             static_cast<T*>(output));
    });
  });
}

void launch_max_pool2d_indices(const PoolShape& shape, bool channels_last, const void* winners, int64_t* indices,
                               void* stream) {
  dispatch_winners(folded(shape, channels_last), [&](auto winner_type, const auto& problem) {
    using W = decltype(winner_type);
    launch(max_pool2d_indices_kernel<W, decltype(problem.columns)>, grid_of_elements(problem.tiles), kElementThreads,
           stream, problem, static_cast<const W*>(winners), indices);
  });
}

}  // namespace tmc
