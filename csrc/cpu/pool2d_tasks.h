// The tasks of pooling: which rows of which tensors a kernel works on, and for contiguous tensors the way through
// scratch memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "pool2d_kernels.h"
#include "pool2d_planes.h"

namespace tmc {
namespace {

struct Part {
  int64_t group;  // a sample, or kPlanes planes
  Range rows;     // of the result
};
inline Part part_of(const PoolPlan& plan, int64_t task, int64_t result_rows) {
  const int64_t begin = task % plan.row_blocks * plan.block_rows, end = begin + plan.block_rows;
  return {task / plan.row_blocks, {begin, end < result_rows ? end : result_rows}};
}

// One tensor of the call, and which of its rows.
template <class T>
struct Source {
  T* data;
  int64_t height, width;
  Range rows;
};

// The rows as they stand in a channels_last tensor, or an uninitialised buffer for their interleaved copy.
template <class T>
Rows<T> place(const PoolPlan& plan, int64_t group, const Source<T>& tensor, char*& scratch) {
  const int64_t c = plan.shape.c;
  if (plan.channels_last) return {tensor.data + group * tensor.height * tensor.width * c, 0, tensor.width, c};
  const Rows<T> rows{reinterpret_cast<T*>(scratch), tensor.rows.begin, tensor.width, kPlanes};
  scratch += tensor.rows.size() * tensor.width * kPlanes * sizeof(T);
  return rows;
}

// Where the rows of a group of contiguous planes begin in the first of them.
template <class T>
T* first_plane(int64_t group, const Source<T>& tensor) {
  return tensor.data + (group * kPlanes * tensor.height + tensor.rows.begin) * tensor.width;
}
inline int64_t planes_in(const PoolPlan& plan, int64_t group) {
  const int64_t left = plan.shape.n * plan.shape.c - group * kPlanes;
  return left < kPlanes ? left : kPlanes;
}

template <class T>
Rows<const T> read(const PoolPlan& plan, int64_t group, const Source<T>& tensor, char*& scratch) {
  const Rows<T> rows = place(plan, group, tensor, scratch);
  if (!plan.channels_last)
    interleave(first_plane(group, tensor), tensor.height * tensor.width, planes_in(plan, group),
               tensor.rows.size() * tensor.width, rows.data);
  return {rows.data, rows.first_row, rows.width, rows.channels};
}

template <class T>
void write(const PoolPlan& plan, int64_t group, const Rows<T>& rows, const Source<T>& tensor) {
  if (!plan.channels_last)
    deinterleave(rows.data, first_plane(group, tensor), tensor.height * tensor.width, planes_in(plan, group),
                 tensor.rows.size() * tensor.width);
}

// The tensors of a forward op, and of a gradient op.
template <class T>
Source<T> of_input(const PoolPlan& plan, const void* data, Range rows) {
  return {static_cast<T*>(const_cast<void*>(data)), plan.shape.h.in, plan.shape.w.in, rows};
}
template <class T>
Source<T> of_output(const PoolPlan& plan, const void* data, Range rows) {
  return {static_cast<T*>(const_cast<void*>(data)), plan.shape.h.out, plan.shape.w.out, rows};
}

template <class T, class Winner>
void max_task(const PoolPlan& plan, int64_t task, char* scratch) {
  const Part part = part_of(plan, task, plan.shape.h.out);
  const Source<T> input = of_input<T>(plan, plan.source, rows_below(plan, part.rows));
  const Source<T> output = of_output<T>(plan, plan.result, part.rows);
  const Source<Winner> winners = of_output<Winner>(plan, plan.winners, part.rows);
  const Rows<const T> input_rows = read(plan, part.group, input, scratch);
  const Rows<T> output_rows = place(plan, part.group, output, scratch);
  const Rows<Winner> winner_rows = place(plan, part.group, winners, scratch);
  max_rows(plan, part.rows, input_rows, output_rows, winner_rows);
  write(plan, part.group, output_rows, output);
  write(plan, part.group, winner_rows, winners);
}

template <class T, class Winner>
void max_gradient_task(const PoolPlan& plan, int64_t task, char* scratch) {
  const Part part = part_of(plan, task, plan.shape.h.in);
  const Range above = rows_above(plan, part.rows);
  const Source<T> grad_input = of_input<T>(plan, plan.result, part.rows);
  const Rows<const T> gradient_rows = read(plan, part.group, of_output<T>(plan, plan.source, above), scratch);
  const Rows<const Winner> winner_rows = read(plan, part.group, of_output<Winner>(plan, plan.winners, above), scratch);
  const Rows<T> result_rows = place(plan, part.group, grad_input, scratch);
  max_gradient_rows(plan, part.rows, gradient_rows, winner_rows, result_rows,
                    reinterpret_cast<accumulate_t<T>*>(scratch));
  write(plan, part.group, result_rows, grad_input);
}

template <class T>
void average_task(const PoolPlan& plan, int64_t task, char* scratch) {
  const Part part = part_of(plan, task, plan.shape.h.out);
  const Source<T> output = of_output<T>(plan, plan.result, part.rows);
  const Rows<const T> input_rows =
      read(plan, part.group, of_input<T>(plan, plan.source, rows_below(plan, part.rows)), scratch);
  const Rows<T> output_rows = place(plan, part.group, output, scratch);
  average_rows(plan, part.rows, input_rows, output_rows);
  write(plan, part.group, output_rows, output);
}

template <class T>
void average_gradient_task(const PoolPlan& plan, int64_t task, char* scratch) {
  const Part part = part_of(plan, task, plan.shape.h.in);
  const Source<T> grad_input = of_input<T>(plan, plan.result, part.rows);
  const Rows<const T> gradient_rows =
      read(plan, part.group, of_output<T>(plan, plan.source, rows_above(plan, part.rows)), scratch);
  const Rows<T> result_rows = place(plan, part.group, grad_input, scratch);
  average_gradient_rows(plan, part.rows, gradient_rows, result_rows, reinterpret_cast<accumulate_t<T>*>(scratch));
  write(plan, part.group, result_rows, grad_input);
}

template <class T>
constexpr PoolTasks kTasks = {max_task<T, uint8_t>,          max_task<T, int32_t>, max_gradient_task<T, uint8_t>,
                              max_gradient_task<T, int32_t>, average_task<T>,      average_gradient_task<T>};
constexpr PoolKernels kKernels = {kTasks<double>, kTasks<float>, kTasks<BFloat16>, kTasks<Float16>};

}  // namespace
}  // namespace tmc
