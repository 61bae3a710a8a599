// Pooling on the CPU: windows that slide over planes (or adapt to them) and take a maximum or a sum, and their
// gradients.
//
// In: checked, dense tensors in one memory order and the shape of the call (core.h, from cpu/pool2d.cpp). Out: the
// pooled map and, for maxima, which tap of each window won; or the gradient of the input. plan.cpp picks the form of a
// kernel by shape and cuts the call into tasks; tasks.h runs one task, compiled once for each instruction set:
//
//   channels.h  max.h  average.h  max_gradient.h   a vector of channels at a time: any windows
//   planes.h                                       contiguous planes into that order and back, in cache
//   columns.h                                      few channels: the columns of a row in their place
//   strips.h                                       the gradient of max pooling along the rows of contiguous planes
//   winners.h                                      winners that come from outside: checked, looked up
//
// Bound: memory, but for maxima of windows that overlap, which are bound by instructions (max.h).
#pragma once
#include "pool2d.h"

namespace tmc {

// Contiguous planes are interleaved kPlanes at a time: a vector of 32-bit elements for AVX-512, and a whole number of
// vectors for every other element and instruction set. A task takes up to kMostPlanes: each pixel costs the same visit.
constexpr int64_t kPlanes = 16, kMostPlanes = 64;

// scatter: sums of so many bytes stay in the first-level cache when they are zeroed at once.
constexpr int64_t kSmallPlane = 16 * 1024;

// What vectors may read past sums in scratch memory, and before and past the outputs of strips there, in elements.
constexpr int64_t kSlack = 64;

// Along one axis, an output whose window holds a position, and the tap that stands there: the axis's part of where the
// output stands in a channels_last image, in elements, and of the winner (winner_of). And all those of a position.
struct AxisClaim {
  int64_t place, tap;
};
struct AxisClaims {
  const AxisClaim* first;
  int64_t count;
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end > begin ? end - begin : 0; }
};

// The columns of a call that works on whole rows (cpu/pool2d/columns.h): to the kernels a row is one pixel of a
// channels_last image.
struct ColumnTaps {
  PoolAxis axis;
  const Window* windows;
  const Range* outputs;  // of a tap: those whose tap lies in the input
  int64_t pixel;         // elements: channels, or 1 in a contiguous plane
};

// A pooling call, cut into tasks that write disjoint parts of the result. Task t computes the rows
// [t % row_blocks * block_rows, ...) of block_planes planes.
struct PoolPlan {
  PoolShape shape;
  bool channels_last, gradient;
  bool streams;  // of channels_last: whether a gradient is written past the caches
  int64_t result_rows, row_blocks, block_rows;
  int64_t planes, block_planes;  // a channels_last sample counts as one plane

  // Looked up instead of computed, for every position along an axis:
  const Window *rows, *columns;                   // the taps of output row p, column q
  const Covering *row_outputs, *column_outputs;   // the outputs that cover input row h, column w
  const int64_t *row_divisors, *column_divisors;  // average: divisor(p, q) is their product
  const AxisClaims *row_claims, *column_claims;   // max_gradient, gathered: of input row h, column w
  const int64_t* offsets;                         // of byte winners from the start of their window, in positions

  const ColumnTaps* taps;  // else null
  const int32_t* starts;   // of the windows in a block of small planes, in positions; else null
  bool overlapping;        // whether windows may share a position

  // Dense, all in one memory order.
  const void* source;  // input, or for a gradient grad_output
  void* result;        // output, or grad_input
  void* winners;       // like the output: written by max, read by its gradient
};

// What task `task` computes.
struct PoolPart {
  int64_t first_plane, planes;
  Range rows;  // of the result
};
HOST_DEVICE PoolPart part_of(const PoolPlan& plan, int64_t task) {
  const int64_t row = task % plan.row_blocks * plan.block_rows, plane = task / plan.row_blocks * plan.block_planes;
  const int64_t rows = plan.result_rows - row, planes = plan.planes - plane;
  return {plane,
          planes < plan.block_planes ? planes : plan.block_planes,
          {row, row + (rows < plan.block_rows ? rows : plan.block_rows)}};
}

// Computes one task; `scratch` is memory of its own, aligned to cache lines.
using PoolTask = void (*)(const PoolPlan& plan, int64_t task, char* scratch);

// Each differs from those of its kind in speed alone.
struct PoolForms {
  PoolTask max, max_wide;  // winners uint8, int32
  PoolTask average, average_gradient;
  PoolTask average_whole, average_gradient_whole;                  // one window that is the whole contiguous plane
  PoolTask max_gather, max_strips, max_scatter, max_scatter_wide;  // the gradient of max pooling
};
// By dtype; one table for each instruction set.
struct PoolKernels {
  PoolForms float64, float32, bfloat16, float16;
};

// The input rows that the windows of output rows `p` lie in, and the output rows that cover input rows `h`.
HOST_DEVICE Range rows_below(const PoolPlan& plan, Range p) {
  const PoolAxis& axis = plan.shape.h;
  const int64_t first = plan.rows[p.begin].start;
  const int64_t past = plan.rows[p.end - 1].start + axis.dilation * (axis.kernel - 1) + 1;
  return {first > 0 ? first : 0, past < axis.in ? past : axis.in};
}
HOST_DEVICE Range rows_above(const PoolPlan& plan, Range h) {
  return {plan.row_outputs[h.begin].first, plan.row_outputs[h.end - 1].last + 1};
}

}  // namespace tmc
