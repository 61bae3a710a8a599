// The kernels of pooling. All work on images in [row][column][channel] order, a vector of channels at a time:
// channels_last tensors as they are, contiguous ones through pool2d_planes.h. Every result is written once, by the task
// that owns it, and summed in the order of rows, then columns, whatever the task.
// Bound: memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "pool2d_half_max.h"
#include "pool2d_rows.h"

namespace tmc {
namespace {

// Rows of an image in [row][column][channel] order, of which `first_row` is the first that is stored.
template <class T>
struct Rows {
  T* data;
  int64_t first_row, width, channels;
  T* at(int64_t row, int64_t column) const { return data + ((row - first_row) * width + column) * channels; }
};

// Calls body<vectors>(c, count) for all channels: four vectors at a time (count is then the lanes of one), then one,
// then the part of one that is left.
template <class Real, class F>
inline void for_channels(int64_t channels, F body) {
  constexpr int64_t kCount = kLanes<Real>;
  int64_t c = 0;
  for (; c + 4 * kCount <= channels; c += 4 * kCount) body.template operator()<4>(c, kCount);
  for (; c + kCount <= channels; c += kCount) body.template operator()<1>(c, kCount);
  if (c < channels) body.template operator()<1>(c, channels - c);
}

// A channels_last image is read from front to back, by windows that start over in each row: too many small jumps for
// the hardware to run ahead of (without this, max pooling and its gradient take up to 4 times as long). For each
// position that is written this asks for its share of what is read, from row `first` on: one that is not needed yet.
class ReadAhead {
 public:
  template <class T>
  ReadAhead(const PoolPlan& plan, const Rows<const T>& read, int64_t first)
      : from_(reinterpret_cast<const char*>(read.at(first, 0))) {
    const PoolShape& shape = plan.shape;
    const int64_t in = shape.h.in * shape.w.in, out = shape.h.out * shape.w.out;
    if (plan.channels_last)
      share_ = (plan.gradient ? out : in) * shape.c * static_cast<int64_t>(sizeof(T)) / (plan.gradient ? in : out);
  }
  void operator()(int64_t written) const {
    const char* from = from_ + written * share_;
    for (int64_t byte = 0; byte < share_; byte += 64) __builtin_prefetch(from + byte, 0, 2);
  }

 private:
  const char* from_;
  int64_t share_ = 0;
};

// eq. 6 for output rows `p_range`; a window without a single input position gives -inf and its first tap.
template <class T, class Winner>
KERNEL void max_rows(const PoolPlan& plan, Range p_range, Rows<const T> input, Rows<T> output, Rows<Winner> winners) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolShape& shape = plan.shape;
  const int64_t step = shape.w.dilation * input.channels, channels = input.channels;
  const ReadAhead read_ahead(plan, input, shape.h.kernel);
  for (int64_t p = p_range.begin; p < p_range.end; ++p)
    for (int64_t q = 0; q < shape.w.out; ++q) {
      const Window rows = plan.rows[p], columns = plan.columns[q];
      read_ahead(p * shape.w.out + q);
      const auto first_tap = [&](int64_t r) {
        return input.at(rows.start + r * shape.h.dilation, columns.start + columns.begin * shape.w.dilation);
      };
      const auto max_by_lanes = [&]<int kVectors>(int64_t c, int64_t count) {
        Lanes<Real> best[kVectors];
        IntegerLanes<Real> winner[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          best[v] = Lanes<Real>{} - static_cast<Real>(__builtin_inf());
          winner[v] = IntegerLanes<Real>{} + static_cast<Integer<Real>>(winner_of(shape, rows.begin, columns.begin));
        }
        for (int64_t r = rows.begin; r < rows.end; ++r) {
          const T* tap = first_tap(r) + c;
          IntegerLanes<Real> index =
              IntegerLanes<Real>{} + static_cast<Integer<Real>>(winner_of(shape, r, columns.begin));
          for (int64_t s = columns.begin; s < columns.end; ++s, index += 1, tap += step)
            for (int v = 0; v < kVectors; ++v)
              take_if_beats<Real>(load(tap + v * kCount, count), index, best[v], winner[v]);
        }
        for (int v = 0; v < kVectors; ++v) {
          store(best[v], output.at(p, q) + c + v * kCount, count);
          store_winners<Real>(winner[v], winners.at(p, q) + c + v * kCount, count);
        }
      };
      if constexpr (sizeof(T) == 2 && sizeof(Winner) == 1) {
        const int64_t next_row = shape.h.dilation * input.width * channels;
        const auto by_bits = [&]<int kVectors>(int64_t c) {
          return max_by_bits<kVectors>(shape, rows, columns, first_tap(rows.begin) + c, next_row, step,
                                       output.at(p, q) + c, winners.at(p, q) + c);
        };
        int64_t c = 0;
        const auto rest = [&](int64_t end) {
          for (; c < end; c += kCount) max_by_lanes.template operator()<1>(c, end - c < kCount ? end - c : kCount);
        };
        while (channels - c >= kHalfLanes) {
          if (channels - c >= 2 * kHalfLanes && by_bits.template operator()<2>(c)) {
            c += 2 * kHalfLanes;
          } else if (by_bits.template operator()<1>(c)) {
            c += kHalfLanes;
          } else {
            rest(c + kHalfLanes);
          }
        }
        rest(channels);
      } else {
        for_channels<Real>(channels, max_by_lanes);
      }
    }
}

// eq. 7 for output rows `p_range`.
template <class T>
KERNEL void average_rows(const PoolPlan& plan, Range p_range, Rows<const T> input, Rows<T> output) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolShape& shape = plan.shape;
  const ReadAhead read_ahead(plan, input, shape.h.kernel);
  for (int64_t p = p_range.begin; p < p_range.end; ++p)
    for (int64_t q = 0; q < shape.w.out; ++q) {
      const Window rows = plan.rows[p], columns = plan.columns[q];
      const Real divisor = static_cast<Real>(plan.row_divisors[p] * plan.column_divisors[q]);
      read_ahead(p * shape.w.out + q);
      for_channels<Real>(input.channels, [&]<int kVectors>(int64_t c, int64_t count) {
        Lanes<Real> sum[kVectors] = {};
        for (int64_t r = rows.begin; r < rows.end; ++r) {
          const T* tap = input.at(rows.start + r, columns.start + columns.begin) + c;
          Lanes<Real> row_sum[kVectors] = {};  // short chains of sums round less
          for (int64_t s = columns.begin; s < columns.end; ++s, tap += input.channels)
            for (int v = 0; v < kVectors; ++v) row_sum[v] += load(tap + v * kCount, count);
          for (int v = 0; v < kVectors; ++v) sum[v] += row_sum[v];
        }
        for (int v = 0; v < kVectors; ++v) store(sum[v] / divisor, output.at(p, q) + c + v * kCount, count);
      });
    }
}

// grad_output / divisor, the summands of eq. 9, for output rows `p_range`: a division costs more than a sum, and an
// output is summed up to kernel_size times.
template <class T>
KERNEL void divide_rows(const PoolPlan& plan, Range p_range, Rows<const T> grad_output,
                        Rows<accumulate_t<T>> quotients) {
  using Real = accumulate_t<T>;
  for (int64_t p = p_range.begin; p < p_range.end; ++p)
    for (int64_t q = 0; q < plan.shape.w.out; ++q) {
      const Real divisor = static_cast<Real>(plan.row_divisors[p] * plan.column_divisors[q]);
      for_vectors<Real>(quotients.channels, [&](int64_t c, int64_t count) {
        store(load(grad_output.at(p, q) + c, count) / divisor, quotients.at(p, q) + c, count);
      });
    }
}

template <class T, int kVectors>
inline void write_sums(const Lanes<accumulate_t<T>> (&sum)[kVectors], bool streams, T* to, int64_t count) {
  constexpr int64_t kCount = kLanes<accumulate_t<T>>;
  for (int v = 0; v < kVectors; ++v) {
    if (streams) {
      stream(sum[v], to + v * kCount);
    } else {
      store(sum[v], to + v * kCount, count);
    }
  }
}

// eq. 9 for input rows `h_range`: each position collects from the windows that cover it, in order.
template <class T>
KERNEL void average_gradient_rows(const PoolPlan& plan, Range h_range, Rows<const accumulate_t<T>> quotients,
                                  Rows<T> grad_input) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const bool streams = plan.streams;
  for (int64_t h = h_range.begin; h < h_range.end; ++h)
    for (int64_t w = 0; w < plan.shape.w.in; ++w) {
      const Covering rows = plan.row_outputs[h], columns = plan.column_outputs[w];
      for_channels<Real>(grad_input.channels, [&]<int kVectors>(int64_t c, int64_t count) {
        Lanes<Real> sum[kVectors] = {};
        for (int64_t p = rows.first; p <= rows.last; ++p)
          for (int64_t q = columns.first; q <= columns.last; ++q)
            for (int v = 0; v < kVectors; ++v) sum[v] += load(quotients.at(p, q) + c + v * kCount, count);
        write_sums<T>(sum, streams, grad_input.at(h, w) + c, count);
      });
    }
}

// The tap that stands `distance` after a window's start, or -1 where the window steps over that position.
inline int64_t tap_after(const PoolAxis& axis, int64_t distance) {
  if (axis.dilation == 1) return distance;  // spares the usual windows a division
  return distance % axis.dilation == 0 ? distance / axis.dilation : -1;
}

// eq. 8 for input rows `h_range`: each position collects from the windows that cover it and that it won, in order.
template <class T, class Winner>
KERNEL void max_gradient_rows(const PoolPlan& plan, Range h_range, Rows<const T> grad_output,
                              Rows<const Winner> winners, Rows<T> grad_input) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolShape shape = plan.shape;
  const bool streams = plan.streams;
  const int64_t next_row = plan.row_outputs[0].last + 1;
  const ReadAhead gradients_ahead(plan, grad_output, next_row), winners_ahead(plan, winners, next_row);
  for (int64_t h = h_range.begin; h < h_range.end; ++h)
    for (int64_t w = 0; w < shape.w.in; ++w) {
      const Covering rows = plan.row_outputs[h], columns = plan.column_outputs[w];
      gradients_ahead(h * shape.w.in + w);
      winners_ahead(h * shape.w.in + w);
      for_channels<Real>(grad_input.channels, [&]<int kVectors>(int64_t c, int64_t count) {
        Lanes<Real> sum[kVectors] = {};
        for (int64_t p = rows.first; p <= rows.last; ++p) {
          const int64_t tap_h = tap_after(shape.h, h - plan.rows[p].start);
          for (int64_t q = columns.first; q <= columns.last; ++q) {
            const int64_t tap_w = tap_after(shape.w, w - plan.columns[q].start);
            if (tap_h < 0 || tap_w < 0) continue;
            const Winner tap = static_cast<Winner>(winner_of(shape, tap_h, tap_w));
            const T* gradient = grad_output.at(p, q) + c;
            const Winner* winner = winners.at(p, q) + c;
            for (int v = 0; v < kVectors; ++v)
              add_where<Real>(load_winners<Real>(winner + v * kCount, count), tap, load(gradient + v * kCount, count),
                              sum[v]);
          }
        }
        write_sums<T>(sum, streams, grad_input.at(h, w) + c, count);
      });
    }
}

}  // namespace
}  // namespace tmc
