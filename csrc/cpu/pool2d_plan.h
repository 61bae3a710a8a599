// What the drivers of pooling (pool2d.cpp) hand to the kernels (pool2d_tasks.h), which are compiled once for each
// instruction set.
#pragma once
#include "pool2d.h"

namespace tmc {

// Contiguous planes are taken kPlanes at a time: a vector of 32-bit elements for AVX-512, and a whole number of
// vectors for every other element and instruction set.
constexpr int64_t kPlanes = 16;

// A pooling call, cut into tasks that write disjoint rows of the result: task t computes the rows
// [t % row_blocks * block_rows, ...) of one sample (channels_last) or of kPlanes contiguous planes.
struct PoolPlan {
  PoolShape shape;
  bool channels_last;
  int64_t row_blocks, block_rows;

  // Looked up instead of computed, for every position along an axis:
  const Window *rows, *columns;                   // the taps of output row p, column q
  const Covering *row_outputs, *column_outputs;   // the outputs that cover input row h, column w
  const int64_t *row_divisors, *column_divisors;  // average: divisor(p, q) is their product

  // Dense, all in one memory order.
  const void* source;  // input, or for a gradient grad_output
  void* result;        // output, or grad_input
  void* winners;       // like the output: written by max, read by its gradient
};

// Computes one task; `scratch` is memory for the interleaved rows of contiguous planes.
using PoolTask = void (*)(const PoolPlan& plan, int64_t task, char* scratch);

struct PoolTasks {
  PoolTask max, max_wide;  // winners uint8, int32
  PoolTask max_gradient, max_gradient_wide;
  PoolTask average, average_gradient;
};
// By dtype; one table for each instruction set.
struct PoolKernels {
  PoolTasks float64, float32, bfloat16, float16;
};
extern const PoolKernels kPoolBase, kPoolAvx2, kPoolAvx512;

struct Range {
  int64_t begin, end;
  int64_t size() const { return end > begin ? end - begin : 0; }
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
