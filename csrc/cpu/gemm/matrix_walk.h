// Walks a MatrixView in runs, at constant distances in memory: how packing reads an image and a finished tile is
// written.
#pragma once
#include "cpu/gemm/micro_kernel.h"

namespace tmc {
namespace {

// The address of a position, which wraps for one so far outside the image that its elements are never touched.
int64_t spatial_offset(const MatrixView& view, int64_t h, int64_t w) {
  return static_cast<int64_t>(static_cast<uint64_t>(h) * static_cast<uint64_t>(view.h_stride) +
                              static_cast<uint64_t>(w) * static_cast<uint64_t>(view.w_stride));
}

// What one index, of a row or a column, adds to the address and the position.
struct Move {
  int64_t offset, h, w;
};

// An index that counts up, in its three factors.
struct Counter {
  const FactoredIndex& factors;
  int64_t outer, middle, inner;

  Counter(const FactoredIndex& factors_, int64_t index) : factors(factors_) {
    inner = index % factors.inner.size, index /= factors.inner.size;
    middle = index % factors.middle.size, outer = index / factors.middle.size;
  }
  Move move() const {  // by the current index without its innermost factor
    return {outer * factors.outer.offset + middle * factors.middle.offset,
            outer * factors.outer.h + middle * factors.middle.h, outer * factors.outer.w + middle * factors.middle.w};
  }
  void advance(int64_t count) {  // not past the end of the innermost factor
    inner += count;
    if (inner < factors.inner.size) return;
    inner = 0;
    if (++middle < factors.middle.size) return;
    middle = 0, ++outer;
  }
};

// The steps t of a factor for which 0 <= start + t * step < extent.
IndexRange steps_inside(int64_t start, int64_t step, int64_t extent) {
  if (step == 0) return {0, start >= 0 && start < extent ? INT64_MAX : 0};
  if (step < 0) start = extent - 1 - start, step = -step;  // mirror
  const int64_t begin = start >= 0 ? 0 : (step - 1 - start) / step;
  const int64_t end = start >= extent ? 0 : (extent - start + step - 1) / step;
  return {begin, end > begin ? end - begin : 0};
}

// Elements between neighbours along the innermost factor.
int64_t run_stride(const MatrixView& view, const IndexFactor& inner) {
  return inner.grain > 1 ? inner.offset : inner.offset + inner.h * view.h_stride + inner.w * view.w_stride;
}

// A stretch of columns along the innermost factor, [inner, inner + count) of it.
struct Run {
  int64_t offset, h, w;  // h and w: where the innermost factor begins
  int64_t column, inner, count;
};
constexpr int64_t kMaxRuns = 512;

// Calls visit(row, column, count, offset, inside) for every stretch of every row of the block whose elements follow
// each other at the distance run_stride(view), `offset` being the first one's; rows and columns are counted from the
// block's corner. `inside` is false for a stretch outside the image.
template <class Visit>
void walk(const MatrixView& view, IndexRange rows, IndexRange columns, const Visit& visit) {
  const IndexFactor& inner = view.columns.inner;
  const int64_t stride = run_stride(view, inner), last_step = (inner.size - 1) / inner.grain;
  Counter column(view.columns, columns.begin);
  for (int64_t done = 0; done < columns.size;) {
    // The stretches are the same in every row: list them once (for as many columns as the list holds).
    Run runs[kMaxRuns];
    int64_t count = 0, low_h = INT64_MAX, high_h = INT64_MIN, low_w = INT64_MAX, high_w = INT64_MIN;
    for (; count < kMaxRuns && done < columns.size; ++count) {
      const Move move = column.move();
      const int64_t left = inner.size - column.inner, wanted = columns.size - done;
      const int64_t offset = move.offset + spatial_offset(view, move.h, move.w) + column.inner * stride;
      runs[count] = {offset, move.h, move.w, done, column.inner, min(left, wanted)};
      const int64_t moved_h = move.h + last_step * inner.h, moved_w = move.w + last_step * inner.w;
      low_h = min(low_h, min(move.h, moved_h)), high_h = max(high_h, max(move.h, moved_h));
      low_w = min(low_w, min(move.w, moved_w)), high_w = max(high_w, max(move.w, moved_w));
      column.advance(runs[count].count);
      done += runs[count].count;
    }
    Counter row(view.rows, rows.begin);
    for (int64_t i = 0; i < rows.size; ++i, row.advance(1)) {
      const Move move = row.move();
      const int64_t h0 = view.h0 + move.h + row.inner * view.rows.inner.h;
      const int64_t w0 = view.w0 + move.w + row.inner * view.rows.inner.w;
      const int64_t offset = move.offset + row.inner * view.rows.inner.offset + spatial_offset(view, h0, w0);
      if (h0 + low_h >= 0 && h0 + high_h < view.h_extent && w0 + low_w >= 0 && w0 + high_w < view.w_extent) {
        for (const Run* run = runs; run < runs + count; ++run)
          visit(i, run->column, run->count, offset + run->offset, true);
        continue;
      }
      // Some of this row lies outside. The innermost factor moves along h or w, never both: a stretch is clipped along
      // that one and is all or nothing along the other.
      const bool along_h = inner.h != 0;
      IndexRange valid = {0, 0};
      int64_t clipped_from = INT64_MIN;  // almost always the same as in the stretch before
      for (const Run* run = runs; run < runs + count; ++run) {
        const int64_t h = h0 + run->h, w = w0 + run->w, from = along_h ? h : w;
        if (from != clipped_from)
          valid = along_h ? steps_inside(h, inner.h, view.h_extent) : steps_inside(w, inner.w, view.w_extent);
        clipped_from = from;
        const int64_t begin = run->inner, end = begin + run->count;
        int64_t low = begin, high = begin;
        if (along_h ? w >= 0 && w < view.w_extent : h >= 0 && h < view.h_extent) {
          low = min(max(valid.begin * inner.grain, begin), end);
          high = valid.size == INT64_MAX ? end : min(max((valid.begin + valid.size) * inner.grain, low), end);
        }
        if (low > begin) visit(i, run->column, low - begin, 0, false);
        if (high > low)
          visit(i, run->column + low - begin, high - low, offset + run->offset + (low - begin) * stride, true);
        if (end > high) visit(i, run->column + high - begin, end - high, 0, false);
      }
    }
  }
}

}  // namespace
}  // namespace tmc
