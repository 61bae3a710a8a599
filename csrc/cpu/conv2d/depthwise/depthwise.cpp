// conv2d, conv2d_grad_input and conv2d_grad_weight (conv2d.h, eq. 1, 5, 3) in groups of few channels: the driver of
// the kernels that cpu/conv2d/depthwise/depthwise.h describes.
//
// A task is one sample, one block of output channels and one band of rows; grad_weight adds the bands of a few samples
// into sums of its own, and the sums in order.
#include "cpu/conv2d/depthwise/depthwise.h"

#include <algorithm>
#include <vector>

#include "cpu/conv2d/algorithms.h"
#include "cpu/machine/machine.h"
#include "cpu/machine/tasks.h"

namespace tmc::depthwise {
namespace {

// Bytes of a band with its results: a quarter of a 1 MiB L2, which also holds what is read and written.
constexpr int64_t kBandBytes = 256 << 10;
constexpr int64_t kSumBytes = 16 << 20;  // at most so much for grad_weight's partial sums

const DepthwiseKernels& kernels_for(DType dtype) {
  return kernels_for_this_cpu<DepthwiseKernelTable>()[static_cast<int>(dtype)];
}

// Kernels read images whose channels or whose columns adjoin.
Tensor readable(const Tensor& image) {
  const bool as_it_is = image.stride(1) == 1 || image.stride(3) == 1 || image.size(3) == 1;
  return as_it_is ? image : dense(image, false);
}

std::vector<ColumnClass> forward_columns(const Conv2dShape& shape) {
  return {{.out_begin = 0,
           .out_step = 1,
           .count = shape.q,
           .in_begin = -shape.pad_left,
           .in_step = shape.stride_w,
           .in_tap_step = shape.dilation_w,
           .first_tap = 0,
           .tap_step = 1,
           .taps = shape.s}};
}

// Column w of grad_input is reached by the taps v for which w + pad - v * dilation is a multiple of the stride: the
// same ones for every w of one residue (eq. 24).
std::vector<ColumnClass> transposed_columns(const Conv2dShape& shape) {
  const int64_t stride = shape.stride_w;
  std::vector<ColumnClass> classes;
  for (int64_t w = 0; w < std::min(stride, shape.w); ++w) {
    const Residue residue =
        residue_of((w + shape.pad_left) % stride, shape.w, shape.pad_left, shape.s, stride, shape.dilation_w);
    classes.push_back({.out_begin = residue.first,
                       .out_step = stride,
                       .count = residue.count,
                       .in_begin = residue.first_output,
                       .in_step = 1,
                       .in_tap_step = -residue.output_step,
                       .first_tap = residue.first_tap,
                       .tap_step = residue.tap_step,
                       .taps = residue.taps});
  }
  return classes;
}

// In place nothing is padded: each class is cut where taps enter or leave the image.
std::vector<ColumnClass> clipped(const std::vector<ColumnClass>& classes, int64_t width) {
  std::vector<ColumnClass> parts;
  for (const ColumnClass& all : classes)
    for (int64_t i = 0; i < all.count; ++i) {
      ColumnClass one = all;
      one.out_begin += i * all.out_step, one.in_begin += i * all.in_step, one.count = 1;
      const auto inside = [&](int64_t in) { return in >= 0 && in < width; };
      for (; one.taps > 0 && !inside(one.in_begin); --one.taps)
        one.in_begin += one.in_tap_step, one.first_tap += one.tap_step;
      while (one.taps > 0 && !inside(one.in_begin + (one.taps - 1) * one.in_tap_step)) --one.taps;
      if (i > 0 && parts.back().first_tap == one.first_tap && parts.back().taps == one.taps)
        ++parts.back().count;
      else
        parts.push_back(one);
    }
  return parts;
}

struct DepthwiseCall {
  DepthwisePlan plan;
  std::vector<ColumnClass> columns;
  const DepthwiseKernels& kernels;
  int64_t scratch_bytes, weight_bytes, sum_bytes;  // of one worker; of one block

  DepthwiseCall(const Conv2dProblem& problem, bool transposed, const Image& in, const Image& out, const Image& weight,
                const void* bias)
      : columns(transposed ? transposed_columns(problem.shape) : forward_columns(problem.shape)),
        kernels(kernels_for(problem.dtype)) {
    const Conv2dShape& shape = problem.shape;
    plan = {.shape = shape, .transposed = transposed, .in = in, .out = out, .weight = weight, .bias = bias};
    plan.depth = transposed ? filters_per_group(shape) : channels_per_group(shape);
    plan.group_outputs = transposed ? channels_per_group(shape) : filters_per_group(shape);
    plan.blocks = ceil_div(out.c, kDepthwiseBlock);
    plan.in_place =
        in.c_stride == 1 && out.c_stride == 1 && out.c == in.c && out.c == shape.groups && out.c >= kDepthwiseBlock;
    plan.width = in.w;
    if (plan.in_place)
      columns = clipped(columns, in.w);
    else
      pad();
    plan.columns = columns.data(), plan.column_classes = static_cast<int64_t>(columns.size());
    const int64_t pixel_bytes = kDepthwiseBlock * kernels.compute_size;
    plan.band_rows = out.h;
    while (plan.band_rows > 1 && band_pixels(plan.band_rows) * pixel_bytes > kBandBytes)
      plan.band_rows = ceil_div(plan.band_rows, 2);
    plan.bands = ceil_div(out.h, plan.band_rows);
    plan.band_in_rows = rows_read(plan.band_rows);
    scratch_bytes = round_up(depthwise_scratch(plan) * kernels.compute_size, 64);
    sum_bytes = plan.depth * plan.taps() * pixel_bytes, weight_bytes = sum_bytes + pixel_bytes;
  }
  DepthwiseCall(const DepthwiseCall&) = delete;

 private:
  // Room for zeros on both sides of a copied row.
  void pad() {
    int64_t low = 0, high = plan.in.w - 1;
    for (const ColumnClass& c : columns) {
      if (c.taps == 0) continue;
      const int64_t reach = (c.taps - 1) * c.in_tap_step;
      low = std::min(low, c.in_begin + std::min<int64_t>(0, reach));
      high = std::max(high, c.in_begin + (c.count - 1) * c.in_step + std::max<int64_t>(0, reach));
    }
    plan.left = -low, plan.width = high - low + 1;
  }
  int64_t rows_read(int64_t rows) const {
    const int64_t reach = (plan.shape.r - 1) * plan.shape.dilation_h;
    const int64_t read =
        plan.transposed ? (rows - 1 + reach) / plan.shape.stride_h + 2 : (rows - 1) * plan.shape.stride_h + reach + 1;
    return std::min(read, plan.in.h);
  }
  int64_t band_pixels(int64_t rows) const {
    return (plan.in_place ? plan.blocks : plan.depth) * rows_read(rows) * plan.width + rows * plan.out.w;
  }
};

void correlate(const DepthwiseCall& call) {
  const DepthwisePlan& plan = call.plan;
  const int64_t blocks = plan.in_place ? 1 : plan.blocks, tasks = plan.out.n * plan.bands * blocks;
  const int64_t workers = workers_for(tasks);
  const Workspace weights(plan.blocks * call.weight_bytes), scratch(workers * call.scratch_bytes);
  for_each_task(plan.blocks, workers_for(plan.blocks), [&](int64_t block, int64_t) {
    call.kernels.pack_weight(plan, block, weights.at(block * call.weight_bytes));
  });
  for_each_task(tasks, workers, [&](int64_t task, int64_t worker) {
    const int64_t block = task % blocks, band = task / blocks % plan.bands, n = task / blocks / plan.bands;
    char* const memory = scratch.at(worker * call.scratch_bytes);
    if (plan.in_place)
      call.kernels.correlate_in_place(plan, n, band, weights.at(0), memory);
    else
      call.kernels.correlate_copied(plan, n, block, band, weights.at(block * call.weight_bytes), memory);
  });
}

}  // namespace

bool can_compute(const Conv2dShape& shape) {
  constexpr int64_t kFewChannels = 8;
  return shape.groups > 1 && channels_per_group(shape) <= kFewChannels && filters_per_group(shape) <= kFewChannels &&
         shape.pad_left + shape.pad_right <= shape.w + 64;  // padding is copied
}

void forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& output) {
  const Tensor image = readable(input);
  const Tensor dense_bias = bias ? dense(*bias, false) : image;
  correlate(DepthwiseCall(problem, false, image_of(image), mutable_image_of(output), image_of(weight),
                          bias ? dense_bias.const_data_ptr() : nullptr));
}

void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight, Tensor& grad_input) {
  const Tensor image = readable(grad_output);
  correlate(DepthwiseCall(problem, true, image_of(image), mutable_image_of(grad_input), image_of(weight), nullptr));
}

void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight) {
  const Tensor image = readable(input), grad = readable(grad_output);
  const DepthwiseCall call(problem, false, image_of(image), image_of(grad), mutable_image_of(grad_weight), nullptr);
  const DepthwisePlan& plan = call.plan;
  // A chunk of (sample, band) pairs has sums of its own: as many chunks as there is memory for.
  const int64_t sum_bytes = plan.blocks * call.sum_bytes, bands = plan.out.n * plan.bands;
  const int64_t chunk = std::max<int64_t>(1, ceil_div(bands * sum_bytes, kSumBytes));
  const int64_t chunks = std::max<int64_t>(1, ceil_div(bands, chunk));
  const int64_t blocks = plan.in_place ? 1 : plan.blocks, tasks = chunks * blocks, workers = workers_for(tasks);
  const Workspace sums(chunks * sum_bytes), scratch(workers * call.scratch_bytes);
  const auto finish_weight = kernels_for(dtype_of(grad_weight)).finish_weight;
  for_each_task(tasks, workers, [&](int64_t task, int64_t worker) {
    char* const sum = sums.at(task * (sum_bytes / blocks));
    std::fill_n(sum, sum_bytes / blocks, 0);
    for (int64_t i = task / blocks * chunk; i < std::min((task / blocks + 1) * chunk, bands); ++i) {
      const int64_t n = i / plan.bands, band = i % plan.bands;
      if (plan.in_place)
        call.kernels.grad_weight_in_place(plan, n, band, sum);
      else
        call.kernels.grad_weight_copied(plan, n, task % blocks, band, sum, scratch.at(worker * call.scratch_bytes));
    }
  });
  for_each_task(plan.blocks, workers_for(plan.blocks), [&](int64_t block, int64_t) {
    finish_weight(plan, block, sums.at(block * call.sum_bytes), chunks, sum_bytes / call.kernels.compute_size);
  });
}

}  // namespace tmc::depthwise
