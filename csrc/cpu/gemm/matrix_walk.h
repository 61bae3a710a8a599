// Walking a MatrixView in runs: how packing reads an image and how a finished tile is written.
#pragma once
#include "cpu/gemm/micro_kernel.h"

namespace tmc {
namespace {

// The address of a position, which wraps for one so far outside the image that its elements are never touched.
int64_t spatial_offset(const MatrixView& view, int64_t h, int64_t w) {
  return static_cast<int64_t>(static_cast<uint64_t>(h) * static_cast<uint64_t>(view.h_stride) +
                              static_cast<uint64_t>(w) * static_cast<uint64_t>(view.w_stride));
}

// What the indices on one side (rows or columns) add to address and position.
struct Place {
  int64_t offset, h, w;
};

// Walks along three axes from any index on.
struct Cursor {
  const Axes& axes;
  int64_t outer, middle, inner;

  Cursor(const Axes& axes_, int64_t index) : axes(axes_) {
    inner = index % axes.inner.size, index /= axes.inner.size;
    middle = index % axes.middle.size, outer = index / axes.middle.size;
  }
  Place place() const {  // of the current index without its innermost part
    return {outer * axes.outer.offset + middle * axes.middle.offset, outer * axes.outer.h + middle * axes.middle.h,
            outer * axes.outer.w + middle * axes.middle.w};
  }
  void advance(int64_t count) {  // not past the end of the innermost axis
    inner += count;
    if (inner < axes.inner.size) return;
    inner = 0;
    if (++middle < axes.middle.size) return;
    middle = 0, ++outer;
  }
};

// The steps t of an axis for which 0 <= start + t * step < extent.
Block steps_inside(int64_t start, int64_t step, int64_t extent) {
  if (step == 0) return {0, start >= 0 && start < extent ? INT64_MAX : 0};
  if (step < 0) start = extent - 1 - start, step = -step;  // mirror
  const int64_t begin = start >= 0 ? 0 : (step - 1 - start) / step;
  const int64_t end = start >= extent ? 0 : (extent - start + step - 1) / step;
  return {begin, end > begin ? end - begin : 0};
}

// Elements between neighbours along the innermost axis.
int64_t run_stride(const MatrixView& view, const Axis& inner) {
  return inner.grain > 1 ? inner.offset : inner.offset + inner.h * view.h_stride + inner.w * view.w_stride;
}

// A stretch of columns along the innermost axis, [inner, inner + count) of it.
struct Run {
  int64_t offset, h, w;  // h and w: of the innermost axis' beginning
  int64_t column, inner, count;
};
constexpr int64_t kMaxRuns = 512;

// Calls visit(row, column, count, offset, inside) for every stretch of every row of the block whose elements follow
// each other at the distance run_stride(view), `offset` being the first one's; rows and columns are counted from the
// block's corner. `inside` is false for a stretch outside the image.
template <class Visit>
void walk(const MatrixView& view, Block rows, Block columns, const Visit& visit) {
  const Axis& axis = view.columns.inner;
  const int64_t stride = run_stride(view, axis), last_step = (axis.size - 1) / axis.grain;
  Cursor column(view.columns, columns.begin);
  for (int64_t done = 0; done < columns.size;) {
    // The stretches are the same in every row: list them once (for as many columns as the list holds).
    Run runs[kMaxRuns];
    int64_t count = 0, low_h = INT64_MAX, high_h = INT64_MIN, low_w = INT64_MAX, high_w = INT64_MIN;
    for (; count < kMaxRuns && done < columns.size; ++count) {
      const Place place = column.place();
      const int64_t left = axis.size - column.inner, wanted = columns.size - done;
      const int64_t offset = place.offset + spatial_offset(view, place.h, place.w) + column.inner * stride;
      runs[count] = {offset, place.h, place.w, done, column.inner, min(left, wanted)};
      const int64_t moved_h = place.h + last_step * axis.h, moved_w = place.w + last_step * axis.w;
      low_h = min(low_h, min(place.h, moved_h)), high_h = max(high_h, max(place.h, moved_h));
      low_w = min(low_w, min(place.w, moved_w)), high_w = max(high_w, max(place.w, moved_w));
      column.advance(runs[count].count);
      done += runs[count].count;
    }
    Cursor row(view.rows, rows.begin);
    for (int64_t i = 0; i < rows.size; ++i, row.advance(1)) {
      const Place place = row.place();
      const int64_t h0 = view.h0 + place.h + row.inner * view.rows.inner.h;
      const int64_t w0 = view.w0 + place.w + row.inner * view.rows.inner.w;
      const int64_t offset = place.offset + row.inner * view.rows.inner.offset + spatial_offset(view, h0, w0);
      if (h0 + low_h >= 0 && h0 + high_h < view.h_extent && w0 + low_w >= 0 && w0 + high_w < view.w_extent) {
        for (const Run* run = runs; run < runs + count; ++run)
          visit(i, run->column, run->count, offset + run->offset, true);
        continue;
      }
      // Some of this row lies outside. In a conv2d map the innermost axis moves along h or w, never both: a stretch is
      // clipped along that one and is all or nothing along the other.
      const bool along_h = axis.h != 0;
      Block valid = {0, 0};
      int64_t clipped_from = INT64_MIN;  // almost always the same as in the stretch before
      for (const Run* run = runs; run < runs + count; ++run) {
        const int64_t h = h0 + run->h, w = w0 + run->w, from = along_h ? h : w;
        if (from != clipped_from)
          valid = along_h ? steps_inside(h, axis.h, view.h_extent) : steps_inside(w, axis.w, view.w_extent);
        clipped_from = from;
        const int64_t begin = run->inner, end = begin + run->count;
        int64_t low = begin, high = begin;
        if (along_h ? w >= 0 && w < view.w_extent : h >= 0 && h < view.h_extent) {
          low = min(max(valid.begin * axis.grain, begin), end);
          high = valid.size == INT64_MAX ? end : min(max((valid.begin + valid.size) * axis.grain, low), end);
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
