// The gradient of max pooling: each output's gradient is added where its winner stands, in the order of the outputs.
// That is one step for an output, where a gather (cpu/pool2d/max_gradient.h, cpu/pool2d/strips.h) asks every window
// that covers a position, in vectors: cpu/pool2d/cut.h says which is faster when. A task owns whole planes, so sums
// have one order and no other writer. Bound: the additions, one at a time; then memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/rows.h"

namespace tmc {
namespace {

// The rows or columns of outputs whose windows hold any input.
inline Range with_input(const Window* windows, int64_t out) {
  Range range{0, out};
  while (range.begin < out && windows[range.begin].begin == windows[range.begin].end) ++range.begin;
  while (range.end > range.begin && windows[range.end - 1].begin == windows[range.end - 1].end) --range.end;
  return range;
}

// The place of a winner from the start of its window, in positions.
template <class Winner>
inline int64_t offset_of(const PoolPlan& plan, Winner winner) {
  if constexpr (sizeof(Winner) == 1) return plan.offsets[winner];
  const PoolShape& shape = plan.shape;
  return winner / shape.w.kernel * shape.h.dilation * shape.w.in + winner % shape.w.kernel * shape.w.dilation;
}

// Where windows do not overlap, a sum has one summand: it is written as it is, and needs neither the old value nor, in
// half precision, rounding.
template <bool kOverlapping, class T, class Sum>
inline void add_to(T gradient, Sum& sum) {
  if constexpr (kOverlapping) {
    accumulate_t<T> wide;
    convert(gradient, wide);
    sum += wide;
  } else {
    sum = gradient;
  }
}

// eq. 8 for one plane, into `sums`: T or, where windows overlap, the precision of sums.
template <bool kOverlapping, class T, class Sum, class Winner>
inline void scatter_plane(const PoolPlan& plan, Range rows, Range columns, const T* grad_output, const Winner* winners,
                          Sum* sums) {
  const PoolShape& shape = plan.shape;
  const int64_t inner = plan.channels_last ? shape.c : 1, row = shape.w.in * inner;
  const Window* window = plan.columns;
  int64_t zeroed = 0;
  const auto zero_rows = [&](int64_t end) {
    if (end <= zeroed) return;
    if (shape.h.in * row * static_cast<int64_t>(sizeof(Sum)) <= kSmallPlane) end = shape.h.in;
    __builtin_memset(sums + zeroed * row, 0, (end - zeroed) * row * sizeof(Sum));
    zeroed = end;
  };
  for (int64_t p = rows.begin; p < rows.end; ++p) {
    const Window taps = plan.rows[p];
    zero_rows(taps.start + (taps.end - 1) * shape.h.dilation + 1);  // just ahead: still in cache when added to
    const T* gradient = grad_output + p * shape.w.out * inner;
    const Winner* winner = winners + p * shape.w.out * inner;
    Sum* first = sums + taps.start * row;
    if (inner == 1) {
      for (int64_t q = columns.begin; q < columns.end; ++q)
        add_to<kOverlapping>(gradient[q], first[window[q].start + offset_of(plan, winner[q])]);
      continue;
    }
    for (int64_t q = columns.begin; q < columns.end; ++q)
      for (int64_t c = 0; c < inner; ++c)
        add_to<kOverlapping>(gradient[q * inner + c],
                             first[(window[q].start + offset_of(plan, winner[q * inner + c])) * inner + c]);
  }
  zero_rows(shape.h.in);
}

// Where the winners of `size` windows stand, given where the windows start: vector code, with a multiplication for the
// quotient by the window's width, exact for bytes and widths of up to 256.
template <class Winner>
inline void list_places(const PoolPlan& plan, const Winner* winners, int64_t size, const int32_t* starts,
                        int32_t* places) {
  if constexpr (sizeof(Winner) == 1) {
    const PoolAxis &h = plan.shape.h, &w = plan.shape.w;
    const int32_t reciprocal = static_cast<int32_t>(65536 / w.kernel + 1), step = static_cast<int32_t>(w.dilation);
    const int32_t next_row = static_cast<int32_t>(h.dilation * w.in - w.kernel * w.dilation);
    for (int64_t i = 0; i < size; ++i)
      places[i] = starts[i] + winners[i] * step + (winners[i] * reciprocal >> 16) * next_row;
  } else {
    for (int64_t i = 0; i < size; ++i) places[i] = starts[i] + static_cast<int32_t>(offset_of(plan, winners[i]));
  }
}

// The same for `size` outputs of small planes, which hold `inputs` positions together.
template <bool kOverlapping, class T, class Sum, class Winner>
inline void scatter_small_planes(const PoolPlan& plan, int64_t size, int64_t inputs, const T* grad_output,
                                 const Winner* winners, Sum* sums) {
  constexpr int64_t kListed = 256;
  int32_t places[kListed];
  __builtin_memset(sums, 0, inputs * sizeof(Sum));
  for (int64_t first = 0; first < size; first += kListed) {
    const int64_t count = size - first < kListed ? size - first : kListed;
    list_places(plan, winners + first, count, plan.starts + first, places);
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; ++i) add_to<kOverlapping>(grad_output[first + i], sums[places[i]]);
  }
}

// A task's planes are small ones, or a single one.
template <class T, class Winner>
KERNEL void scatter_task(const PoolPlan& given, int64_t task, char* scratch) {
  using Real = accumulate_t<T>;
  const PoolPlan plan = given;  // a copy that no sum written can be thought to change
  const PoolPart part = part_of(plan, task);
  const Range rows = with_input(plan.rows, plan.shape.h.out), columns = with_input(plan.columns, plan.shape.w.out);
  const int64_t inner = plan.channels_last ? plan.shape.c : 1;
  const int64_t in = plan.shape.h.in * plan.shape.w.in * inner, out = plan.shape.h.out * plan.shape.w.out * inner;
  const T* grad_output = static_cast<const T*>(plan.source) + part.first_plane * out;
  const Winner* winners = static_cast<const Winner*>(plan.winners) + part.first_plane * out;
  T* grad_input = static_cast<T*>(plan.result) + part.first_plane * in;
  const auto scatter = [&]<bool kOverlapping>(auto* sums) {
    if (plan.starts != nullptr) {
      scatter_small_planes<kOverlapping>(plan, part.planes * out, part.planes * in, grad_output, winners, sums);
    } else {
      scatter_plane<kOverlapping>(plan, rows, columns, grad_output, winners, sums);
    }
  };
  if (!plan.overlapping) {
    scatter.template operator()<false>(grad_input);
  } else if constexpr (sizeof(T) == sizeof(Real)) {
    scatter.template operator()<true>(grad_input);
  } else {
    Real* sums = reinterpret_cast<Real*>(scratch);
    scatter.template operator()<true>(sums);
    narrow_row(sums, grad_input, part.planes * in);
  }
}

}  // namespace
}  // namespace tmc
