// Maxima of windows of which the next row of outputs shares half or more: two rows of outputs at a time, so that what
// they share is compared once. For 3 x 3 windows at a stride of 1 that is 12 taps and one comparison of maxima instead
// of 18 taps.
//
// A window is its upper part, then its lower part: torch's scan keeps the first of equal values and the last NaN, so
// the lower part's maximum replaces the upper one's exactly where a tap would (take_if_beats). Bound: instructions,
// five for a tap; then memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/channels.h"

namespace tmc {
namespace {

inline bool shares_half(const PoolAxis& axis) {
  return !is_adaptive(axis) && axis.dilation == 1 && 2 * (axis.kernel - axis.stride) >= axis.kernel;
}

// eq. 6 for output rows `p_range`, an even number of them.
template <class T, class Winner>
KERNEL void max_row_pairs(const PoolPlan& plan, Range p_range, Rows<const T> input, Rows<T> output,
                          Rows<Winner> winners) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolShape shape = plan.shape;
  const int64_t step = shape.w.dilation * input.channels, down = shape.h.stride;
  ReadAhead read_ahead(plan, input, shape.h.kernel + down, p_range.begin, (shape.h.kernel + down) / 2);
  for (int64_t p = p_range.begin; p < p_range.end; p += 2)
    for (int64_t q = 0; q < shape.w.out; ++q) {
      const Window upper = plan.rows[p], lower = plan.rows[p + 1], columns = plan.columns[q];
      const int64_t upper_stop = upper.end < down ? upper.end : down;
      const int64_t lower_stop = upper.end - down > lower.begin ? upper.end - down : lower.begin;
      for_channels<Real>(input.channels, [&]<class, int kVectors>(int64_t c, int64_t count) {
        struct Maxima {
          Lanes<Real> best[kVectors];
          IntegerLanes<Real> winner[kVectors];
        };
        const auto first = [&](const Window& rows) {
          Maxima maxima;
          for (int v = 0; v < kVectors; ++v) {
            maxima.best[v] = Lanes<Real>{} - static_cast<Real>(__builtin_inf());
            maxima.winner[v] =
                IntegerLanes<Real>{} + static_cast<Integer<Real>>(winner_of(shape, rows.begin, columns.begin));
          }
          return maxima;
        };
        const auto scan = [&](int64_t start, int64_t begin, int64_t end, Maxima& maxima) {
          for (int64_t r = begin; r < end; ++r) {
            read_ahead(kVectors * count);
            const T* tap = input.at(start + r, columns.start + columns.begin * shape.w.dilation) + c;
            IntegerLanes<Real> index =
                IntegerLanes<Real>{} + static_cast<Integer<Real>>(winner_of(shape, r, columns.begin));
            for (int64_t s = columns.begin; s < columns.end; ++s, index += 1, tap += step)
              for (int v = 0; v < kVectors; ++v)
                take_if_beats<Real>(load(tap + v * kCount, count), index, maxima.best[v], maxima.winner[v]);
          }
        };
        const auto write = [&](int64_t row, const Maxima& maxima) {
          for (int v = 0; v < kVectors; ++v) {
            store(maxima.best[v], output.at(row, q) + c + v * kCount, count);
            store_winners<Real>(maxima.winner[v], winners.at(row, q) + c + v * kCount, count);
          }
        };
        Maxima shared = first(lower), whole = first(upper);
        scan(lower.start, lower.begin, lower_stop, shared);
        scan(upper.start, upper.begin, upper_stop, whole);
        const Integer<Real> moved = static_cast<Integer<Real>>(winner_of(shape, down, 0));
        for (int v = 0; v < kVectors; ++v)
          take_if_beats<Real>(shared.best[v], shared.winner[v] + moved, whole.best[v], whole.winner[v]);
        write(p, whole);
        scan(lower.start, lower_stop, lower.end, shared);
        write(p + 1, shared);
      });
    }
}

}  // namespace
}  // namespace tmc
