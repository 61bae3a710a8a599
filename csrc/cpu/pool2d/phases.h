// Pooling in phases: for windows that slide by a stride of at most kMaxPhases.
//
// Padded input position i * stride + j of an axis is entry i of phase j. Tap t of output i is then entry
// i + t * dilation / stride of phase t * dilation % stride: for every output at the same distance from the output's own
// entry. With rows and columns split so, planes become stride_h * stride_w images of one size that lie one after the
// other in cache, padding included, and a kernel is one flat loop: lane x of the result takes lanes x + distance(tap).
// Nothing is left of edges, strides and short rows; what is computed between the rows is not copied out.
// Bound: memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/phase_task.h"

namespace tmc {
namespace {

constexpr int64_t kUnrolled = 4;  // vectors in flight: a comparison and a selection wait for each other 6 cycles
static_assert(kUnrolled * kVectorBytes / 4 <= kPhaseSlack);

// eq. 6 for lanes [0, size). The result takes the place of the first image, whose lanes up to x are no longer needed.
template <class Real, class Winner>
KERNEL void max_lanes(const PhaseTap<Real>* taps, int64_t count, Real* images, Winner* winners, int64_t size) {
  constexpr int64_t kCount = kLanes<Real>;
  for (int64_t x = 0; x < size; x += kUnrolled * kCount) {
    Lanes<Real> best[kUnrolled];
    IntegerLanes<Real> winner[kUnrolled];
    for (int v = 0; v < kUnrolled; ++v) {
      best[v] = Lanes<Real>{} - static_cast<Real>(__builtin_inf());
      winner[v] = IntegerLanes<Real>{};
    }
    for (int64_t t = 0; t < count; ++t) {
      const Real* from = images + taps[t].distance + x;
      const IntegerLanes<Real> index = IntegerLanes<Real>{} + taps[t].winner;
      for (int v = 0; v < kUnrolled; ++v) take_if_beats<Real>(load(from + v * kCount), index, best[v], winner[v]);
    }
    for (int v = 0; v < kUnrolled; ++v) {
      store(best[v], images + x + v * kCount);
      store_winners<Real>(winner[v], winners + x + v * kCount, kCount);
    }
  }
}

// The sums of eq. 7, in the place of the first image. Rows are summed first: short chains of sums round less.
template <class Real>
KERNEL void sum_lanes(const PhaseTap<Real>* taps, int64_t count, Real* images, int64_t size) {
  constexpr int64_t kCount = kLanes<Real>;
  for (int64_t x = 0; x < size; x += kUnrolled * kCount) {
    Lanes<Real> sum[kUnrolled] = {}, row_sum[kUnrolled] = {};
    for (int64_t t = 0; t < count; ++t) {
      if (taps[t].starts_row)
        for (int v = 0; v < kUnrolled; ++v) {
          sum[v] += row_sum[v];
          row_sum[v] = Lanes<Real>{};
        }
      for (int v = 0; v < kUnrolled; ++v) row_sum[v] += load(images + taps[t].distance + x + v * kCount);
    }
    for (int v = 0; v < kUnrolled; ++v) store(sum[v] + row_sum[v], images + x + v * kCount);
  }
}

// eq. 9 for one phase of the input: lane x of its gradient collects the lanes of the outputs that cover it.
template <class Real>
KERNEL void collect_lanes(const PhaseTap<Real>* taps, int64_t count, const Real* quotients, Real* result, Range lanes) {
  constexpr int64_t kCount = kLanes<Real>;
  for (int64_t x = lanes.begin; x < lanes.end; x += kUnrolled * kCount) {
    Lanes<Real> sum[kUnrolled] = {};
    for (int64_t t = 0; t < count; ++t)
      for (int v = 0; v < kUnrolled; ++v) sum[v] += load(quotients + x + v * kCount - taps[t].distance);
    for (int v = 0; v < kUnrolled; ++v) store(sum[v], result + x + v * kCount);
  }
}

// ---- The tasks: which lanes, from and to which rows of the tensors.

template <class T, class Winner>
void max_in_phases(const PoolPlan& plan, int64_t number, char* scratch) {
  using Real = accumulate_t<T>;
  constexpr Real kLeast = -static_cast<Real>(__builtin_inf());
  const PhaseTask<T> task(plan, number, scratch);
  Real* outputs = task.image(0);
  Winner* winners = reinterpret_cast<Winner*>(task.image(task.rows.phases * task.columns.phases));
  task.split_input(kLeast);
  max_lanes(task.taps, task.list_taps(), outputs, winners, task.lanes);
  int64_t clipped = 0;  // outputs of a row whose windows begin in the padding
  while (clipped < plan.shape.w.out && plan.columns[clipped].begin > 0) ++clipped;
  task.for_outputs([&](int64_t lane, int64_t p, int64_t place) {
    // Where nothing beats -inf, the winner is the first tap inside the input.
    const int64_t begin = plan.rows[p].begin, suspects = begin > 0 ? task.width : clipped * task.inner;
    for (int64_t x = 0; x < suspects; ++x)
      if (outputs[lane + x] == kLeast)
        winners[lane + x] = static_cast<Winner>(winner_of(plan.shape, begin, plan.columns[x / task.inner].begin));
    narrow_row(outputs + lane, static_cast<T*>(plan.result) + place, task.width);
    write_winners(winners + lane, static_cast<Winner*>(plan.winners) + place, task.width);
  });
}

template <class T>
void average_in_phases(const PoolPlan& plan, int64_t number, char* scratch) {
  using Real = accumulate_t<T>;
  const PhaseTask<T> task(plan, number, scratch);
  Real* sums = task.image(0);
  Real* divisors = task.image(task.rows.phases * task.columns.phases);
  task.split_input(0);
  sum_lanes(task.taps, task.list_taps(), sums, task.lanes);
  list_divisors(plan, task.inner, divisors);
  task.for_outputs([&](int64_t lane, int64_t p, int64_t place) {
    divide_row(sums + lane, static_cast<Real>(plan.row_divisors[p]), divisors, static_cast<T*>(plan.result) + place,
               task.width);
  });
}

template <class T>
void average_gradient_in_phases(const PoolPlan& plan, int64_t number, char* scratch) {
  using Real = accumulate_t<T>;
  const PhaseTask<T> task(plan, number, scratch);
  Real* divisors = task.image(1);
  list_divisors(plan, task.inner, divisors);
  task.load_outputs([&](int64_t lane, int64_t p, int64_t place) {
    divide_row(static_cast<const T*>(plan.source) + place, static_cast<Real>(plan.row_divisors[p]), divisors,
               task.image(0) + lane, task.width);
  });
  task.write_gradient([&](const PhaseTap<Real>* taps, int64_t count, Real* result, Range lanes) {
    collect_lanes(taps, count, task.image(0), result, lanes);
  });
}

}  // namespace
}  // namespace tmc
