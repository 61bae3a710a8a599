// Both layouts are one here: a line is the winners [q][i] of an output row p, where i runs over the channels of a
// channels_last tensor, and over nothing (inner = 1) in a contiguous one. Bound: memory.
#include "cpu/pool2d/winners.h"

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

// Whether all values are in [begin, end); compiles to vector code.
template <class Winner>
bool all_within(const Winner* values, int64_t size, int64_t begin, int64_t end) {
  using Unsigned = std::make_unsigned_t<Winner>;  // what lies below `begin` becomes larger than any winner
  const Unsigned first = static_cast<Unsigned>(begin);
  Unsigned largest = 0;
  for (int64_t i = 0; i < size; ++i) {
    const Unsigned distance = static_cast<Unsigned>(values[i]) - first;
    largest = largest < distance ? distance : largest;
  }
  return largest < end - begin;
}

// The places along an axis whose windows are not whole.
std::vector<int64_t> clipped_windows(const PoolAxis& axis, const std::vector<Window>& windows) {
  std::vector<int64_t> clipped;
  for (int64_t i = 0; i < axis.out; ++i)
    if (windows[i].end - windows[i].begin != axis.kernel) clipped.push_back(i);
  return clipped;
}

// Fails at a winner that names no tap of its window inside the input. In whole windows every tap does; the rows of a
// clipped one allow a range of winners, its columns a range of winner % kernel_w.
template <class Winner>
void check_values(const char* op, const Winner* winners, const PoolShape& shape, const Lines& lines) {
  const std::vector<Window> rows = windows_of(shape.h), columns = windows_of(shape.w);
  const std::vector<int64_t> clipped_rows = clipped_windows(shape.h, rows);
  const std::vector<int64_t> clipped_columns = clipped_windows(shape.w, columns);
  const auto is_empty = [](const Window& window) { return window.begin == window.end; };
  const bool all_hold_input =
      std::none_of(rows.begin(), rows.end(), is_empty) && std::none_of(columns.begin(), columns.end(), is_empty);
  uint8_t column_of_tap[kMaxByteTaps];  // spares bytes a division
  for (int64_t tap = 0; tap < kMaxByteTaps; ++tap) column_of_tap[tap] = static_cast<uint8_t>(tap % shape.w.kernel);

  const int64_t taps = window_taps(shape), width = shape.w.out * lines.inner, group_size = shape.h.out * width;
  const auto is_group_valid = [&](const Winner* at) {
    if (!all_hold_input || !all_within(at, group_size, 0, taps)) return false;
    for (const int64_t p : clipped_rows)
      if (!all_within(at + p * width, width, rows[p].begin * shape.w.kernel, rows[p].end * shape.w.kernel))
        return false;
    bool all_valid = true;
    for (const int64_t q : clipped_columns)
      for (int64_t p = 0; p < shape.h.out; ++p)
        for (int64_t i = 0; i < lines.inner; ++i) {
          const Winner tap = at[p * width + q * lines.inner + i];
          const int64_t column = sizeof(Winner) == 1 ? column_of_tap[tap & 255] : tap % shape.w.kernel;
          all_valid &= column >= columns[q].begin && column < columns[q].end;
        }
    return all_valid;
  };
  std::atomic<int64_t> invalid{-1};  // thrown after the loop: an exception must not leave a worker thread
  const int64_t grain = std::max<int64_t>(1, kGrain / group_size);
  torch::stable::parallel_for(0, lines.count / shape.h.out, grain, [&](int64_t begin, int64_t end) {
    const bool all_whole = clipped_rows.empty() && clipped_columns.empty();
    if (all_whole && all_within(winners + begin * group_size, (end - begin) * group_size, 0, taps)) return;
    for (const Winner* at = winners + begin * group_size; at < winners + end * group_size; at += group_size) {
      if (is_group_valid(at)) continue;
      for (int64_t i = 0; i < group_size; ++i) {
        const int64_t output = i / lines.inner;
        if (!is_valid(shape, at[i], rows[output / shape.w.out], columns[output % shape.w.out]))
          invalid = at - winners + i;
      }
    }
  });
  if (invalid < 0) return;
  const int64_t output = invalid % group_size / lines.inner;
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
