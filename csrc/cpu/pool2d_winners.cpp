// Both layouts are one here: a line is the winners [q][i] of an output row p, where i runs over the channels of a
// channels_last tensor, and over nothing (inner = 1) in a contiguous one. Bound: memory.
#include "pool2d_winners.h"

#include <algorithm>
#include <atomic>
#include <type_traits>

#include "pool2d_ops.h"

namespace tmc {
namespace {

constexpr int64_t kGrain = 32768;  // elements a thread should have: at::internal::GRAIN_SIZE

struct Lines {
  int64_t count, inner;  // count = (planes or samples) * out_h
};
Lines lines_of(const PoolShape& shape, bool channels_last) {
  if (channels_last) return {shape.n * shape.h.out, shape.c};
  return {shape.n * shape.c * shape.h.out, 1};
}

// body(line) for every line, in parallel.
template <class F>
void for_lines(const PoolShape& shape, const Lines& lines, F body) {
  const int64_t grain = std::max<int64_t>(1, kGrain / (shape.w.out * lines.inner));
  torch::stable::parallel_for(0, lines.count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) body(line);
  });
}

bool is_valid(const PoolShape& shape, int64_t winner, const Window& rows, const Window& columns) {
  if (rows.begin == rows.end || columns.begin == columns.end)
    return winner == winner_of(shape, rows.begin, columns.begin);
  const int64_t tap_h = winner / shape.w.kernel, tap_w = winner % shape.w.kernel;
  return winner >= 0 && tap_h >= rows.begin && tap_h < rows.end && tap_w >= columns.begin && tap_w < columns.end;
}

// An output p * out_w + q whose window is not whole: of its taps, those lie in the input whose bits are set. A shift
// takes the place of two divisions, for windows of up to 64 taps.
struct Clipped {
  int64_t output;
  uint64_t valid_taps;
};
constexpr int64_t kMaxBitTaps = 64;
std::vector<Clipped> clipped_outputs(const PoolShape& shape, const std::vector<Window>& rows,
                                     const std::vector<Window>& columns) {
  const auto is_whole = [](const Window& window, const PoolAxis& axis) {
    return window.end - window.begin == axis.kernel;
  };
  std::vector<Clipped> clipped;
  for (int64_t p = 0; p < shape.h.out; ++p)
    for (int64_t q = 0; q < shape.w.out; ++q) {
      if (is_whole(rows[p], shape.h) && is_whole(columns[q], shape.w)) continue;
      uint64_t valid_taps = 0;
      const Window row = rows[p], column = columns[q];
      if (window_taps(shape) <= kMaxBitTaps) {
        const int64_t width = column.end - column.begin;
        const uint64_t in_row = width == 0 ? 0 : ~uint64_t{0} >> (64 - width) << column.begin;
        for (int64_t r = row.begin; r < row.end; ++r) valid_taps |= in_row << winner_of(shape, r, int64_t{0});
        if (valid_taps == 0) valid_taps = uint64_t{1} << winner_of(shape, row.begin, column.begin);  // see is_valid
      }
      clipped.push_back({p * shape.w.out + q, valid_taps});
    }
  return clipped;
}

// Whether all values are in [0, limit); compiles to vector code.
template <class Winner>
bool all_below(const Winner* values, int64_t size, int64_t limit) {
  using Unsigned = std::make_unsigned_t<Winner>;  // negative ones become the largest
  Unsigned largest = 0;
  for (int64_t i = 0; i < size; ++i) {
    const Unsigned value = static_cast<Unsigned>(values[i]);
    largest = largest < value ? value : largest;
  }
  return largest < limit;
}

// Fails at a winner that names no tap of its window inside the input. In whole windows every tap does.
template <class Winner>
void check_values(const char* op, const Winner* winners, const PoolShape& shape, const Lines& lines) {
  const std::vector<Window> rows = windows_of(shape.h), columns = windows_of(shape.w);
  const int64_t taps = window_taps(shape), inner = lines.inner, group_size = shape.h.out * shape.w.out * inner;
  const std::vector<Clipped> clipped = clipped_outputs(shape, rows, columns);
  std::atomic<int64_t> invalid{-1};  // thrown after the loop: an exception must not leave a worker thread
  const int64_t grain = std::max<int64_t>(1, kGrain / group_size);
  torch::stable::parallel_for(0, lines.count / shape.h.out, grain, [&](int64_t begin, int64_t end) {
    const bool all_name_taps = all_below(winners + begin * group_size, (end - begin) * group_size, taps);
    if (all_name_taps && clipped.empty()) return;
    for (const Winner* at = winners + begin * group_size; at < winners + end * group_size; at += group_size) {
      const auto check = [&](int64_t first, int64_t past) {
        for (int64_t i = first; i < past; ++i) {
          const int64_t output = i / inner;
          if (!is_valid(shape, at[i], rows[output / shape.w.out], columns[output % shape.w.out]))
            invalid = at - winners + i;
        }
      };
      if (!all_name_taps) {
        check(0, group_size);
        continue;
      }
      uint64_t all_valid = taps <= kMaxBitTaps;
      if (all_valid)
        for (const Clipped& edge : clipped)
          for (int64_t i = edge.output * inner; i < (edge.output + 1) * inner; ++i)
            all_valid &= edge.valid_taps >> at[i];
      if (!all_valid)
        for (const Clipped& edge : clipped) check(edge.output * inner, (edge.output + 1) * inner);
    }
  });
  if (invalid < 0) return;
  const int64_t output = invalid % group_size / inner;
  fail_winner(op, shape, winners[invalid], output / shape.w.out, output % shape.w.out);
}

bool is_empty(const PoolShape& shape) {
  return shape.n * shape.h.out * shape.w.out == 0;
}

// Calls body(at, group, channel, position, has_input) for every winner. `at` is its place; it names the flat
// `position` of channel `channel` of `group` (a sample, or a plane with a single channel), unless its window holds
// no input at all: then the position is the one torch's indices have there, and lies outside.
template <class Winner, class F>
void for_winners(const Winner* winners, const PoolShape& shape, const Lines& lines, F body) {
  const std::vector<Window> rows = windows_of(shape.h), columns = windows_of(shape.w);
  const auto offset_of = [&](int64_t tap) {
    return tap / shape.w.kernel * shape.h.dilation * shape.w.in + tap % shape.w.kernel * shape.w.dilation;
  };
  std::vector<int64_t> offsets(std::min(window_taps(shape), kMaxByteTaps));  // spares the usual windows two divisions
  for (size_t tap = 0; tap < offsets.size(); ++tap) offsets[tap] = offset_of(tap);
  for_lines(shape, lines, [&](int64_t line) {
    const int64_t p = line % shape.h.out;
    int64_t at = line * shape.w.out * lines.inner;
    for (const Window& window : columns) {
      const int64_t first = rows[p].start * shape.w.in + window.start;
      const bool has_input = rows[p].begin < rows[p].end && window.begin < window.end;
      for (int64_t channel = 0; channel < lines.inner; ++channel, ++at) {
        const int64_t tap = winners[at];
        const int64_t position = first + (tap < kMaxByteTaps ? offsets[tap] : offset_of(tap));
        body(at, line / shape.h.out, channel, position, has_input);
      }
    }
  });
}

template <class F>
void with_winner_type(const Tensor& winners, F body) {
  if (winners.scalar_type() == ScalarType::Byte) {
    body(static_cast<const uint8_t*>(winners.const_data_ptr()));
  } else {
    body(static_cast<const int32_t*>(winners.const_data_ptr()));
  }
}

}  // namespace

std::vector<Window> windows_of(const PoolAxis& axis) {
  std::vector<Window> windows(axis.out);
  for (int64_t i = 0; i < axis.out; ++i) windows[i] = window(axis, i);
  return windows;
}

Tensor check_winners(const char* op, const Tensor& winners, const PoolShape& shape, bool channels_last) {
  check_winners_tensor(op, winners, shape);
  const Tensor ordered = dense(winners, channels_last);
  if (is_empty(shape)) return ordered;
  with_winner_type(ordered, [&](auto* values) { check_values(op, values, shape, lines_of(shape, channels_last)); });
  return ordered;
}

Tensor select_winners(const char* op, const Tensor& input, const Tensor& winners, const PoolShape& shape) {
  check_floating(op, "input", input);
  check_device(op, "winners", winners, "input", input);
  const bool channels_last = is_channels_last(input);
  const Tensor ordered = check_winners(op, winners, shape, channels_last);
  Tensor output = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, channels_last);
  if (is_empty(shape)) return output;
  const Tensor source = dense(input, channels_last);
  const Lines lines = lines_of(shape, channels_last);
  const int64_t plane = shape.h.in * shape.w.in;
  TMC_DISPATCH_FLOATING(input, "select_winners", [&] {
    const scalar_t* x = source.const_data_ptr<scalar_t>();
    scalar_t* y = output.mutable_data_ptr<scalar_t>();
    with_winner_type(ordered, [&](auto* values) {
      for_winners(values, shape, lines,
                  [&](int64_t at, int64_t group, int64_t channel, int64_t position, bool has_input) {
                    y[at] = has_input ? x[(group * plane + position) * lines.inner + channel] : scalar_t(0);
                  });
    });
  });
  return output;
}

Tensor winner_indices(const char* op, const Tensor& winners, const PoolShape& shape) {
  const bool channels_last = is_channels_last(winners);
  const Tensor ordered = check_winners(op, winners, shape, channels_last);
  Tensor indices = empty_nchw(winners, shape.n, shape.c, shape.h.out, shape.w.out, channels_last, ScalarType::Long);
  if (is_empty(shape)) return indices;
  int64_t* to = indices.mutable_data_ptr<int64_t>();
  with_winner_type(ordered, [&](auto* values) {
    for_winners(values, shape, lines_of(shape, channels_last),
                [&](int64_t at, int64_t, int64_t, int64_t position, bool) { to[at] = position; });
  });
  return indices;
}

}  // namespace tmc
