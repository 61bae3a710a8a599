// The kernels of cpu/conv2d/depthwise/depthwise.h, compiled once for each instruction set by kernels.isa.cpp.
//
// A pixel of kBlock output channels is `taps` multiply-adds of whole vectors. kPixels of them are computed side by
// side: a weight is loaded once for all, a column of the image once for all taps that it is under, where these and the
// pixels are neighbours. Taps outside the image are left out. The operands are read where they are if the image is
// channels_last and each group one channel, else from a band of rows copied into that form
// (cpu/conv2d/depthwise/copy.h), with zeros left and right of the image.
//
// Registers (AVX-512): 8 sums and 8 totals, 3 weights and a column: 20 of 32. Bound: memory, with few taps. A pixel of
// 16 channels moves 128 bytes, some 13 cycles at 40 GB/s, and takes 9 multiply-adds (3 x 3), two a cycle.
#pragma once
#include "cpu/conv2d/depthwise/prefetch.h"

namespace tmc {
namespace {

// Pixels side by side, each with a sum and a total: at most half of the registers.
template <class T>
constexpr int kPixels = kVectorBytes == 64 ? 8 : 8 / kParts<T>;
// So many terms are summed in registers before they join a total: rounding errors grow with the length of a run.
constexpr int64_t kSumTerms = 32;

// A pixel in the precision that it is computed in. Without instructions for half types the conversion of a vector is
// dozens of scalar instructions: one copy of them, not one for every load that is unrolled.
template <class Stored>
[[gnu::noinline]] Lanes<float> load_by_scalars(const Stored* from) {
  return load(from);
}
template <class Stored>
[[gnu::always_inline]] inline Lanes<accumulate_t<Stored>> load_pixel(const Stored* from) {
  if constexpr (sizeof(Stored) == 2 && kVectorBytes == 16)
    return load_by_scalars(from);
  else
    return load(from);
}

struct Band {
  int64_t out_begin, out_end;  // output rows
  int64_t in_begin, in_end;    // image rows they read
};
Band band_of(const DepthwisePlan& plan, int64_t index) {
  Band band = {index * plan.band_rows, min((index + 1) * plan.band_rows, plan.out.h), plan.in.h, 0};
  for (int64_t y = band.out_begin; y < band.out_end; ++y)
    for (int64_t u = 0; u < plan.shape.r; ++u) {
      const int64_t row = source_row(plan, y, u);
      if (row < 0) continue;
      band.in_begin = min(band.in_begin, row), band.in_end = max(band.in_end, row + 1);
    }
  if (band.in_end == 0) band.in_begin = 0;
  return band;
}

LaneSources lane_sources(const DepthwisePlan& plan, int64_t block, int64_t d) {
  const int64_t channel = plan.channel(block), lanes = min(kBlock, plan.out.c - channel);
  const auto source = [&](int64_t o) { return o / plan.group_outputs * plan.depth + d; };
  LaneSources sources = {source(channel), 0, lanes == kBlock, {}};
  for (int64_t lane = 0; lane < kBlock; ++lane) {
    const int64_t from_first = source(channel + min(lane, lanes - 1)) - sources.first;
    sources.from_first[lane] = static_cast<int32_t>(from_first);
    sources.identity &= from_first == lane;
    sources.span = from_first + 1;
  }
  return sources;
}

// A row of taps: an image row's column 0 in the first block, and its weights there. Rows and weights of other blocks
// lie at the offsets that the kernels are given.
template <class T, class In>
struct RowTap {
  const In* in;
  const T* weight;
};

// How far apart neighbouring pixels are in memory, and, where all blocks of a few columns are computed one after the
// other, how many there are and how far apart their weights.
struct Steps {
  int64_t in_pixel, out_pixel;
  int64_t blocks, weight_block;
};

// The step from one output column to the next that the loops are unrolled for: 1 or 2, if the taps are neighbours too.
// Else 0: any step, one tap at a time.
inline int unrolled_step(const ColumnClass& columns) {
  const bool adjoin = columns.taps == 1 || columns.in_tap_step == 1 || columns.in_tap_step == -1;
  return adjoin && columns.in_step <= 2 ? static_cast<int>(columns.in_step) : 0;
}

// ---- Forward and grad_input.

// sum[j] += sum over t of weight[t] * in[j * kStep + t]: a column is read once for all taps that it is under.
template <int kCount, int kStep, int kTaps, class T, class In>
[[gnu::always_inline]] inline void add_neighbours(const In* in, int64_t pixel, const T* weight, int64_t weight_tap,
                                                  Lanes<T> (&sum)[kCount]) {
  Lanes<T> w[kTaps];
#pragma GCC unroll 3
  for (int t = 0; t < kTaps; ++t) w[t] = load(weight + t * weight_tap);
#pragma GCC unroll 17
  for (int column = 0; column < (kCount - 1) * kStep + kTaps; ++column, in += pixel) {
    const Lanes<T> value = load_pixel(in);
#pragma GCC unroll 3
    for (int t = 0; t < kTaps; ++t)
      if (column >= t && (column - t) % kStep == 0 && (column - t) / kStep < kCount)
        sum[(column - t) / kStep] += w[t] * value;
  }
}

// The taps of one row, three at a time; with kStep = 0 one at a time.
template <int kCount, int kStep, class T, class In>
[[gnu::always_inline]] inline void add_row(const In* in, const T* weight, const ColumnClass& columns, int64_t in_pixel,
                                           Lanes<T> (&sum)[kCount]) {
  int64_t in_tap = columns.in_tap_step * in_pixel, weight_tap = columns.tap_step * kBlock;
  if (columns.in_tap_step == -1) {  // from the other end, in the order of memory
    in += (columns.taps - 1) * in_tap, weight += (columns.taps - 1) * weight_tap;
    in_tap = -in_tap, weight_tap = -weight_tap;
  }
  if constexpr (kStep == 0) {
    const int64_t step = columns.in_step * in_pixel;
    for (int64_t t = 0; t < columns.taps; ++t, in += in_tap, weight += weight_tap) {
      const Lanes<T> w = load(weight);
#pragma GCC unroll 8
      for (int j = 0; j < kCount; ++j) sum[j] += w * load_pixel(in + j * step);
    }
  } else {
    for (int64_t left = columns.taps; left > 0; left -= 3, in += 3 * in_pixel, weight += 3 * weight_tap)
      if (left >= 3)
        add_neighbours<kCount, kStep, 3>(in, in_pixel, weight, weight_tap, sum);
      else if (left == 2)
        add_neighbours<kCount, kStep, 2>(in, in_pixel, weight, weight_tap, sum);
      else
        add_neighbours<kCount, kStep, 1>(in, in_pixel, weight, weight_tap, sum);
  }
}

// out[i] = bias + sum over row taps and taps of weight * in, for kCount columns from column i of the class on, of every
// block. Each is a visit of `prefetched`.
template <int kCount, int kStep, class T, class In, class Out>
void correlate_columns(const DepthwisePlan& plan, const RowTap<T, In>* rows, int64_t row_count,
                       const ColumnClass& columns, const Steps& steps, int64_t i, const T* bias, Out* out,
                       PrefetchedRows& prefetched) {
  const int64_t run = columns.taps == 0 ? 1 : max(1, kSumTerms / columns.taps);
  const int64_t out_step = columns.out_step * steps.out_pixel;
  const int64_t in_begin = (columns.in_begin + i * columns.in_step) * steps.in_pixel;
  int64_t weight_begin = columns.first_tap * kBlock;
  for (int64_t block = 0; block < steps.blocks;
       ++block, weight_begin += steps.weight_block, bias += steps.weight_block) {
    const int64_t channel = steps.blocks == 1 ? 0 : plan.channel(block);
    prefetched.advance();
    for (int64_t lane = 0; lane < kBlock; lane += kLanes<T>) {
      Lanes<T> total[kCount] = {}, sum[kCount] = {};
      int64_t left = run;
      for (int64_t u = 0; u < row_count; ++u) {
        add_row<kCount, kStep>(rows[u].in + in_begin + channel + lane, rows[u].weight + weight_begin + lane, columns,
                               steps.in_pixel, sum);
        if (--left > 0) continue;
        left = run;
#pragma GCC unroll 8
        for (int j = 0; j < kCount; ++j) total[j] += sum[j], sum[j] = Lanes<T>{};
      }
      const Lanes<T> first = load(bias + lane);
      Out* to = out + channel + lane;
#pragma GCC unroll 8
      for (int j = 0; j < kCount; ++j, to += out_step) store(Lanes<T>(first + (total[j] + sum[j])), to);
    }
  }
}

// The instance for `count` <= kCount columns.
template <int kCount, class T, class In, class Out>
void correlate_some(int64_t count, const DepthwisePlan& plan, const RowTap<T, In>* rows, int64_t row_count,
                    const ColumnClass& columns, const Steps& steps, int64_t i, const T* bias, Out* out,
                    PrefetchedRows& prefetched) {
  if constexpr (kCount > 1) {
    if (count < kCount)
      return correlate_some<kCount - 1>(count, plan, rows, row_count, columns, steps, i, bias, out, prefetched);
  }
  const int step = unrolled_step(columns);
  if (step == 1) return correlate_columns<kCount, 1>(plan, rows, row_count, columns, steps, i, bias, out, prefetched);
  if (step == 2) return correlate_columns<kCount, 2>(plan, rows, row_count, columns, steps, i, bias, out, prefetched);
  correlate_columns<kCount, 0>(plan, rows, row_count, columns, steps, i, bias, out, prefetched);
}

// Runs of columns of equal length, at most kPixels: no short last one.
template <class T>
struct Runs {
  int64_t columns, count;
  explicit Runs(int64_t columns_) : columns(columns_), count((columns_ + kPixels<T> - 1) / kPixels<T>) {}
  int64_t begin(int64_t run) const { return run * columns / count; }
  int64_t size(int64_t run) const { return begin(run + 1) - begin(run); }
};

// The rows of a band, block by block.
template <class T, class Stored>
void correlate_copied(const DepthwisePlan& plan, int64_t n, int64_t block, int64_t band_index,
                      const void* packed_weight, void* scratch) {
  const Band band = band_of(plan, band_index);
  const int64_t row_size = plan.width * kBlock, copy_size = (band.in_end - band.in_begin) * row_size;
  T* const copies = static_cast<T*>(scratch);
  T* result = copies + plan.depth * copy_size;
  auto* const rows = reinterpret_cast<RowTap<T, T>*>(result + plan.band_rows * plan.out.w * kBlock);
  for (int64_t d = 0; d < plan.depth; ++d)
    copy_band<T, Stored>(plan.in, n, lane_sources(plan, block, d), band.in_begin, band.in_end, plan.left, plan.width,
                         copies + d * copy_size);
  const T* const bias = static_cast<const T*>(packed_weight) + plan.depth * plan.taps() * kBlock;
  for (int64_t y = band.out_begin; y < band.out_end; ++y, result += plan.out.w * kBlock) {
    int64_t row_count = 0;
    for (int64_t d = 0; d < plan.depth; ++d)
      for (int64_t u = 0; u < plan.shape.r; ++u) {
        const int64_t row = source_row(plan, y, u);
        if (row < 0) continue;
        rows[row_count++] = {copies + d * copy_size + (row - band.in_begin) * row_size + plan.left * kBlock,
                             static_cast<const T*>(packed_weight) + (d * plan.taps() + u * plan.shape.s) * kBlock};
      }
    const Steps steps = {kBlock, kBlock, 1, 0};
    PrefetchedRows none;
    for (const ColumnClass* c = plan.columns; c < plan.columns + plan.column_classes; ++c) {
      const Runs<T> runs(c->count);
      for (int64_t i = 0; i < runs.count; ++i) {
        T* const out = result + (c->out_begin + runs.begin(i) * c->out_step) * kBlock;
        correlate_some<kPixels<T>>(runs.size(i), plan, rows, row_count, *c, steps, runs.begin(i), bias, out, none);
      }
    }
  }
  write_band<T, Stored>(plan.out, n, plan.channel(block), band.out_begin, band.out_end - band.out_begin,
                        copies + plan.depth * copy_size);
}

// The rows of a band, all blocks of a few columns before the next ones: memory is read and written in its order.
template <class T, class Stored>
void correlate_in_place(const DepthwisePlan& plan, int64_t n, int64_t band_index, const void* packed_weight,
                        void* scratch) {
  auto* const rows = static_cast<RowTap<T, Stored>*>(scratch);
  const int64_t band_end = min((band_index + 1) * plan.band_rows, plan.out.h), weights = (plan.taps() + 1) * kBlock;
  const Steps steps = {plan.in.w_stride, plan.out.w_stride, plan.blocks, weights};
  const T* const bias = static_cast<const T*>(packed_weight) + weights - kBlock;
  for (int64_t y = band_index * plan.band_rows; y < band_end; ++y) {
    int64_t row_count = 0;
    for (int64_t u = 0; u < plan.shape.r; ++u) {
      const int64_t row = source_row(plan, y, u);
      if (row < 0) continue;
      rows[row_count++] = {element<const Stored>(plan.in, n, 0, row),
                           static_cast<const T*>(packed_weight) + u * plan.shape.s * kBlock};
    }
    Stored* const out_row = element<Stored>(plan.out, n, 0, y);
    PrefetchedRows prefetched = PrefetchedRows::after<Stored>(plan, n, y, visits(plan, kPixels<T>));
    for (const ColumnClass* c = plan.columns; c < plan.columns + plan.column_classes; ++c) {
      const Runs<T> runs(c->count);
      for (int64_t i = 0; i < runs.count; ++i)
        correlate_some<kPixels<T>>(runs.size(i), plan, rows, row_count, *c, steps, runs.begin(i), bias,
                                   out_row + (c->out_begin + runs.begin(i) * c->out_step) * plan.out.w_stride,
                                   prefetched);
    }
  }
}

}  // namespace
}  // namespace tmc
