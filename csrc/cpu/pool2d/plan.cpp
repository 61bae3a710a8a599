// Which form of a kernel suits a pooling call, and how the call is cut into tasks. The cut decides no bit of the
// result: every element is computed alone.
#include "cpu/pool2d/plan.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/machine/machine.h"
#include "cpu/machine/tasks.h"
#include "cpu/pool2d/core.h"
#include "cpu/pool2d/tables.h"

namespace tmc {
namespace {

const PoolForms& forms_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double: return kernels_for_this_cpu<PoolKernels>().float64;
    case ScalarType::Float: return kernels_for_this_cpu<PoolKernels>().float32;
    case ScalarType::BFloat16: return kernels_for_this_cpu<PoolKernels>().bfloat16;
    default: return kernels_for_this_cpu<PoolKernels>().float16;
  }
}

constexpr AverageRule kNoAverage{false, 0};

struct alignas(64) CacheLine {
  char bytes[64];
};

constexpr int64_t kGrain = 32768;  // elements a thread should have: at::internal::GRAIN_SIZE

// What a task keeps in scratch memory should stay in the second-level cache, which has 1 MiB on Zen 4 and 256 KiB on
// the smallest CPUs; strips in the first-level cache, which has 32 KiB or more, together with what is read and written.
constexpr int64_t kScratchBytes = 512 * 1024, kColumnBytes = 256 * 1024, kStripBytes = 32 * 1024;
// By columns pays for pixels of so many bytes in channels_last, and for contiguous planes that leave a quarter of their
// vectors empty, in rows of so many elements; in rows twice as long for every float32 gradient of windows side by side.
constexpr int64_t kColumnPixel = 48, kColumnRow = 48;
// A gather asks every window that covers a position for its winner, and visits every position: scattering is faster
// where that many windows cover one, or where there is but one output for so many positions.
constexpr int64_t kMostGathered = 64, kMostPositions = 16;

// Adaptive windows of one size, at one distance, are windows that slide.
PoolAxis simplified(const PoolAxis& axis) {
  if (!is_adaptive(axis) || axis.out == 0) return axis;
  const int64_t stride = axis.out > 1 ? window(axis, int64_t{1}).start : axis.kernel;
  if (stride == 0) return axis;
  for (int64_t i = 0; i < axis.out; ++i) {
    const Window taps = window(axis, i);
    if (taps.start != i * stride || taps.end != axis.kernel) return axis;
  }
  return {axis.in, axis.out, axis.kernel, stride, 0, 1};
}

bool may_overlap(const PoolAxis& axis) {
  return is_adaptive(axis) || axis.dilation * (axis.kernel - 1) + 1 > axis.stride;
}

// Everything of a plan but its cut; the tensors are dense in one memory order and hold at least one element.
struct Call {
  PoolShape shape;
  AxisTables rows, columns;
  std::vector<Window> column_windows;  // by columns
  std::vector<Range> tap_outputs;
  ColumnTaps taps{};
  PoolPlan plan{};
  int64_t element_bytes, work;

  Call(const PoolShape& given, const AverageRule& rule, bool channels_last, const Tensor& source, Tensor& result,
       void* winners)
      : shape{given.n, given.c, simplified(given.h), simplified(given.w)},
        rows(shape.h, rule, true),
        columns(shape.w, rule, false),
        element_bytes(source.element_size()),
        work(std::max(source.numel(), result.numel())) {
    take_tables();
    plan.channels_last = channels_last;
    plan.source = source.const_data_ptr();
    plan.result = result.mutable_data_ptr();
    plan.winners = winners;
  }

  void take_tables() {
    plan.shape = shape;
    plan.rows = rows.windows.data();
    plan.columns = columns.windows.data();
    plan.row_outputs = rows.outputs.data();
    plan.column_outputs = columns.outputs.data();
    plan.row_divisors = rows.divisors.data();
    plan.column_divisors = columns.divisors.data();
  }

  int64_t real_bytes() const { return std::max<int64_t>(sizeof(float), element_bytes); }

  void run(PoolTask task, int64_t scratch_bytes) {
    plan.row_blocks = ceil_div(plan.result_rows, plan.block_rows);
    const int64_t tasks = ceil_div(plan.planes, plan.block_planes) * plan.row_blocks;
    const int64_t grain = std::max<int64_t>(1, kGrain / ceil_div(work, tasks));
    const int64_t lines = ceil_div(scratch_bytes, sizeof(CacheLine));
    torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
      const auto scratch = std::make_unique_for_overwrite<CacheLine[]>(lines);
      for (int64_t i = begin; i < end; ++i) task(plan, i, scratch.get()->bytes);
    });
  }

  // ---- In the order of channels.

  int64_t channels() const { return plan.channels_last ? shape.c : plan.block_planes; }
  int64_t tasks() const {
    return ceil_div(plan.planes, plan.block_planes) * ceil_div(plan.result_rows, plan.block_rows);
  }

  // Of a task: the quotients of an average's gradient, and of contiguous tensors the interleaved planes.
  int64_t scratch_bytes() const {
    int64_t source_rows = 0;
    for (int64_t begin = 0; begin < plan.result_rows; begin += plan.block_rows) {
      const Range rows{begin, std::min(begin + plan.block_rows, plan.result_rows)};
      source_rows = std::max(source_rows, (plan.gradient ? rows_above(plan, rows) : rows_below(plan, rows)).size());
    }
    const int64_t in_rows = plan.gradient ? plan.block_rows : source_rows;
    const int64_t out_rows = plan.gradient ? source_rows : plan.block_rows;
    const bool has_quotients = plan.gradient && plan.winners == nullptr;
    const int64_t quotient_bytes = has_quotients ? out_rows * shape.w.out * channels() * real_bytes() : 0;
    if (plan.taps != nullptr)
      return quotient_bytes + 64 +
             source_rows * channels() * element_bytes * (plan.gradient ? shape.w.out : shape.w.in);
    if (plan.channels_last) return quotient_bytes;
    const int64_t winner_bytes = plan.winners == nullptr ? 0 : window_taps(shape) <= kMaxByteTaps ? 1 : 4;
    const int64_t alignment = 4 * 64;
    return alignment + quotient_bytes +
           channels() *
               (in_rows * shape.w.in * element_bytes + out_rows * shape.w.out * (element_bytes + winner_bytes));
  }

  void cut_channels() {
    plan.planes = plan.channels_last ? shape.n : shape.n * shape.c;
    plan.result_rows = plan.block_rows = plan.gradient ? shape.h.in : shape.h.out;
    plan.block_planes = plan.channels_last ? 1 : std::min(round_up(plan.planes, kPlanes), kMostPlanes);
    const auto halve_rows = [&] { plan.block_rows = ceil_div(plan.block_rows, 2); };
    const auto halve_planes = [&] { plan.block_planes = round_up(plan.block_planes / 2, kPlanes); };
    while (scratch_bytes() > (plan.taps != nullptr ? kColumnBytes : kScratchBytes) && plan.block_rows > 1) halve_rows();
    while (scratch_bytes() > kScratchBytes && plan.block_planes > kPlanes) halve_planes();
    const auto has_few_tasks = [&] { return tasks() < torch::stable::get_num_threads(); };
    while (has_few_tasks() && plan.block_planes > kPlanes) halve_planes();
    while (has_few_tasks() && plan.block_rows > 1) halve_rows();
    const int64_t bytes_of_pixel = shape.c * element_bytes;
    plan.streams = plan.gradient && plan.channels_last && bytes_of_pixel % 64 == 0 &&
                   is_streamed(plan.result, plan.planes * shape.h.in * shape.w.in * bytes_of_pixel);
  }
  void run_channels(PoolTask task) {
    if (suits_columns()) take_columns();
    cut_channels();
    run(task, scratch_bytes());
  }

  // ---- By columns (cpu/pool2d/columns.h).

  bool suits_columns() const {
    const int64_t pixel = plan.channels_last ? shape.c : 1, length = (plan.gradient ? shape.w.in : shape.w.out) * pixel;
    if (is_adaptive(shape.w) || window_taps(shape) * length * real_bytes() > kColumnBytes) return false;
    if (plan.channels_last && pixel * (plan.gradient ? real_bytes() : element_bytes) > kColumnPixel) return false;
    const int64_t planes = shape.n * shape.c;
    const bool fills_vectors = 4 * planes > 3 * round_up(planes, kPlanes);
    const bool has_wide_copies =
        plan.gradient && element_bytes == 4 && shape.w.kernel <= shape.w.stride && length >= 2 * kColumnRow;
    if (!plan.channels_last && (length < kColumnRow || (fills_vectors && !has_wide_copies))) return false;
    if (plan.winners == nullptr)  // one divisor for a row
      return std::count(columns.divisors.begin(), columns.divisors.end(), columns.divisors[0]) == shape.w.out;
    return std::none_of(columns.windows.begin(), columns.windows.end(),
                        [](const Window& window) { return window.begin == window.end; });
  }
  void take_columns() {
    const PoolAxis w = shape.w;
    const int64_t pixel = plan.channels_last ? shape.c : 1, over = ceil_div(w.kernel, w.stride);
    column_windows = columns.windows;
    tap_outputs = outputs_of_taps(w);
    taps = {w, column_windows.data(), tap_outputs.data(), pixel};
    shape = {plan.channels_last ? shape.n : shape.n * shape.c, (plan.gradient ? w.in : w.out) * pixel, shape.h,
             plan.gradient ? PoolAxis{1, over, over, 1, over - 1, 1} : PoolAxis{w.kernel, 1, w.kernel, w.kernel, 0, 1}};
    const int64_t divisor = columns.divisors[0];
    columns = AxisTables(shape.w, kNoAverage, false);
    columns.divisors.assign(shape.w.out, divisor);
    plan.channels_last = true;
    plan.taps = &taps;
    take_tables();
  }

  // ---- One window that is the whole contiguous plane.

  bool is_whole() const {
    const auto spans = [](const PoolAxis& axis) {
      return !is_adaptive(axis) && axis.out == 1 && axis.kernel == axis.in && axis.pad == 0 && axis.dilation == 1;
    };
    return !plan.channels_last && spans(shape.h) && spans(shape.w);
  }
  void run_average(PoolTask channels, PoolTask whole, bool gradient) {
    plan.gradient = gradient;
    if (!is_whole()) return run_channels(channels);
    plan.planes = shape.n * shape.c;
    plan.result_rows = plan.block_rows = 1;
    plan.block_planes = kPlanes;
    run(whole, 0);
  }

  // ---- The gradient of max pooling.

  void run_max_gradient(const PoolForms& forms, bool byte_winners) {
    plan.gradient = true;
    const int64_t positions = shape.h.in * shape.w.in, outputs = shape.h.out * shape.w.out;
    const bool gathers = byte_winners && outputs > 0 && window_taps(shape) <= kMostGathered * positions / outputs &&
                         positions <= kMostPositions * outputs;
    if (gathers && forms.max_strips != nullptr && suits_strips()) return run_strips(forms.max_strips);
    if (gathers && plan.channels_last && shape.c >= kPlanes) return gather(forms.max_gather);
    scatter(byte_winners ? forms.max_scatter : forms.max_scatter_wide);
  }

  void gather(PoolTask task) {
    cut_channels();
    const ClaimTable row_claims(shape.h, rows, shape.w.out * shape.c, shape.w.kernel);
    const ClaimTable column_claims(shape.w, columns, shape.c, 1);
    plan.row_claims = row_claims.data();
    plan.column_claims = column_claims.data();
    run(task, scratch_bytes());
  }

  // Windows of 3 x 3 on contiguous planes. On shorter rows scattering is as fast, and without the masks of AVX-512 it
  // is so wherever outputs are few (stride 2).
  bool suits_strips() const {
    const PoolAxis &h = shape.h, &w = shape.w;
    const bool is_usual = h.kernel == 3 && w.kernel == 3 && h.stride == w.stride && h.dilation == 1 && w.dilation == 1;
    if (plan.channels_last || !is_usual) return false;
    return w.in >= 8 && (w.stride == 1 || (w.stride == 2 && isa() == Isa::avx512));
  }

  int64_t strip_scratch_bytes() const {
    const PoolAxis &h = shape.h, &w = shape.w;
    const int64_t taps = (w.in + kPlanes) * w.kernel * ceil_div(w.kernel, w.stride);
    const int64_t rows = ceil_div(plan.block_rows + h.kernel - 1, h.stride);
    return taps + (rows * w.out + 2 * kSlack) * (real_bytes() + 1);
  }
  void run_strips(PoolTask task) {
    plan.planes = shape.n * shape.c;
    plan.result_rows = plan.block_rows = shape.h.in;
    plan.block_planes = std::min(plan.planes, kMostPlanes);
    const auto has_few_tasks = [&] { return tasks() < torch::stable::get_num_threads(); };
    while (plan.block_planes > 1 && has_few_tasks()) plan.block_planes = ceil_div(plan.block_planes, 2);
    while (plan.block_rows > 1 && (strip_scratch_bytes() > kStripBytes || has_few_tasks()))
      plan.block_rows = ceil_div(plan.block_rows, 2);
    run(task, strip_scratch_bytes());
  }

  void scatter(PoolTask task) {
    std::vector<int64_t> offsets(std::min(window_taps(shape), kMaxByteTaps));
    for (int64_t tap = 0; tap < static_cast<int64_t>(offsets.size()); ++tap)
      offsets[tap] = tap / shape.w.kernel * shape.h.dilation * shape.w.in + tap % shape.w.kernel * shape.w.dilation;
    plan.offsets = offsets.data();
    plan.overlapping = may_overlap(shape.h) || may_overlap(shape.w);
    plan.planes = plan.channels_last ? shape.n : shape.n * shape.c;
    plan.result_rows = plan.block_rows = plan.block_planes = 1;
    const int64_t inputs = shape.h.in * shape.w.in * (plan.channels_last ? shape.c : 1);
    const std::vector<int32_t> starts = starts_of_small_planes(inputs);
    if (!starts.empty()) plan.starts = starts.data();
    const bool has_sums = plan.overlapping && element_bytes < real_bytes();
    run(task, has_sums ? (plan.block_planes * inputs + kSlack) * real_bytes() : 0);
  }

  // Where the windows of a block of planes start, if a plane is small and contiguous and every window holds some input.
  std::vector<int32_t> starts_of_small_planes(int64_t inputs) {
    const auto is_empty = [](const Window& window) { return window.begin == window.end; };
    std::vector<int32_t> starts;
    const int64_t larger = std::max(inputs, shape.h.out * shape.w.out);
    if (plan.channels_last || larger * real_bytes() > kSmallPlane || shape.h.out * shape.w.out == 0 ||
        std::any_of(rows.windows.begin(), rows.windows.end(), is_empty) ||
        std::any_of(columns.windows.begin(), columns.windows.end(), is_empty))
      return starts;
    plan.block_planes = std::clamp<int64_t>(kSmallPlane / (larger * real_bytes()), 1, plan.planes);
    for (int64_t plane = 0; plane < plan.block_planes; ++plane)
      for (const Window& row : rows.windows)
        for (const Window& column : columns.windows)
          starts.push_back(static_cast<int32_t>(plane * inputs + row.start * shape.w.in + column.start));
    return starts;
  }
};

}  // namespace

void max_pool(const PoolShape& shape, bool channels_last, const Tensor& input, Tensor& output, Tensor& winners) {
  Call(shape, kNoAverage, channels_last, input, output, winners.mutable_data_ptr())
      .run_channels(winners.scalar_type() == ScalarType::Byte ? forms_of(input.scalar_type()).max
                                                              : forms_of(input.scalar_type()).max_wide);
}

void max_pool_gradient(const PoolShape& shape, bool channels_last, const Tensor& grad_output, const Tensor& winners,
                       Tensor& grad_input) {
  Call(shape, kNoAverage, channels_last, grad_output, grad_input, const_cast<void*>(winners.const_data_ptr()))
      .run_max_gradient(forms_of(grad_output.scalar_type()), winners.scalar_type() == ScalarType::Byte);
}

void average_pool(const PoolShape& shape, bool channels_last, const AverageRule& rule, const Tensor& input,
                  Tensor& output) {
  const PoolForms& forms = forms_of(input.scalar_type());
  Call(shape, rule, channels_last, input, output, nullptr).run_average(forms.average, forms.average_whole, false);
}

void average_pool_gradient(const PoolShape& shape, bool channels_last, const AverageRule& rule,
                           const Tensor& grad_output, Tensor& grad_input) {
  const PoolForms& forms = forms_of(grad_output.scalar_type());
  Call(shape, rule, channels_last, grad_output, grad_input, nullptr)
      .run_average(forms.average_gradient, forms.average_gradient_whole, true);
}

}  // namespace tmc
