// The kernels of depthwise.h, compiled once for each instruction set by depthwise_<isa>.cpp.
//
// A pixel of kBlock output channels is `taps` multiply-adds of whole vectors, kPixels of them side by side so that a
// weight is loaded once for all; taps outside the image are left out. The operands are read where they are if the image
// is channels_last and each group one channel, else from a band of rows copied into that form (depthwise_copy.h), with
// zeros left and right of the image.
//
// Bound: memory, with few taps. An AVX-512 pixel of 16 channels moves 128 bytes and takes 9 multiply-adds (3 x 3),
// each with a load: about 5 cycles, to some 40 that memory takes.
#pragma once
#include "depthwise_copy.h"

namespace tmc {
namespace {

// Pixels side by side, each with its sum in kParts registers: at most half of the registers.
template <class T>
constexpr int kPixels = kVectorBytes == 64 ? 8 : (kParts<T> < 8 ? 8 / kParts<T> : 1);
// So many terms are summed in registers before they join a total: rounding errors grow with the length of a run.
constexpr int64_t kSumTerms = 32;

// The image row that tap u of output row y reads, or -1.
int64_t source_row(const DepthwisePlan& plan, int64_t y, int64_t u) {
  if (plan.transposed) return output_row(plan.shape, y, u);
  const int64_t row = input_row(plan.shape, y, u);
  return row >= 0 && row < plan.in.h ? row : -1;
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

// Where a block's pixels are, and how far apart neighbours are in memory. kStep is in_step, or 0 for any.
struct Steps {
  int64_t in_block, weight_block, in_pixel, out_pixel;
};

// ---- Forward and grad_input.

// out[i] = bias + sum over row taps and taps of weight * in, for kCount columns from column i of the class on.
template <int kCount, int64_t kStep, class T, class In, class Out>
void correlate_columns(const RowTap<T, In>* rows, int64_t row_count, int64_t run, const ColumnClass& columns,
                       const Steps& steps, int64_t i, const T* bias, Out* out) {
  const int64_t step = kStep ? kStep : columns.in_step * steps.in_pixel,
                tap_step = columns.in_tap_step * steps.in_pixel;
  const int64_t in_begin = steps.in_block + columns.in_begin * steps.in_pixel + i * step;
  const int64_t weight_begin = steps.weight_block + columns.first_tap * kBlock;
  Lanes<T> total[kCount][kParts<T>] = {}, sum[kCount][kParts<T>] = {};
  for (int64_t left = run; row_count > 0; --row_count, ++rows) {
    const In* in = rows->in + in_begin;
    const T* weight = rows->weight + weight_begin;
    for (int64_t t = 0; t < columns.taps; ++t, in += tap_step, weight += columns.tap_step * kBlock)
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts<T>; ++part) {
        const Lanes<T> w = load(weight + part * kLanes<T>);
#pragma GCC unroll 8
        for (int j = 0; j < kCount; ++j) sum[j][part] += w * load(in + j * step + part * kLanes<T>);
      }
    if (--left > 0 || row_count == 1) continue;
    left = run;
    for (int j = 0; j < kCount; ++j)
      for (int64_t part = 0; part < kParts<T>; ++part) total[j][part] += sum[j][part], sum[j][part] = Lanes<T>{};
  }
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j)
#pragma GCC unroll 8
    for (int64_t part = 0; part < kParts<T>; ++part)
      store(Lanes<T>(load(bias + part * kLanes<T>) + (total[j][part] + sum[j][part])),
            out + j * columns.out_step * steps.out_pixel + part * kLanes<T>);
}

// The instance for `count` <= kCount.
template <int kCount, int64_t kStep, class... Arguments>
void correlate_last(int64_t count, const Arguments&... arguments) {
  if constexpr (kCount > 1) {
    if (count < kCount) return correlate_last<kCount - 1, kStep>(count, arguments...);
  }
  correlate_columns<kCount, kStep>(arguments...);
}

int64_t run_of(const ColumnClass& columns) {
  return columns.taps == 0 ? 1 : max(1, kSumTerms / columns.taps);
}

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
    const Steps steps = {0, 0, kBlock, kBlock};
    for (const ColumnClass* c = plan.columns; c < plan.columns + plan.column_classes; ++c)
      for (int64_t i = 0; i < c->count; i += kPixels<T>) {
        const int64_t count = min(kPixels<T>, c->count - i);
        T* const out = result + (c->out_begin + i * c->out_step) * kBlock;
        if (c->in_step == 1)
          correlate_last<kPixels<T>, kBlock>(count, rows, row_count, run_of(*c), *c, steps, i, bias, out);
        else
          correlate_last<kPixels<T>, 0>(count, rows, row_count, run_of(*c), *c, steps, i, bias, out);
      }
  }
  write_band<T, Stored>(plan.out, n, plan.channel(block), band.out_begin, band.out_end - band.out_begin,
                        copies + plan.depth * copy_size);
}

// How often the loops over the blocks in place come to one, in a row, if they take at most `pixels` columns at once.
int64_t visits(const DepthwisePlan& plan, int64_t pixels) {
  int64_t count = 0;
  for (const ColumnClass* c = plan.columns; c < plan.columns + plan.column_classes; ++c)
    count += (c->count + pixels - 1) / pixels;
  return max(1, count * plan.blocks);
}

// The rows that are needed after output row y, but not for it, fetched while y is computed: each visit takes an equal
// part of each row, so that memory sees a few streams in its own order. (Fetching what lies below the visit, as many
// streams as a block has columns, took 1.4 to 2 times as long, no fetching more.) The row to be written is one of them:
// a store that misses holds up those after it. Zen 5, MobileNetV2's layers in float32.
template <class Stored>
class NextRows {
 public:
  NextRows(const DepthwisePlan& plan, int64_t n, int64_t y, int64_t visits) : visits_(visits) {
    if (++y == plan.out.h) ++n, y = 0;
    if (n == plan.out.n) return;
    const int64_t last = plan.transposed ? 0 : plan.shape.r - 1, end = source_row(plan, y, last) + 1;
    const int64_t begin = y == 0 ? 0 : max(0, end - (plan.transposed ? 1 : plan.shape.stride_h));
    for (int64_t h = begin; h < end && count_ < kMost - 1; ++h) add(plan.in, n, h);
    add(plan.out, n, y);
  }
  void fetch() {
    for (Row* row = rows_; row < rows_ + count_; ++row) {
      const char* const end = row->from + min(row->step, row->end - row->from);
      for (; row->from < end; row->from += kLine) __builtin_prefetch(row->from);
    }
  }

 private:
  static constexpr int64_t kMost = 8, kLine = 64;
  struct Row {
    const char *from, *end;
    int64_t step;
  };
  void add(const Image& image, int64_t n, int64_t h) {
    const char* from = reinterpret_cast<const char*>(element<const Stored>(image, n, 0, h));
    const int64_t bytes = image.w * image.w_stride * static_cast<int64_t>(sizeof(Stored));
    rows_[count_++] = {from, from + bytes, (bytes / visits_ + kLine) / kLine * kLine};
  }
  Row rows_[kMost];
  int64_t visits_, count_ = 0;
};

// The rows of a band, all blocks of a few columns before the next ones: memory is read and written in its order.
template <class T, class Stored>
void correlate_in_place(const DepthwisePlan& plan, int64_t n, int64_t band_index, const void* packed_weight,
                        void* scratch) {
  auto* const rows = static_cast<RowTap<T, Stored>*>(scratch);
  const int64_t band_end = min((band_index + 1) * plan.band_rows, plan.out.h), weights = (plan.taps() + 1) * kBlock;
  for (int64_t y = band_index * plan.band_rows; y < band_end; ++y) {
    int64_t row_count = 0;
    for (int64_t u = 0; u < plan.shape.r; ++u) {
      const int64_t row = source_row(plan, y, u);
      if (row < 0) continue;
      rows[row_count++] = {element<const Stored>(plan.in, n, 0, row),
                           static_cast<const T*>(packed_weight) + u * plan.shape.s * kBlock};
    }
    Stored* const out_row = element<Stored>(plan.out, n, 0, y);
    NextRows<Stored> next(plan, n, y, visits(plan, kPixels<T>));
    for (const ColumnClass* c = plan.columns; c < plan.columns + plan.column_classes; ++c)
      for (int64_t i = 0; i < c->count; i += kPixels<T>) {
        const int64_t count = min(kPixels<T>, c->count - i), run = run_of(*c);
        for (int64_t block = 0; block < plan.blocks; ++block) {
          const int64_t channel = plan.channel(block);
          const Steps steps = {channel, block * weights, plan.in.w_stride, plan.out.w_stride};
          const T* const bias = static_cast<const T*>(packed_weight) + (block + 1) * weights - kBlock;
          next.fetch();
          correlate_last<kPixels<T>, 0>(count, rows, row_count, run, *c, steps, i, bias,
                                        out_row + (c->out_begin + i * c->out_step) * plan.out.w_stride + channel);
        }
      }
  }
}

}  // namespace
}  // namespace tmc
