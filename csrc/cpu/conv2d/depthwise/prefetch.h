// Software prefetch for the kernels that read images in place (cpu/conv2d/depthwise/depthwise.h).
//
// Such a kernel takes all blocks of channels of a few columns, in three rows or more, before it moves on: too many
// streams for the hardware's prefetcher. Bound: memory, which is at its fastest only if it is read in its own order.
#pragma once
#include "cpu/conv2d/depthwise/copy.h"
#include "cpu/lanes/prefetch.h"

namespace tmc {
namespace {

// The image row that tap u of output row y reads, or -1.
int64_t source_row(const DepthwisePlan& plan, int64_t y, int64_t u) {
  if (plan.transposed) return output_row(plan.shape, y, u);
  const int64_t row = input_row(plan.shape, y, u);
  return row >= 0 && row < plan.in.h ? row : -1;
}

// How often the loops over the blocks in place come to one, in a row, if they take at most `pixels` columns at once.
int64_t visits(const DepthwisePlan& plan, int64_t pixels) {
  int64_t count = 0;
  for (const ColumnClass* c = plan.columns; c < plan.columns + plan.column_classes; ++c)
    count += (c->count + pixels - 1) / pixels;
  return max(1, count * plan.blocks);
}

// The rows that are needed after output row y, but not for it. They are prefetched while row y is computed: each visit
// takes an equal part of each row, so that memory sees a few streams in its own order. (To prefetch what lies below the
// visit instead, as many streams as a block has columns, took 1.4 to 2 times as long; no prefetch took still longer.)
// The row to be written is one of them: a store that misses holds up those after it. Zen 5, MobileNetV2's layers in
// float32.
class PrefetchedRows {
 public:
  PrefetchedRows() = default;  // none

  template <class Stored>
  static PrefetchedRows after(const DepthwisePlan& plan, int64_t n, int64_t y, int64_t visits) {
    PrefetchedRows rows;
    if (++y == plan.out.h) ++n, y = 0;
    if (n == plan.out.n) return rows;
    const int64_t last = plan.transposed ? 0 : plan.shape.r - 1, end = source_row(plan, y, last) + 1;
    const int64_t begin = y == 0 ? 0 : max(0, end - (plan.transposed ? 1 : plan.shape.stride_h));
    for (int64_t h = begin; h < end && rows.count_ < kMost - 1; ++h) rows.add<Stored>(plan.in, n, h, visits);
    rows.add<Stored>(plan.out, n, y, visits);
    return rows;
  }
  // Before each visit.
  void advance() {
    for (int64_t i = 0; i < count_; ++i) streams_[i].advance(bytes_[i]);
  }

 private:
  static constexpr int64_t kMost = 8;
  template <class Stored>
  void add(const Image& image, int64_t n, int64_t h, int64_t visits) {
    const char* from = reinterpret_cast<const char*>(element<const Stored>(image, n, 0, h));
    const int64_t bytes = image.w * image.w_stride * static_cast<int64_t>(sizeof(Stored));
    streams_[count_] = {from, from + bytes};
    bytes_[count_++] = (bytes / visits + kCacheLine) / kCacheLine * kCacheLine;
  }
  PrefetchStream<> streams_[kMost];
  int64_t bytes_[kMost];
  int64_t count_ = 0;
};

}  // namespace
}  // namespace tmc
