// What the drivers of pooling (pool2d.cpp) hand to the kernels, which are compiled once for each instruction set.
// The maps have several forms, which differ in speed alone:
//
//   phases   windows that slide by a small stride: cpu/pool2d/phases.h, vectors along the rows
//   direct   any windows: cpu/pool2d/channels.h, vectors along the channels
//   whole    one window that is the whole contiguous plane: cpu/pool2d/whole.h
//   strips   the gradient of max pooling alone, usual windows on contiguous planes: cpu/pool2d/strips.h, vectors along
//   rows scatter  the gradient of max pooling alone, any windows: cpu/pool2d/scatter.h, one output at a time
#pragma once
#include "pool2d.h"

namespace tmc {

// direct: contiguous planes are taken kPlanes at a time: a vector of 32-bit elements for AVX-512, and a whole number
// of vectors for every other element and instruction set.
constexpr int64_t kPlanes = 16;

// max_gradient, scattered: sums of so many bytes stay in the first-level cache when they are zeroed at once.
constexpr int64_t kSmallPlane = 16 * 1024;

// strips: what vectors may read before and past the outputs in scratch memory, in elements.
constexpr int64_t kStripSlack = 64;

// max by keys: the most rows that a window may span.
constexpr int64_t kMaxSpan = 256;
HOST_DEVICE int64_t kernel_span(const PoolAxis& axis) {
  return (axis.kernel - 1) * axis.dilation + 1;
}

// phases: the largest stride. From 3 on, elements would have to be split one at a time, and direct is faster.
constexpr int64_t kMaxPhases = 2;

// One axis in phases: padded position i * stride + j is entry i of phase j (cpu/pool2d/phases.h).
struct PhaseAxis {
  int64_t phases;  // the stride
  int64_t length;  // entries of a phase: all that the input or a window reaches
  int64_t held;    // ... the input
  int64_t reach;   // the last tap's distance from the first, in entries
};
HOST_DEVICE PhaseAxis phase_axis(const PoolAxis& axis) {
  const int64_t reach = (axis.kernel - 1) * axis.dilation / axis.stride;
  const int64_t read = axis.out + reach, held = ceil_div(axis.in + axis.pad, axis.stride);
  return {axis.stride, read > held ? read : held, held, reach};
}

// Along one axis, an output whose window holds a position, and the tap that stands there: the axis's part of where the
// output stands in a channels_last image, in elements, and of the winner (winner_of). And all those of a position.
struct AxisClaim {
  int64_t place, tap;
};
struct AxisClaims {
  const AxisClaim* first;
  int64_t count;
};

// A pooling call, cut into tasks that write disjoint parts of the result. Task t computes the rows
// [t % row_blocks * block_rows, ...) of block_planes planes; in phases a gradient counts the rows of one phase.
struct PoolPlan {
  PoolShape shape;
  bool channels_last, gradient;
  bool streams;   // direct, of channels_last: whether a gradient is written past the caches
  bool has_keys;  // direct, of half precision: whether maxima are found by keys (cpu/pool2d/max_keys.h)
  int64_t result_rows, row_blocks, block_rows;
  int64_t planes, block_planes;  // a channels_last sample counts as one plane
  PhaseAxis phase_rows, phase_columns;

  // Looked up instead of computed, for every position along an axis:
  const Window *rows, *columns;                   // the taps of output row p, column q
  const Covering *row_outputs, *column_outputs;   // the outputs that cover input row h, column w
  const int64_t *row_divisors, *column_divisors;  // average: divisor(p, q) is their product
  const AxisClaims *row_claims, *column_claims;   // max_gradient, gathered directly: of input row h, column w
  const int64_t* offsets;                         // of byte winners from the start of their window, in positions

  const int32_t* starts;  // of the windows in a block of small planes, in positions; else null
  bool overlapping;       // whether windows may share a position

  // Dense, all in one memory order.
  const void* source;  // input, or for a gradient grad_output
  void* result;        // output, or grad_input
  void* winners;       // like the output: written by max, read by its gradient
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end > begin ? end - begin : 0; }
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

// The images of a block's phases in scratch memory: [plane][row][column][inner], one for each phase.
constexpr int64_t kPhaseSlack = 64;  // elements that the vectors of cpu/pool2d/phases.h may reach past an image
struct PhaseImages {
  int64_t inner;     // channels in channels_last, else 1
  int64_t pitch;     // from one row to the next
  int64_t lead;      // room for what the taps of the first row reach before an image
  int64_t distance;  // from one image to the next, with room for what vectors and taps reach past it
};
HOST_DEVICE PhaseImages phase_images(const PoolPlan& plan) {
  const auto whole_lines = [](int64_t elements) { return ceil_div(elements, 16) * 16; };
  PhaseImages images{};
  images.inner = plan.channels_last ? plan.shape.c : 1;
  images.pitch = plan.phase_columns.length * images.inner;
  if (images.pitch > 8) images.pitch = whole_lines(images.pitch);
  images.lead = whole_lines(plan.phase_columns.reach * images.inner);
  const int64_t rows = plan.block_planes * (plan.block_rows + plan.phase_rows.reach) + plan.phase_rows.reach;
  images.distance = whole_lines(2 * images.lead + rows * images.pitch + kPhaseSlack);
  return images;
}
// Scratch memory: the list of taps, then the images. A forward op has one for each phase and one for the winners or
// divisors of the outputs; a gradient has one for grad_output, one for divisors, and one for each phase.
constexpr int64_t kPhaseTapBytes = 24;
HOST_DEVICE int64_t phase_tap_bytes(const PoolShape& shape) {
  return ceil_div(window_taps(shape) * kPhaseTapBytes, 64) * 64;
}
HOST_DEVICE int64_t phase_scratch_bytes(const PoolPlan& plan, int64_t real_bytes) {
  const PhaseImages images = phase_images(plan);
  const int64_t count = plan.phase_rows.phases * plan.phase_columns.phases + (plan.gradient ? 2 : 1);
  return phase_tap_bytes(plan.shape) + (images.lead + count * images.distance) * real_bytes;
}

// Computes one task; `scratch` is memory of its own, aligned to cache lines.
using PoolTask = void (*)(const PoolPlan& plan, int64_t task, char* scratch);

struct PoolTasks {
  PoolTask max, max_wide;  // winners uint8, int32
  PoolTask average, average_gradient;
};
struct MaxGradients {
  PoolTask gather, gather_wide, gather_in_strips, scatter, scatter_wide;
};
struct PoolForms {
  PoolTasks direct, phases, whole;
  MaxGradients max_gradient;
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
