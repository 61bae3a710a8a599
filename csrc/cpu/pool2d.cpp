// Pooling on the CPU: the operators, and how their work is cut into tasks in which form (cpu/pool2d/plan.h).
#include <algorithm>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/machine/machine.h"
#include "cpu/machine/tasks.h"
#include "cpu/pool2d/core.h"
#include "cpu/pool2d/cut.h"
#include "cpu/pool2d/winners.h"
#include "pool2d_ops.h"
#include "tensor.h"

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

// What the kernels look up along one axis.
struct AxisTables {
  std::vector<Window> windows;
  std::vector<Covering> outputs;
  std::vector<int64_t> divisors;

  AxisTables(const PoolAxis& axis, const AverageRule& rule, bool overridden)
      : windows(windows_of(axis)), outputs(axis.in), divisors(axis.out) {
    for (int64_t i = 0; i < axis.in; ++i) outputs[i] = covering(axis, i);
    for (int64_t i = 0; i < axis.out; ++i)
      divisors[i] = rule.divisor_override == 0 ? window_extent(axis, i, rule.count_include_pad)
                    : overridden               ? rule.divisor_override
                                               : 1;
  }
};

// The claims to every position along one axis, in the order of the outputs.
class ClaimTable {
 public:
  // From one output to the next are `step` elements, from one tap to the next `taps`.
  ClaimTable(const PoolAxis& axis, const AxisTables& tables, int64_t step, int64_t taps) : of_position_(axis.in) {
    for (int64_t i = 0; i < axis.in; ++i) {
      const Covering outputs = tables.outputs[i];
      for (int64_t output = outputs.first; output <= outputs.last; ++output) {
        const int64_t distance = i - tables.windows[output].start;
        if (distance % axis.dilation != 0) continue;  // the window steps over this position
        claims_.push_back({output * step, distance / axis.dilation * taps});
        ++of_position_[i].count;
      }
    }
    const AxisClaim* first = claims_.data();
    for (AxisClaims& claims : of_position_) {
      claims.first = first;
      first += claims.count;
    }
  }
  const AxisClaims* data() const { return of_position_.data(); }

 private:
  std::vector<AxisClaim> claims_;
  std::vector<AxisClaims> of_position_;
};

constexpr AverageRule kNoAverage{false, 0};

struct alignas(64) CacheLine {
  char bytes[64];
};

constexpr int64_t kGrain = 32768;  // elements a thread should have: at::internal::GRAIN_SIZE

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
  PoolPlan plan{};
  int64_t element_bytes, work;

  Call(const PoolShape& given, const AverageRule& rule, bool channels_last, const Tensor& source, Tensor& result,
       void* winners)
      : shape{given.n, given.c, simplified(given.h), simplified(given.w)},
        rows(shape.h, rule, true),
        columns(shape.w, rule, false),
        element_bytes(source.element_size()),
        work(std::max(source.numel(), result.numel())) {
    plan.shape = shape;
    plan.channels_last = channels_last;
    plan.rows = rows.windows.data();
    plan.columns = columns.windows.data();
    plan.row_outputs = rows.outputs.data();
    plan.column_outputs = columns.outputs.data();
    plan.row_divisors = rows.divisors.data();
    plan.column_divisors = columns.divisors.data();
    plan.source = source.const_data_ptr();
    plan.result = result.mutable_data_ptr();
    plan.winners = winners;
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

  // The gradient of max pooling.
  void run_max_gradient(const MaxGradients& forms, bool byte_winners) {
    plan.gradient = true;
    const int64_t positions = shape.h.in * shape.w.in, outputs = shape.h.out * shape.w.out;
    if (outputs > 0 && window_taps(shape) <= kMostGathered * positions / outputs &&
        positions <= kMostPositions * outputs) {
      if (plan.channels_last && shape.c >= kPlanes) {
        const ClaimTable row_claims(shape.h, rows, shape.w.out * shape.c, shape.w.kernel);
        const ClaimTable column_claims(shape.w, columns, shape.c, 1);
        plan.row_claims = row_claims.data();
        plan.column_claims = column_claims.data();
        return run(byte_winners ? forms.gather : forms.gather_wide, plan_direct(plan, element_bytes));
      }
      const int64_t scratch_bytes = plan_strips(plan, real_bytes());
      if (scratch_bytes >= 0) return run(forms.gather_in_strips, scratch_bytes);
    }
    scatter(byte_winners ? forms.scatter : forms.scatter_wide);
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
    run(task, has_sums ? (plan.block_planes * inputs + kPhaseSlack) * real_bytes() : 0);
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

  // In the form that suits the call.
  void run(const PoolForms& forms, PoolTask PoolTasks::* task, bool gradient) {
    plan.gradient = gradient;
    int64_t scratch_bytes = plan_whole(plan);
    if (scratch_bytes >= 0) return run(forms.whole.*task, scratch_bytes);
    scratch_bytes = plan_phases(plan, real_bytes());
    if (scratch_bytes >= 0) return run(forms.phases.*task, scratch_bytes);
    run(forms.direct.*task, plan_direct(plan, element_bytes));
  }
};

}  // namespace

void max_pool(const PoolShape& shape, bool channels_last, const Tensor& input, Tensor& output, Tensor& winners) {
  Call(shape, kNoAverage, channels_last, input, output, winners.mutable_data_ptr())
      .run(forms_of(input.scalar_type()),
           winners.scalar_type() == ScalarType::Byte ? &PoolTasks::max : &PoolTasks::max_wide, false);
}

void max_pool_gradient(const PoolShape& shape, bool channels_last, const Tensor& grad_output, const Tensor& winners,
                       Tensor& grad_input) {
  Call(shape, kNoAverage, channels_last, grad_output, grad_input, const_cast<void*>(winners.const_data_ptr()))
      .run_max_gradient(forms_of(grad_output.scalar_type()).max_gradient, winners.scalar_type() == ScalarType::Byte);
}

void average_pool(const PoolShape& shape, bool channels_last, const AverageRule& rule, const Tensor& input,
                  Tensor& output) {
  Call(shape, rule, channels_last, input, output, nullptr)
      .run(forms_of(input.scalar_type()), &PoolTasks::average, false);
}

void average_pool_gradient(const PoolShape& shape, bool channels_last, const AverageRule& rule,
                           const Tensor& grad_output, Tensor& grad_input) {
  Call(shape, rule, channels_last, grad_output, grad_input, nullptr)
      .run(forms_of(grad_output.scalar_type()), &PoolTasks::average_gradient, true);
}

namespace {

// The maps that pool2d_ops.h asks for: checks, allocation, then one of the above.
struct CpuPool {
  static std::tuple<Tensor, Tensor> max_pool(const char* op, const Tensor& input, const PoolShape& shape) {
    check_floating(op, "input", input);
    const bool channels_last = is_channels_last(input);
    Tensor output = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, channels_last);
    Tensor winners = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, channels_last, winners_dtype(shape));
    if (output.numel() > 0) tmc::max_pool(shape, channels_last, dense(input, channels_last), output, winners);
    return {output, winners};
  }

  static Tensor max_pool_gradient(const char* op, const Tensor& grad_output, const Tensor& winners,
                                  const PoolShape& shape) {
    check_floating(op, "grad_output", grad_output);
    check_device(op, "winners", winners, "grad_output", grad_output);
    const bool channels_last = is_channels_last(grad_output) || is_channels_last(winners);
    const Tensor checked = check_winners(op, winners, shape, channels_last);
    Tensor grad_input = empty_nchw(grad_output, shape.n, shape.c, shape.h.in, shape.w.in, channels_last);
    if (grad_input.numel() > 0)
      tmc::max_pool_gradient(shape, channels_last, dense(grad_output, channels_last), checked, grad_input);
    return grad_input;
  }

  static Tensor average_pool(const char* op, const Tensor& input, const PoolShape& shape, const AverageRule& rule) {
    check_floating(op, "input", input);
    const bool channels_last = is_channels_last(input);
    Tensor output = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, channels_last);
    if (output.numel() > 0) tmc::average_pool(shape, channels_last, rule, dense(input, channels_last), output);
    return output;
  }

  static Tensor average_pool_gradient(const char* op, const Tensor& grad_output, const PoolShape& shape,
                                      const AverageRule& rule) {
    check_floating(op, "grad_output", grad_output);
    const bool channels_last = is_channels_last(grad_output);
    Tensor grad_input = empty_nchw(grad_output, shape.n, shape.c, shape.h.in, shape.w.in, channels_last);
    if (grad_input.numel() > 0)
      tmc::average_pool_gradient(shape, channels_last, rule, dense(grad_output, channels_last), grad_input);
    return grad_input;
  }

  static constexpr auto select_winners = tmc::select_winners;
  static constexpr auto winner_indices = tmc::winner_indices;
};

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  tmc::register_pool2d<tmc::CpuPool>(m);
}
