// Sums over windows and their gradients. Every result is written once, by the task that owns it, and summed in the
// order of rows, then columns, whatever the task. Bound: memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/lanes/transpose.h"
#include "cpu/pool2d/channels.h"

namespace tmc {
namespace {

// Windows of three rows, one row apart: a row of the input is summed along itself once for the three rows of outputs
// that hold it, kSharingRows of them at a time.
constexpr int64_t kSharingRows = 4;
inline bool shares_row_sums(const PoolAxis& axis) {
  return axis.kernel == 3 && axis.stride == 1;
}
// Unrolled, but for the builds that convert half precision in plain arithmetic: compiling that took 9 s.
template <class T>
constexpr bool kSharesRowSums = sizeof(T) > 2 || kVectorBytes > 16;

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
  if constexpr (kSharesRowSums<T>) {
    if (shares_row_sums(shape.h))
      for (; p + kSharingRows <= p_range.end; p += kSharingRows)
        average_sharing_rows(plan, p, read_ahead, input, output);
  }
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
      with_counts<T>(row_count, column_count, [&]<int kRows, int kColumns>() {
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

// ---- One window that is the whole contiguous plane: one output for each plane, and no edges. A plane is read in
// vectors; what is left of it, a vector of partial sums, is one row of a matrix whose transpose has a plane in each
// lane.

// body(plane, number): kLanes planes from `first` on, of which the last stands in for those beyond the end.
template <class Real, class F>
inline void for_group(const PoolPart& part, int64_t first, F body) {
  for (int64_t number = 0; number < kLanes<Real>; ++number)
    body(part.first_plane + (first + number < part.planes ? first + number : part.planes - 1), number);
}

// eq. 7.
template <class T>
KERNEL void average_of_planes(const PoolPlan& plan, int64_t task, char*) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const PoolPart part = part_of(plan, task);
  const int64_t size = plan.shape.h.in * plan.shape.w.in;
  const Real divisor = static_cast<Real>(plan.row_divisors[0] * plan.column_divisors[0]);
  for (int64_t first = 0; first < part.planes; first += kCount) {
    Lanes<Real> sums[kCount];
    for_group<Real>(part, first, [&](int64_t plane, int64_t number) {
      const T* from = static_cast<const T*>(plan.source) + plane * size;
      Lanes<Real> sum[4] = {};
      int64_t x = 0;
      for (; x + 4 * kCount <= size; x += 4 * kCount)
        for (int v = 0; v < 4; ++v) sum[v] += load(from + x + v * kCount);
      for_vectors<Real>(size - x, [&](int64_t rest, int64_t count) { sum[0] += load(from + x + rest, count); });
      sums[number] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    });
    transpose(sums);
    for (int64_t half = kCount / 2; half > 0; half /= 2)
      for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    const int64_t left = part.planes - first;
    store(sums[0] / divisor, static_cast<T*>(plan.result) + part.first_plane + first, left < kCount ? left : kCount);
  }
}

// eq. 9.
template <class T>
KERNEL void average_gradient_of_planes(const PoolPlan& plan, int64_t task, char*) {
  using Real = accumulate_t<T>;
  const PoolPart part = part_of(plan, task);
  const int64_t size = plan.shape.h.in * plan.shape.w.in;
  const Real divisor = static_cast<Real>(plan.row_divisors[0] * plan.column_divisors[0]);
  for (int64_t plane = part.first_plane; plane < part.first_plane + part.planes; ++plane) {
    Real gradient;
    convert(static_cast<const T*>(plan.source)[plane], gradient);
    const Lanes<Real> share = Lanes<Real>{} + gradient / divisor;
    T* to = static_cast<T*>(plan.result) + plane * size;
    for_vectors<Real>(size, [=](int64_t x, int64_t count) { store(share, to + x, count); });
  }
}

}  // namespace
}  // namespace tmc
