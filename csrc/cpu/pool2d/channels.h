// The kernels of pooling. All work on images in [row][column][channel] order, a vector of channels at a time:
// channels_last tensors as they are, contiguous ones through cpu/pool2d/planes.h. Every result is written once, by the
// task that owns it, and summed in the order of rows, then columns, whatever the task. Bound: memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/lanes/pairs.h"
#include "cpu/pool2d/half_max.h"
#include "cpu/pool2d/rows.h"

namespace tmc {
namespace {

// Rows of an image in [row][column][channel] order, of which `first_row` is the first that is stored.
template <class T>
struct Rows {
  T* data;
  int64_t first_row, width, channels;
  T* at(int64_t row, int64_t column) const { return data + ((row - first_row) * width + column) * channels; }
};

// Calls body<Block, blocks>(c, count) for all channels, where a block is a vector, or in half precision a pair: as many
// blocks as make four vectors at a time (count is then the lanes of one block), then one, then vectors and the part of
// one that is left.
template <class T, class F>
inline void for_channels(int64_t channels, F body) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  int64_t c = 0;
  if constexpr (sizeof(T) == 2) {
    for (; c + 2 * kPair<T> <= channels; c += 2 * kPair<T>) body.template operator()<LanePair<Real>, 2>(c, kPair<T>);
    for (; c + kPair<T> <= channels; c += kPair<T>) body.template operator()<LanePair<Real>, 1>(c, kPair<T>);
  }
  for (; c + 4 * kCount <= channels; c += 4 * kCount) body.template operator()<Lanes<Real>, 4>(c, kCount);
  for (; c + kCount <= channels; c += kCount) body.template operator()<Lanes<Real>, 1>(c, kCount);
  if (c < channels) body.template operator()<Lanes<Real>, 1>(c, channels - c);
}

// body<rows, columns>(), or body<0, 0>() where the numbers are not those of windows whose stride is their size or half
// of it, or of 3 x 3 at a stride of 1: what is known when this is compiled needs no loop.
template <class F>
inline void with_counts(int64_t rows, int64_t columns, F body) {
  if (rows == 1 && columns == 1) return body.template operator()<1, 1>();
  if (rows == 1 && columns == 2) return body.template operator()<1, 2>();
  if (rows == 2 && columns == 1) return body.template operator()<2, 1>();
  if (rows == 2 && columns == 2) return body.template operator()<2, 2>();
  if (rows == 3 && columns == 3) return body.template operator()<3, 3>();
  body.template operator()<0, 0>();
}

// A channels_last image is read from front to back, by windows that start over in each row: too many small jumps for
// the hardware to run ahead of (without this, max pooling and its gradient take up to 4 times as long). For all that is
// written this asks for its share of what is read, from row `first` on: what is not needed yet, a few lines at a time,
// as many at once would keep what is needed waiting.
class ReadAhead {
 public:
  // Called `times` times for every element of the rows from `written_row` on.
  template <class T>
  ReadAhead(const PoolPlan& plan, const Rows<const T>& read, int64_t first, int64_t written_row, int64_t times = 1)
      : from_(reinterpret_cast<const char*>(read.at(first, 0))) {
    const PoolShape& shape = plan.shape;
    const int64_t in = shape.h.in * shape.w.in, out = shape.h.out * shape.w.out;
    if (!plan.channels_last) return;
    const int64_t read_size = plan.gradient ? out : in, written_size = plan.gradient ? in : out;
    share_ = kParts * read_size * static_cast<int64_t>(sizeof(T)) / (written_size * times);
    asked_ = due_ = written_row * (plan.gradient ? shape.w.in : shape.w.out) * shape.c * times * share_;
  }
  void operator()(int64_t written) {
    due_ += written * share_;
    for (; asked_ < due_; asked_ += 64 * kParts) __builtin_prefetch(from_ + asked_ / kParts, 0, 2);
  }

 private:
  static constexpr int64_t kParts = 4096;  // of a byte
  const char* from_;
  int64_t share_ = 0, due_ = 0, asked_ = 0;  // at a call, for an element; at all calls so far; and what was asked for
};

// eq. 6 for output rows `p_range`; a window without a single input position gives -inf and its first tap.
template <class T, class Winner>
KERNEL void max_rows(const PoolPlan& plan, Range p_range, Rows<const T> input, Rows<T> output, Rows<Winner> winners) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolShape& shape = plan.shape;
  const int64_t step = shape.w.dilation * input.channels, channels = input.channels;
  constexpr bool kByLanes = sizeof(T) > 2 || sizeof(Winner) > 1;
  ReadAhead read_ahead(plan, input, shape.h.kernel, p_range.begin, kByLanes ? shape.h.kernel : 1);
  for (int64_t p = p_range.begin; p < p_range.end; ++p)
    for (int64_t q = 0; q < shape.w.out; ++q) {
      const Window rows = plan.rows[p], columns = plan.columns[q];
      const auto first_tap = [&](int64_t r) {
        return input.at(rows.start + r * shape.h.dilation, columns.start + columns.begin * shape.w.dilation);
      };
      const auto max_by_lanes = [&]<class, int kVectors>(int64_t c, int64_t count) {
        Lanes<Real> best[kVectors];
        IntegerLanes<Real> winner[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          best[v] = Lanes<Real>{} - static_cast<Real>(__builtin_inf());
          winner[v] = IntegerLanes<Real>{} + static_cast<Integer<Real>>(winner_of(shape, rows.begin, columns.begin));
        }
        for (int64_t r = rows.begin; r < rows.end; ++r) {
          const T* tap = first_tap(r) + c;
          if constexpr (kByLanes) read_ahead(kVectors * count);
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
      if constexpr (!kByLanes) {
        const int64_t next_row = shape.h.dilation * input.width * channels;
        const auto by_bits = [&]<int kVectors>(int64_t c) {
          return max_by_bits<kVectors>(shape, rows, columns, first_tap(rows.begin) + c, next_row, step,
                                       output.at(p, q) + c, winners.at(p, q) + c);
        };
        read_ahead(channels);
        int64_t c = 0;
        const auto rest = [&](int64_t end) {
          for (; c < end; c += kCount)
            max_by_lanes.template operator()<Lanes<Real>, 1>(c, end - c < kCount ? end - c : kCount);
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

// Windows of three rows, one row apart: a row of the input is summed along itself once for the three rows of outputs
// that hold it, kSharingRows of them at a time.
constexpr int64_t kSharingRows = 4;
inline bool shares_row_sums(const PoolAxis& axis) {
  return axis.kernel == 3 && axis.stride == 1;
}

// eq. 7 for output rows [p, p + kSharingRows). A row beside the input adds the zero that sums begin with.
template <class T>
KERNEL void average_sharing_rows(const PoolPlan& plan, int64_t p, ReadAhead& read_ahead, Rows<const T> input,
                                 Rows<T> output) {
  using Real = accumulate_t<T>;
  constexpr int64_t kInputRows = kSharingRows + 2;
  const int64_t first = plan.rows[p].start, left = plan.shape.h.in - first;
  const int64_t begin = first < 0 ? -first : 0, end = left < kInputRows ? left : kInputRows;
  for (int64_t q = 0; q < plan.shape.w.out; ++q) {
    const Window columns = plan.columns[q];
    const int64_t column_count = columns.end - columns.begin;
    Real divisors[kSharingRows];
    for (int64_t i = 0; i < kSharingRows; ++i)
      divisors[i] = static_cast<Real>(plan.row_divisors[p + i] * plan.column_divisors[q]);
    const auto average = [&]<class Block, bool kInside>(int64_t c, int64_t count) {
      Block row_sums[kInputRows];
#pragma GCC unroll 6
      for (int64_t r = 0; r < kInputRows; ++r) {
        row_sums[r] = Block{};
        if (!kInside && (r < begin || r >= end)) continue;
        const T* tap = input.at(first + r, columns.start + columns.begin) + c;
#pragma GCC unroll 3
        for (int64_t s = 0; s < (kInside ? 3 : column_count); ++s, tap += input.channels)
          row_sums[r] += load_block<Block>(tap, count);
      }
#pragma GCC unroll 4
      for (int64_t i = 0; i < kSharingRows; ++i) {
        Block sum = row_sums[i];
        sum += row_sums[i + 1];
        sum += row_sums[i + 2];
        store_block(sum / divisors[i], output.at(p + i, q) + c, count);
      }
    };
    const bool is_inside = begin == 0 && end == kInputRows && column_count == 3;
    for_channels<T>(input.channels, [&]<class Block, int kBlocks>(int64_t c, int64_t count) {
      read_ahead(kSharingRows * kBlocks * count);
      for (const int64_t stop = c + kBlocks * count; c < stop; c += count)
        is_inside ? average.template operator()<Block, true>(c, count)
                  : average.template operator()<Block, false>(c, count);
    });
  }
}

// eq. 7 for output rows `p_range`.
template <class T>
KERNEL void average_rows(const PoolPlan& plan, Range p_range, Rows<const T> input, Rows<T> output) {
  using Real = accumulate_t<T>;
  const PoolShape& shape = plan.shape;
  ReadAhead read_ahead(plan, input, shape.h.kernel, p_range.begin);
  int64_t p = p_range.begin;
  if (shares_row_sums(shape.h))
    for (; p + kSharingRows <= p_range.end; p += kSharingRows) average_sharing_rows(plan, p, read_ahead, input, output);
  for (; p < p_range.end; ++p)
    for (int64_t q = 0; q < shape.w.out; ++q) {
      const Window rows = plan.rows[p], columns = plan.columns[q];
      const Real divisor = static_cast<Real>(plan.row_divisors[p] * plan.column_divisors[q]);
      for_channels<T>(input.channels, [&]<class Block, int kBlocks>(int64_t c, int64_t count) {
        constexpr int64_t kCount = kLanesOf<Block, Real>;
        read_ahead(kBlocks * count);
        Block sum[kBlocks] = {};
        for (int64_t r = rows.begin; r < rows.end; ++r) {
          const T* tap = input.at(rows.start + r, columns.start + columns.begin) + c;
          Block row_sum[kBlocks] = {};  // short chains of sums round less
          for (int64_t s = columns.begin; s < columns.end; ++s, tap += input.channels)
            for (int v = 0; v < kBlocks; ++v) row_sum[v] += load_block<Block>(tap + v * kCount, count);
          for (int v = 0; v < kBlocks; ++v) sum[v] += row_sum[v];
        }
        for (int v = 0; v < kBlocks; ++v) store_block(sum[v] / divisor, output.at(p, q) + c + v * kCount, count);
      });
    }
}

// grad_output / divisor, the summands of eq. 9, for output rows `p_range`: a division costs more than a sum, and an
// output is summed up to kernel_size times. The quotients of a pair of vectors stay in the order of the pair.
template <class T>
KERNEL void divide_rows(const PoolPlan& plan, Range p_range, Rows<const T> grad_output,
                        Rows<accumulate_t<T>> quotients) {
  using Real = accumulate_t<T>;
  for (int64_t p = p_range.begin; p < p_range.end; ++p)
    for (int64_t q = 0; q < plan.shape.w.out; ++q) {
      const Real divisor = static_cast<Real>(plan.row_divisors[p] * plan.column_divisors[q]);
      for_channels<T>(quotients.channels, [&]<class Block, int kBlocks>(int64_t c, int64_t count) {
        for (int v = 0; v < kBlocks; ++v, c += kLanesOf<Block, Real>)
          store_block(load_block<Block>(grad_output.at(p, q) + c, count) / divisor, quotients.at(p, q) + c, count);
      });
    }
}

template <class T, class Block, int kBlocks>
inline void write_sums(const Block (&sum)[kBlocks], bool streams, T* to, int64_t count) {
  for (int v = 0; v < kBlocks; ++v, to += kLanesOf<Block, accumulate_t<T>>) {
    if (streams) {
      stream_block(sum[v], to);
    } else {
      store_block(sum[v], to, count);
    }
  }
}

// eq. 9 for input rows `h_range`: each position collects from the windows that cover it, in order.
template <class T>
KERNEL void average_gradient_rows(const PoolPlan& plan, Range h_range, Rows<const accumulate_t<T>> quotients,
                                  Rows<T> grad_input) {
  using Real = accumulate_t<T>;
  const bool streams = plan.streams;
  const int64_t channels = grad_input.channels, row = quotients.width * channels;
  for (int64_t h = h_range.begin; h < h_range.end; ++h)
    for (int64_t w = 0; w < plan.shape.w.in; ++w) {
      const Covering rows = plan.row_outputs[h], columns = plan.column_outputs[w];
      const int64_t row_count = rows.last - rows.first + 1, column_count = columns.last - columns.first + 1;
      const Real* first = quotients.at(rows.first, columns.first);
      T* to = grad_input.at(h, w);
      with_counts(row_count, column_count, [&]<int kRows, int kColumns>() {
        for_channels<T>(channels, [&]<class Block, int kBlocks>(int64_t c, int64_t count) {
          constexpr int64_t kCount = kLanesOf<Block, Real>;
          Block sum[kBlocks] = {};
          for (int64_t i = 0; i < (kRows > 0 ? kRows : row_count); ++i)
            for (int64_t j = 0; j < (kColumns > 0 ? kColumns : column_count); ++j)
              for (int v = 0; v < kBlocks; ++v)
                sum[v] += load_block<Block>(first + i * row + j * channels + c + v * kCount, count);
          write_sums<T>(sum, streams, to + c, count);
        });
      });
    }
}

}  // namespace
}  // namespace tmc
