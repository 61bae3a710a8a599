// What memory is asked for ahead of the kernels in place (cpu/conv2d/depthwise/depthwise.h).
//
// They come to the blocks of a few columns one after the other, in three rows and more: too many streams for the
// hardware's prefetcher. Bound: memory, which is as fast as it is only if it is read in its own order.
#pragma once
#include "cpu/conv2d/depthwise/copy.h"

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

// Where nothing needs to be fetched.
struct NoRows {
  void fetch() {}
};

}  // namespace
}  // namespace tmc
