// Pooling whole contiguous planes: one window, one output for each plane, and no edges. A plane is read in vectors;
// what is left of it, a vector of partial results, is one row of a matrix whose transpose has a plane in each lane.
// Bound: memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/rows.h"

namespace tmc {
namespace {

// The lanes below `count`, for the vector at the end of a plane.
template <class Real>
inline IntegerLanes<Real> lane_numbers() {
  IntegerLanes<Real> numbers;
  for (int64_t lane = 0; lane < kLanes<Real>; ++lane) numbers[lane] = static_cast<Integer<Real>>(lane);
  return numbers;
}

// body(plane, number): kLanes planes from `first` on, of which the last stands in for those beyond the end.
template <class Real, class F>
inline void for_group(const PoolPart& part, int64_t first, F body) {
  for (int64_t number = 0; number < kLanes<Real>; ++number)
    body(part.first_plane + (first + number < part.planes ? first + number : part.planes - 1), number);
}

// eq. 7.
template <class T>
KERNEL void average_of_planes(const PoolPlan& plan, int64_t task, char*) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolPart part = part_of(plan, task);
  const int64_t size = plan.shape.h.in * plan.shape.w.in;
  const Real divisor = static_cast<Real>(plan.row_divisors[0] * plan.column_divisors[0]);
  for (int64_t first = 0; first < part.planes; first += kCount) {
    Lanes<Real> sums[kCount];
    for_group<Real>(part, first, [&](int64_t plane, int64_t number) {
      const T* from = static_cast<const T*>(plan.source) + plane * size;
      Lanes<Real> sum[4] = {};
      int64_t x = 0;
      for (; x + 4 * kCount <= size; x += 4 * kCount)
        for (int v = 0; v < 4; ++v) sum[v] += load(from + x + v * kCount);
      for_vectors<Real>(size - x, [&](int64_t rest, int64_t count) { sum[0] += load(from + x + rest, count); });
      sums[number] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    });
    transpose(sums);
    for (int64_t half = kCount / 2; half > 0; half /= 2)
      for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    const int64_t left = part.planes - first;
    store(sums[0] / divisor, static_cast<T*>(plan.result) + part.first_plane + first, left < kCount ? left : kCount);
  }
}

// Of two lanes' best values and their positions, the one that torch's scan in order of position would keep.
template <class Real>
inline void take_winner(Lanes<Real> value, IntegerLanes<Real> position, Lanes<Real>& best,
                        IntegerLanes<Real>& best_position) {
  const IntegerLanes<Real> nan = value != value, best_nan = best != best, later = position > best_position;
  const IntegerLanes<Real> wins = (nan & (~best_nan | later)) | (value > best) | ((value == best) & ~later);
  best = wins ? value : best;
  best_position = wins ? position : best_position;
}

// eq. 6.
template <class T, class Winner>
KERNEL void max_of_planes(const PoolPlan& plan, int64_t task, char*) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  constexpr Real kLeast = -static_cast<Real>(__builtin_inf());
  const PoolPart part = part_of(plan, task);
  const int64_t size = plan.shape.h.in * plan.shape.w.in;
  const IntegerLanes<Real> lanes = lane_numbers<Real>();
  for (int64_t first = 0; first < part.planes; first += kCount) {
    Lanes<Real> values[kCount];
    IntegerLanes<Real> positions[kCount];
    for_group<Real>(part, first, [&](int64_t plane, int64_t number) {
      const T* from = static_cast<const T*>(plan.source) + plane * size;
      Lanes<Real> best[4];
      IntegerLanes<Real> position[4];
      for (int v = 0; v < 4; ++v) {
        best[v] = Lanes<Real>{} + kLeast;
        position[v] = lanes;
      }
      IntegerLanes<Real> here = lanes;
      int64_t x = 0;
      for (; x + 4 * kCount <= size; x += 4 * kCount)
        for (int v = 0; v < 4; ++v, here += static_cast<Integer<Real>>(kCount))
          take_if_beats<Real>(load(from + x + v * kCount), here, best[v], position[v]);
      for_vectors<Real>(size - x, [&](int64_t rest, int64_t count) {
        const Lanes<Real> value = load(from + x + rest, count);
        take_if_beats<Real>(lanes < static_cast<Integer<Real>>(count) ? value : Lanes<Real>{} + kLeast, here, best[0],
                            position[0]);
        here += static_cast<Integer<Real>>(kCount);
      });
      if (size >= 4 * kCount)
        for (int v = 1; v < 4; ++v) take_winner<Real>(best[v], position[v], best[0], position[0]);
      values[number] = best[0];
      positions[number] = position[0];
    });
    transpose(values);
    transpose(positions);
    for (int64_t i = 1; i < kCount; ++i) take_winner<Real>(values[i], positions[i], values[0], positions[0]);
    const int64_t left = part.planes - first, count = left < kCount ? left : kCount, place = part.first_plane + first;
    store(values[0], static_cast<T*>(plan.result) + place, count);
    store_winners<Real>(positions[0], static_cast<Winner*>(plan.winners) + place, count);
  }
}

// eq. 9.
template <class T>
KERNEL void average_gradient_of_planes(const PoolPlan& plan, int64_t task, char*) {
  using Real = accumulate_t<T>;
  const PoolPart part = part_of(plan, task);
  const int64_t size = plan.shape.h.in * plan.shape.w.in;
  const Real divisor = static_cast<Real>(plan.row_divisors[0] * plan.column_divisors[0]);
  for (int64_t plane = part.first_plane; plane < part.first_plane + part.planes; ++plane) {
    Real gradient;
    convert(static_cast<const T*>(plan.source)[plane], gradient);
    const Lanes<Real> share = Lanes<Real>{} + gradient / divisor;
    T* to = static_cast<T*>(plan.result) + plane * size;
    for_vectors<Real>(size, [=](int64_t x, int64_t count) { store(share, to + x, count); });
  }
}

}  // namespace
}  // namespace tmc
