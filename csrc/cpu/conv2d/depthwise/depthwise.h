// Convolution in groups of few channels: depthwise above all, where a group is one channel.
//
//   out[n, o, y, x] = bias[o] + sum_{d, u, v} in[n, o / group_outputs * depth + d, row(y, u), column(x, v)] * w[o, d,
//   u, v]
//
// is the forward (in: input) and grad_input (in: grad_output, eq. 5) alike; grad_weight sums in * grad_output over
// n, y, x instead (eq. 3). A matrix product would fill its vectors with the few channels of one group. Here a vector
// holds kBlock neighbouring output channels, whatever their groups, each with weights of its own; its operand is the
// image copied into that order, `depth` times, so that lane o of copy d holds the channel that output o multiplies.
//
// In: images whose channels or columns adjoin, of any dtype, and the weight. Out: output, grad_input or grad_weight.
// Bound: memory where groups are one channel of 3 x 3 taps. Two forms: in place, where images are channels_last and
// groups one channel; else a band of rows is copied first.
//
// The driver (cpu/conv2d/depthwise/depthwise.cpp) describes the call in a plan; the kernels
// (cpu/conv2d/depthwise/kernels.h) are compiled once for each instruction set.
#pragma once
#include "conv2d.h"
#include "cpu/image/image.h"

namespace tmc {

constexpr int64_t kDepthwiseBlock = 16;  // output channels side by side: a vector of floats for AVX-512, else several

// The output columns of one residue of the stride (all of them in the forward): column out_begin + i * out_step, for
// i < count, multiplies tap first_tap + t * tap_step with input column in_begin + i * in_step + t * in_tap_step.
struct ColumnClass {
  int64_t out_begin, out_step, count;
  int64_t in_begin, in_step, in_tap_step;
  int64_t first_tap, tap_step, taps;
};

struct DepthwisePlan {
  Conv2dShape shape;
  bool transposed;   // grad_input: taps are found by output_row, not by input_row
  Image in, out;     // of grad_weight: the input and grad_output
  Image weight;      // seen from the output: n = its channels within the group, c = depth (swapped if transposed)
  const void* bias;  // of the operands' dtype, or null
  int64_t depth, group_outputs;  // channels of a group in and out
  int64_t blocks;                // of output channels
  int64_t left, width;           // a copied row: zeros before the image's columns, and the columns in all
  const ColumnClass* columns;
  int64_t column_classes;
  int64_t band_rows, bands;  // output rows that are computed from one copied band of the image, and how many bands
  int64_t band_in_rows;      // the most rows a band reads

  bool in_place;  // images are read and written where they are: both channels_last, groups of one channel

  int64_t taps() const { return shape.r * shape.s; }
  // The first channel of a block; in place, the last block overlaps its neighbour rather than be narrower.
  int64_t channel(int64_t block) const {
    const int64_t first = block * kDepthwiseBlock;
    return in_place && first + kDepthwiseBlock > out.c ? out.c - kDepthwiseBlock : first;
  }
};

struct DepthwiseKernels {
  int64_t compute_size;  // bytes of the compute type
  // packed[d][tap][lane] of one block, and its bias[lane].
  void (*pack_weight)(const DepthwisePlan& plan, int64_t block, void* packed);
  // The rows of one band of one sample: of one block, or in place of all, their weights following each other. Scratch
  // holds depthwise_scratch() elements.
  void (*correlate_copied)(const DepthwisePlan& plan, int64_t n, int64_t block, int64_t band, const void* packed_weight,
                           void* scratch);
  void (*correlate_in_place)(const DepthwisePlan& plan, int64_t n, int64_t band, const void* packed_weight,
                             void* scratch);
  // sums[d][tap][lane] += the same band's part of grad_weight; in place, sums[block][d][tap][lane].
  void (*grad_weight_copied)(const DepthwisePlan& plan, int64_t n, int64_t block, int64_t band, void* sums,
                             void* scratch);
  void (*grad_weight_in_place)(const DepthwisePlan& plan, int64_t n, int64_t band, void* sums);
  // Adds `count` arrays of a block's sums, `distance` elements apart, in order and writes them to the weight.
  void (*finish_weight)(const DepthwisePlan& plan, int64_t block, void* sums, int64_t count, int64_t distance);
};

// Elements of scratch: the copied band, its results (or grad_output), and the row taps.
inline int64_t depthwise_scratch(const DepthwisePlan& plan) {
  const int64_t copies = plan.depth * plan.band_in_rows * plan.width, results = plan.band_rows * plan.out.w;
  return (plan.in_place ? 0 : (copies + results) * kDepthwiseBlock) + 4 * plan.depth * plan.shape.r;
}

using DepthwiseKernelTable = DepthwiseKernels[4];  // by DType

}  // namespace tmc
