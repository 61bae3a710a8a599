// The tasks of pooling: which rows of which tensors a kernel works on, and for contiguous tensors the way through
// scratch memory. The table at the end is what the room's driver (cpu/pool2d/plan.cpp) calls.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/average.h"
#include "cpu/pool2d/columns.h"
#include "cpu/pool2d/max.h"
#include "cpu/pool2d/max_gradient.h"
#include "cpu/pool2d/planes.h"
#include "cpu/pool2d/strips.h"

namespace tmc {
namespace {

// One tensor of the call, and which of its rows.
template <class T>
struct Source {
  T* data;
  int64_t height, width;
  Range rows;
};

// Rows of interleaved planes in scratch memory.
template <class T>
Rows<T> buffer(Range rows, int64_t width, int64_t channels, char*& scratch) {
  T* data = reinterpret_cast<T*>(scratch);
  scratch += ceil_div(rows.size() * width * channels * static_cast<int64_t>(sizeof(T)), 64) * 64;
  return {data, rows.begin, width, channels};
}

// The rows as they stand in a channels_last tensor, or an uninitialised buffer for their interleaved copy.
template <class T>
Rows<T> place(const PoolPlan& plan, const PoolPart& part, const Source<T>& tensor, char*& scratch) {
  const int64_t c = plan.shape.c;
  if (!plan.channels_last) return buffer<T>(tensor.rows, tensor.width, plan.block_planes, scratch);
  return {tensor.data + part.first_plane * tensor.height * tensor.width * c, 0, tensor.width, c};
}

// Where the rows begin in the first of a group of contiguous planes.
template <class T>
T* first_plane(const PoolPart& part, const Source<T>& tensor) {
  return tensor.data + (part.first_plane * tensor.height + tensor.rows.begin) * tensor.width;
}

template <class T>
Rows<const T> read(const PoolPlan& plan, const PoolPart& part, const Source<T>& tensor, char*& scratch) {
  const Rows<T> rows = place(plan, part, tensor, scratch);
  const int64_t plane = tensor.height * tensor.width, size = tensor.rows.size() * tensor.width;
  if (!plan.channels_last)
    for (int64_t k = 0; k < plan.block_planes; k += kPlanes) {
      const int64_t first = k < part.planes ? k : part.planes - 1;  // missing ones repeat the last
      interleave(first_plane(part, tensor) + first * plane, plane, part.planes - first, size, rows.data + k,
                 rows.channels);
    }
  return {rows.data, rows.first_row, rows.width, rows.channels};
}

template <class T>
void write(const PoolPlan& plan, const PoolPart& part, const Rows<T>& rows, const Source<T>& tensor) {
  const int64_t plane = tensor.height * tensor.width, size = tensor.rows.size() * tensor.width;
  if (!plan.channels_last)
    for (int64_t k = 0; k < part.planes; k += kPlanes)
      deinterleave(rows.data + k, rows.channels, first_plane(part, tensor) + k * plane, plane,
                   part.planes - k < kPlanes ? part.planes - k : kPlanes, size);
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
  const PoolPart part = part_of(plan, task);
  const Source<T> input = of_input<T>(plan, plan.source, rows_below(plan, part.rows));
  const Source<T> output = of_output<T>(plan, plan.result, part.rows);
  const Source<Winner> winners = of_output<Winner>(plan, plan.winners, part.rows);
  const Rows<const T> input_rows = plan.taps != nullptr ? take_taps<T>(plan, part.first_plane, input.rows, scratch)
                                                        : read(plan, part, input, scratch);
  const Rows<T> output_rows = place(plan, part, output, scratch);
  const Rows<Winner> winner_rows = place(plan, part, winners, scratch);
  int64_t paired = part.rows.begin;
  if constexpr (sizeof(T) < 8 && sizeof(Winner) == 1) {
    if (shares_half(plan.shape.h)) {
      paired += part.rows.size() / 2 * 2;
      max_rows<true>(plan, {part.rows.begin, paired}, input_rows, output_rows, winner_rows);
    }
  }
  max_rows<false>(plan, {paired, part.rows.end}, input_rows, output_rows, winner_rows);
  if (plan.taps != nullptr) correct_winners(plan, part.rows, winner_rows);
  write(plan, part, output_rows, output);
  write(plan, part, winner_rows, winners);
}

template <class T>
void average_task(const PoolPlan& plan, int64_t task, char* scratch) {
  const PoolPart part = part_of(plan, task);
  const Source<T> input = of_input<T>(plan, plan.source, rows_below(plan, part.rows));
  const Source<T> output = of_output<T>(plan, plan.result, part.rows);
  const Rows<const T> input_rows = plan.taps != nullptr ? take_taps<T>(plan, part.first_plane, input.rows, scratch)
                                                        : read(plan, part, input, scratch);
  const Rows<T> output_rows = place(plan, part, output, scratch);
  average_rows(plan, part.rows, input_rows, output_rows);
  write(plan, part, output_rows, output);
}

template <class T>
Rows<accumulate_t<T>> quotients_of(const PoolPlan& plan, const PoolPart& part, Range above, char*& scratch) {
  using Real = accumulate_t<T>;
  const auto divided = [&](const PoolPlan& of, const Rows<const T>& gradients) {
    const Rows<Real> quotients = buffer<Real>(above, gradients.width, gradients.channels, scratch);
    divide_rows(of, above, gradients, quotients);
    return quotients;
  };
  if (plan.taps == nullptr) return divided(plan, read(plan, part, of_output<T>(plan, plan.source, above), scratch));
  const int64_t row = plan.taps->axis.out * plan.taps->pixel;
  const T* gradients = static_cast<const T*>(plan.source) + (part.first_plane * plan.shape.h.out + above.begin) * row;
  if constexpr (sizeof(T) == sizeof(Real)) {  // fewer divisions
    PoolPlan whole_rows = plan;
    whole_rows.shape.w.out = 1;
    const Rows<Real> quotients = divided(whole_rows, {gradients, above.begin, 1, row});
    return spread_outputs(plan, quotients.data, above, scratch);
  } else {
    const Rows<T> spread = spread_outputs(plan, gradients, above, scratch);
    return divided(plan, {spread.data, above.begin, spread.width, spread.channels});
  }
}

template <class T>
void average_gradient_task(const PoolPlan& plan, int64_t task, char* scratch) {
  using Real = accumulate_t<T>;
  const PoolPart part = part_of(plan, task);
  const Range above = rows_above(plan, part.rows);
  const Source<T> grad_input = of_input<T>(plan, plan.result, part.rows);
  const Rows<Real> quotients = quotients_of<T>(plan, part, above, scratch);
  const Rows<T> result_rows = place(plan, part, grad_input, scratch);
  average_gradient_rows(plan, part.rows, {quotients.data, above.begin, quotients.width, quotients.channels},
                        result_rows);
  if (plan.streams) finish_streaming();
  write(plan, part, result_rows, grad_input);
}

// Of channels_last tensors.
template <class T>
void max_gradient_task(const PoolPlan& plan, int64_t task, char* scratch) {
  const PoolPart part = part_of(plan, task);
  const Range above = rows_above(plan, part.rows);
  max_gradient_rows(plan, part.rows, read(plan, part, of_output<T>(plan, plan.source, above), scratch),
                    read(plan, part, of_output<uint8_t>(plan, plan.winners, above), scratch),
                    place(plan, part, of_input<T>(plan, plan.result, part.rows), scratch));
  if (plan.streams) finish_streaming();
}

// float64 and the build for any CPU do without: see docs/cpu.md.
template <class T>
constexpr PoolTask strips_of() {
  if constexpr (sizeof(T) < 8 && kVectorBytes > 16) return max_gradient_in_strips<T>;
  return nullptr;
}

template <class T>
constexpr PoolForms kForms = {max_task<T, uint8_t>,     max_task<T, int32_t>, average_task<T>,
                              average_gradient_task<T>, average_of_planes<T>, average_gradient_of_planes<T>,
                              max_gradient_task<T>,     strips_of<T>(),       scatter_task<T, uint8_t>,
                              scatter_task<T, int32_t>};
constexpr PoolKernels kKernels = {kForms<double>, kForms<float>, kForms<BFloat16>, kForms<Float16>};

}  // namespace
}  // namespace tmc
