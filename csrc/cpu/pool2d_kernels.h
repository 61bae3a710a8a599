// The kernels of pooling. All four work on images in [row][column][channel] order, a vector of channels at a time:
// channels_last tensors as they are, contiguous ones through pool2d_planes.h. Every result is written once, by the task
// that owns it, and summed in the order of rows, then columns, whatever the task.
// Bound: memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "lanes.h"
#include "pool2d_plan.h"

namespace tmc {
namespace {

// Everything a kernel calls is compiled into it: its lambdas are loop bodies.
#define KERNEL __attribute__((flatten))

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
// the hardware to run ahead of (without this, max pooling takes 4 times as long). This asks for an output's share of
// the image, one row of windows early.
template <class T>
class ReadAhead {
 public:
  ReadAhead(const PoolPlan& plan, const Rows<const T>& input)
      : from_(reinterpret_cast<const char*>(input.at(plan.shape.h.kernel, 0))) {
    const PoolShape& shape = plan.shape;
    if (plan.channels_last)
      share_ = shape.h.in * shape.w.in * shape.c * static_cast<int64_t>(sizeof(T)) / (shape.h.out * shape.w.out);
  }
  void operator()(int64_t output) const {
    const char* from = from_ + output * share_;
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
  const int64_t step = shape.w.dilation * input.channels;
  const ReadAhead<T> read_ahead(plan, input);
  for (int64_t p = p_range.begin; p < p_range.end; ++p)
    for (int64_t q = 0; q < shape.w.out; ++q) {
      const Window rows = plan.rows[p], columns = plan.columns[q];
      read_ahead(p * shape.w.out + q);
      for_channels<Real>(input.channels, [&]<int kVectors>(int64_t c, int64_t count) {
        Lanes<Real> best[kVectors];
        IntegerLanes<Real> winner[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          best[v] = Lanes<Real>{} - static_cast<Real>(__builtin_inf());
          winner[v] = IntegerLanes<Real>{} + static_cast<Integer<Real>>(winner_of(shape, rows.begin, columns.begin));
        }
        for (int64_t r = rows.begin; r < rows.end; ++r) {
          const T* tap =
              input.at(rows.start + r * shape.h.dilation, columns.start + columns.begin * shape.w.dilation) + c;
          IntegerLanes<Real> index =
              IntegerLanes<Real>{} + static_cast<Integer<Real>>(winner_of(shape, r, columns.begin));
          for (int64_t s = columns.begin; s < columns.end; ++s, index += 1, tap += step)
            for (int v = 0; v < kVectors; ++v) {
              const Lanes<Real> value = load(tap + v * kCount, count);
              // beats(), lane by lane. Two selects are one step less in the chain through `best` than one of both.
              const IntegerLanes<Real> larger = value > best[v], nan = value != value;
              best[v] = nan ? value : larger ? value : best[v];
              winner[v] = nan ? index : larger ? index : winner[v];
            }
        }
        for (int v = 0; v < kVectors; ++v) {
          store(best[v], output.at(p, q) + c + v * kCount, count);
          store_winners<Real>(winner[v], winners.at(p, q) + c + v * kCount, count);
        }
      });
    }
}

// eq. 7 for output rows `p_range`.
template <class T>
KERNEL void average_rows(const PoolPlan& plan, Range p_range, Rows<const T> input, Rows<T> output) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolShape& shape = plan.shape;
  const ReadAhead<T> read_ahead(plan, input);
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

// ---- Gradients. The owner of input row h goes through the windows that cover it, in order, and adds each one's
// share to the row's sums, which stay in cache: a window's winners and gradient are read once for all its columns.

// The sums of one row in full precision: the row of grad_input itself unless that is narrower.
template <class T>
inline accumulate_t<T>* zero_sums(T* row, accumulate_t<T>* wide_row, int64_t size) {
  accumulate_t<T>* sums = wide_row;
  if constexpr (sizeof(T) == sizeof(*sums)) sums = row;
  for (int64_t i = 0; i < size; ++i) sums[i] = 0;
  return sums;
}
template <class T>
inline void finish_sums(const accumulate_t<T>* sums, T* row, int64_t size) {
  if constexpr (sizeof(T) != sizeof(*sums)) {
    constexpr int64_t kCount = kLanes<accumulate_t<T>>;
    for (int64_t i = 0; i < size; i += kCount) {
      const int64_t count = size - i < kCount ? size - i : kCount;
      store(load(sums + i, count), row + i, count);
    }
  }
}

// Calls body(q) for all outputs along the width, such that neighbours in time do not overlap: a sum would wait for
// the one just stored to the same place.
template <class F>
inline void for_columns_apart(const PoolAxis& axis, F body) {
  const int64_t overlapping = is_adaptive(axis) ? 2 : ceil_div(axis.dilation * (axis.kernel - 1) + 1, axis.stride);
  for (int64_t first = 0; first < overlapping && first < axis.out; ++first)
    for (int64_t q = first; q < axis.out; q += overlapping) body(q);
}

// eq. 8 for input rows `h_range`.
template <class T, class Winner>
KERNEL void max_gradient_rows(const PoolPlan& plan, Range h_range, Rows<const T> grad_output,
                              Rows<const Winner> winners, Rows<T> grad_input, accumulate_t<T>* wide_row) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolShape& shape = plan.shape;
  const int64_t channels = grad_input.channels, step = shape.w.dilation * channels;
  for (int64_t h = h_range.begin; h < h_range.end; ++h) {
    Real* sums = zero_sums(grad_input.at(h, 0), wide_row, shape.w.in * channels);
    const Covering rows = plan.row_outputs[h];
    for (int64_t p = rows.first; p <= rows.last; ++p) {
      const int64_t distance = h - plan.rows[p].start;
      if (distance % shape.h.dilation != 0) continue;  // the window steps over this row
      const int64_t r = distance / shape.h.dilation;
      for_columns_apart(shape.w, [&](int64_t q) {
        const Window columns = plan.columns[q];
        const Integer<Real> first_tap = static_cast<Integer<Real>>(winner_of(shape, r, columns.begin));
        Real* first_sum = sums + (columns.start + columns.begin * shape.w.dilation) * channels;
        for_channels<Real>(channels, [&]<int kVectors>(int64_t c, int64_t count) {
          Lanes<Real> gradient[kVectors];
          IntegerLanes<Real> taps_to_winner[kVectors];
          for (int v = 0; v < kVectors; ++v) {
            gradient[v] = load(grad_output.at(p, q) + c + v * kCount, count);
            taps_to_winner[v] = load_winners<Real>(winners.at(p, q) + c + v * kCount, count) - first_tap;
          }
          Real* sum = first_sum + c;
          for (int64_t s = columns.begin; s < columns.end; ++s, sum += step)
            for (int v = 0; v < kVectors; ++v) {
              const Lanes<Real> share = taps_to_winner[v] == 0 ? gradient[v] : Lanes<Real>{};
              store(load(sum + v * kCount, count) + share, sum + v * kCount, count);
              taps_to_winner[v] -= 1;
            }
        });
      });
    }
    finish_sums(sums, grad_input.at(h, 0), shape.w.in * channels);
  }
}

inline bool all_equal(const int64_t* divisors, Covering outputs) {
  for (int64_t i = outputs.first + 1; i <= outputs.last; ++i)
    if (divisors[i] != divisors[outputs.first]) return false;
  return true;
}

// eq. 9 for input rows `h_range`. A column of windows is summed first; away from the borders all its divisors are
// one, and the sum is divided once: a division costs more than the rest of a term.
template <class T>
KERNEL void average_gradient_rows(const PoolPlan& plan, Range h_range, Rows<const T> grad_output, Rows<T> grad_input,
                                  accumulate_t<T>* wide_row) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolShape& shape = plan.shape;
  const int64_t channels = grad_input.channels;
  for (int64_t h = h_range.begin; h < h_range.end; ++h) {
    Real* sums = zero_sums(grad_input.at(h, 0), wide_row, shape.w.in * channels);
    const Covering rows = plan.row_outputs[h];
    const bool one_divisor = all_equal(plan.row_divisors, rows);
    for_columns_apart(shape.w, [&](int64_t q) {
      const Window columns = plan.columns[q];
      Real* first_sum = sums + (columns.start + columns.begin) * channels;
      for_channels<Real>(channels, [&]<int kVectors>(int64_t c, int64_t count) {
        Lanes<Real> share[kVectors] = {};
        Real divisor = 1;
        for (int64_t p = rows.first; p <= rows.last; ++p) {
          divisor = static_cast<Real>(plan.row_divisors[p] * plan.column_divisors[q]);
          for (int v = 0; v < kVectors; ++v) {
            const Lanes<Real> gradient = load(grad_output.at(p, q) + c + v * kCount, count);
            share[v] += one_divisor ? gradient : gradient / divisor;
          }
        }
        if (one_divisor)
          for (int v = 0; v < kVectors; ++v) share[v] /= divisor;
        Real* sum = first_sum + c;
        for (int64_t s = columns.begin; s < columns.end; ++s, sum += channels)
          for (int v = 0; v < kVectors; ++v) store(load(sum + v * kCount, count) + share[v], sum + v * kCount, count);
      });
    });
    finish_sums(sums, grad_input.at(h, 0), shape.w.in * channels);
  }
}

}  // namespace
}  // namespace tmc
