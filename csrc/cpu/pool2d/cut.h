// How a pooling call is cut into tasks, in each of the forms of cpu/pool2d/pool2d.h. The cut decides no bit of the
// result: every element is computed alone.
#pragma once
#include <algorithm>

#include "cpu/machine/machine.h"
#include "cpu/machine/tasks.h"
#include "cpu/pool2d/plan.h"
#include "tensor.h"

namespace tmc {

// direct: what a task works on should stay in the second-level cache, which has 256 KiB on the smallest CPUs.
// phases: in the first-level cache, which has 32 KiB or more, together with what is read and written.
constexpr int64_t kDirectBytes = 256 * 1024, kPhaseBytes = 32 * 1024;
// What rows cost to split pays off from these lengths of a phase on, measured on Zen 5 with AVX-512.
constexpr int64_t kLeastPhase = 24, kLeastPhaseGradient = 12;
// strips: on shorter rows scattering is as fast, on 7 x 7 planes or, without masks, where outputs are few (stride 2;
// Zen 5: 13 x 13 planes, windows of 3 x 3, take 0.8 of the time with AVX-512 and 1.6 of it with AVX2).
inline int64_t least_strip(const PoolAxis& axis) {
  return isa() == Isa::avx512 || axis.stride == 1 ? 8 : 32;
}
// A gather asks every window that covers a position for its winner, and visits every position: scattering is faster
// where that many windows cover one, or where there is but one output for so many positions.
constexpr int64_t kMostGathered = 64, kMostPositions = 16;
// Vectors of keys (cpu/pool2d/max_keys.h) reach past the last.
constexpr int64_t kKeySlack = 256;
constexpr int64_t kMaxPhaseSpan = 256;  // of a window: beyond, a part would consist of the rows around it

// Scratch memory of a task in direct form: its interleaved planes, the quotients of an average's gradient, and keys.
inline int64_t direct_scratch_bytes(const PoolPlan& plan, int64_t element_bytes) {
  const PoolShape& shape = plan.shape;
  int64_t source_rows = 0;
  for (int64_t begin = 0; begin < plan.result_rows; begin += plan.block_rows) {
    const Range rows{begin, std::min(begin + plan.block_rows, plan.result_rows)};
    source_rows = std::max(source_rows, (plan.gradient ? rows_above(plan, rows) : rows_below(plan, rows)).size());
  }
  const int64_t in_rows = plan.gradient ? plan.block_rows : source_rows;
  const int64_t out_rows = plan.gradient ? source_rows : plan.block_rows;
  const int64_t channels = plan.channels_last ? shape.c : kPlanes;
  const bool has_quotients = plan.gradient && plan.winners == nullptr;
  const int64_t quotient_bytes = has_quotients ? out_rows * shape.w.out * channels * int64_t{sizeof(double)} : 0;
  const int64_t key_row_bytes = ceil_div(shape.w.in * channels * element_bytes, 64) * 64;
  const int64_t key_bytes = plan.has_keys ? kernel_span(shape.h) * key_row_bytes + kKeySlack : 0;
  if (plan.channels_last) return quotient_bytes + key_bytes;
  const int64_t winner_bytes = plan.winners == nullptr ? 0 : window_taps(shape) <= kMaxByteTaps ? 1 : 4;
  const int64_t alignment = 4 * 64;
  return alignment + quotient_bytes + key_bytes +
         kPlanes * (in_rows * shape.w.in * element_bytes + out_rows * shape.w.out * (element_bytes + winner_bytes));
}

inline int64_t halved(int64_t size) {
  return ceil_div(size, 2);
}

// Whether the values of half precision that max pools are worth their keys: windows share them, and they come from
// caches, or so often that what is done for each counts. Windows of 3 x 3 on channels_last images (Zen 5, 32 MB of L3):
// with stride 2, keys take 0.8 to 0.9 of the time for inputs of 3 to 12 MB, but 1.25 for 51 MB, when nothing is read
// while keys are written; with stride 1, 0.65 for 10 MB and 0.75 for 39 MB.
inline bool has_worthwhile_keys(const PoolPlan& plan, int64_t element_bytes) {
  constexpr int64_t kCachedBytes = 16 << 20, kOften = 4;
  const PoolShape& shape = plan.shape;
  const int64_t taps = window_taps(shape), positions = shape.h.in * shape.w.in;
  const bool is_max = !plan.gradient && plan.winners != nullptr;
  if (!is_max || element_bytes != 2 || taps > kMaxByteTaps || kernel_span(shape.h) > kMaxSpan) return false;
  const int64_t reads = taps * shape.h.out * shape.w.out;
  const bool is_cached = !plan.channels_last || shape.n * shape.c * positions * element_bytes <= kCachedBytes;
  return reads > kOften * positions || (reads > positions && is_cached);
}

// Each of these completes the plan and returns the bytes of scratch memory that a task needs, or -1 if the form does
// not suit the call.
inline int64_t plan_direct(PoolPlan& plan, int64_t element_bytes) {
  plan.planes = plan.channels_last ? plan.shape.n : plan.shape.n * plan.shape.c;
  plan.result_rows = plan.gradient ? plan.shape.h.in : plan.shape.h.out;
  plan.block_planes = plan.channels_last ? 1 : kPlanes;
  plan.has_keys = has_worthwhile_keys(plan, element_bytes);
  plan.block_rows = 1;
  plan.has_keys = plan.has_keys && direct_scratch_bytes(plan, element_bytes) <= kDirectBytes;
  plan.block_rows = plan.result_rows;
  const auto tasks = [&] {
    return ceil_div(plan.planes, plan.block_planes) * ceil_div(plan.result_rows, plan.block_rows);
  };
  while (plan.block_rows > 1 &&
         (direct_scratch_bytes(plan, element_bytes) > kDirectBytes || tasks() < torch::stable::get_num_threads()))
    plan.block_rows = halved(plan.block_rows);
  const int64_t bytes_of_pixel = plan.shape.c * element_bytes;
  plan.streams = plan.gradient && plan.channels_last && bytes_of_pixel % 64 == 0 &&
                 is_streamed(plan.result, plan.planes * plan.shape.h.in * plan.shape.w.in * bytes_of_pixel);
  return direct_scratch_bytes(plan, element_bytes);
}

inline int64_t plan_phases(PoolPlan& plan, int64_t real_bytes) {
  const PoolShape& shape = plan.shape;
  if (plan.channels_last && shape.c >= kPlanes) return -1;
  for (const PoolAxis& axis : {shape.h, shape.w})
    if (is_adaptive(axis) || axis.stride > kMaxPhases || axis.kernel * axis.dilation > kMaxPhaseSpan) return -1;
  plan.phase_rows = phase_axis(shape.h);
  plan.phase_columns = phase_axis(shape.w);
  if (plan.phase_columns.length < (plan.gradient ? kLeastPhaseGradient : kLeastPhase)) return -1;
  plan.planes = plan.channels_last ? shape.n : shape.n * shape.c;
  plan.result_rows = plan.gradient ? plan.phase_rows.held : shape.h.out;
  plan.block_planes = std::min<int64_t>(plan.planes, 64);
  plan.block_rows = plan.result_rows;
  const auto is_too_large = [&] {
    return phase_scratch_bytes(plan, real_bytes) > kPhaseBytes ||
           ceil_div(plan.planes, plan.block_planes) * ceil_div(plan.result_rows, plan.block_rows) <
               torch::stable::get_num_threads();
  };
  while (plan.block_planes > 1 && is_too_large()) plan.block_planes = halved(plan.block_planes);
  while (plan.block_rows > 1 && is_too_large()) plan.block_rows = halved(plan.block_rows);
  const int64_t bytes = phase_scratch_bytes(plan, real_bytes);
  return bytes <= kDirectBytes ? bytes : -1;
}

inline int64_t strip_scratch_bytes(const PoolPlan& plan, int64_t real_bytes) {
  const PoolAxis &h = plan.shape.h, &w = plan.shape.w;
  const int64_t taps = (w.in + kPlanes) * w.kernel * ceil_div(w.kernel, w.stride);
  const int64_t rows = ceil_div(plan.block_rows + h.kernel - 1, h.stride);
  return taps + (rows * w.out + 2 * kStripSlack) * (real_bytes + 1);
}

inline int64_t plan_strips(PoolPlan& plan, int64_t real_bytes) {
  const PoolAxis &h = plan.shape.h, &w = plan.shape.w;
  const bool is_square = h.kernel == w.kernel && h.stride == w.stride && h.dilation == 1 && w.dilation == 1;
  const bool is_usual = (w.kernel == 2 || w.kernel == 3) && (w.stride == 1 || w.stride == 2);
  if (plan.channels_last || !is_square || !is_usual || w.in < least_strip(w)) return -1;
  plan.planes = plan.shape.n * plan.shape.c;
  plan.result_rows = plan.block_rows = h.in;
  plan.block_planes = std::min<int64_t>(plan.planes, 64);
  const auto has_few_tasks = [&] {
    return ceil_div(plan.planes, plan.block_planes) * ceil_div(plan.result_rows, plan.block_rows) <
           torch::stable::get_num_threads();
  };
  while (plan.block_planes > 1 && has_few_tasks()) plan.block_planes = halved(plan.block_planes);
  while (plan.block_rows > 1 && (strip_scratch_bytes(plan, real_bytes) > kPhaseBytes || has_few_tasks()))
    plan.block_rows = halved(plan.block_rows);
  return strip_scratch_bytes(plan, real_bytes);
}

inline int64_t plan_whole(PoolPlan& plan) {
  for (const PoolAxis& axis : {plan.shape.h, plan.shape.w})
    if (is_adaptive(axis) || axis.out != 1 || axis.kernel != axis.in || axis.pad != 0 || axis.dilation != 1) return -1;
  if (plan.channels_last) return -1;
  plan.planes = plan.shape.n * plan.shape.c;
  plan.result_rows = 1;
  plan.block_planes = kPlanes;
  plan.block_rows = 1;
  return 0;
}

}  // namespace tmc
