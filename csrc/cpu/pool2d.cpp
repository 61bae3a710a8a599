// Pooling on the CPU: the operators, and how their work is cut into tasks for the kernels of pool2d_tasks.h.
#include <algorithm>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "isa.h"
#include "pool2d_core.h"
#include "pool2d_ops.h"
#include "pool2d_plan.h"
#include "pool2d_winners.h"
#include "tensor.h"

namespace tmc {
namespace {

const PoolKernels& kernels() {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return kPoolAvx512;
  if (isa() == Isa::avx2) return kPoolAvx2;
#endif
  return kPoolBase;
}

const PoolTasks& tasks_for(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double: return kernels().float64;
    case ScalarType::Float: return kernels().float32;
    case ScalarType::BFloat16: return kernels().bfloat16;
    default: return kernels().float16;
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

enum class Direction { forward, gradient };
constexpr AverageRule kNoAverage{false, 0};

// Scratch memory that a task of `block_rows` rows needs: its interleaved planes, and the sums of a row of gradients.
int64_t scratch_bytes(const PoolPlan& plan, Direction direction, int64_t element_bytes) {
  const PoolShape& shape = plan.shape;
  const bool forward = direction == Direction::forward;
  const int64_t result_rows = forward ? shape.h.out : shape.h.in;
  const int64_t sums = forward ? 0 : shape.w.in * (plan.channels_last ? shape.c : kPlanes) * int64_t{sizeof(double)};
  if (plan.channels_last) return sums;
  int64_t source_rows = 0;
  for (int64_t begin = 0; begin < result_rows; begin += plan.block_rows) {
    const Range rows{begin, std::min(begin + plan.block_rows, result_rows)};
    source_rows = std::max(source_rows, (forward ? rows_below(plan, rows) : rows_above(plan, rows)).size());
  }
  const int64_t in_rows = forward ? source_rows : plan.block_rows;
  const int64_t out_rows = forward ? plan.block_rows : source_rows;
  const int64_t winner_bytes = plan.winners == nullptr ? 0 : window_taps(shape) <= kMaxByteTaps ? 1 : 4;
  return sums +
         kPlanes * (in_rows * shape.w.in * element_bytes + out_rows * shape.w.out * (element_bytes + winner_bytes));
}

struct alignas(64) CacheLine {
  char bytes[64];
};

// Interleaved rows should stay in the second-level cache, which has 256 KiB on the smallest CPUs and more on all
// recent ones.
constexpr int64_t kScratchBytes = 256 * 1024;
constexpr int64_t kGrain = 32768;  // elements a thread should have: at::internal::GRAIN_SIZE

// Runs `task` over the whole result. The tensors are dense in one memory order and hold at least one element.
void run(PoolTask task, const PoolShape& shape, const AverageRule& rule, Direction direction, bool channels_last,
         const Tensor& source, Tensor& result, void* winners) {
  const AxisTables rows(shape.h, rule, true), columns(shape.w, rule, false);
  PoolPlan plan{};
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

  // The cut decides no bit of the result: every element is computed alone.
  const int64_t groups = channels_last ? shape.n : ceil_div(shape.n * shape.c, kPlanes);
  const int64_t result_rows = direction == Direction::forward ? shape.h.out : shape.h.in;
  const int64_t element_bytes = source.element_size();
  plan.block_rows = channels_last ? 1 : result_rows;
  while (plan.block_rows > 1 && (scratch_bytes(plan, direction, element_bytes) > kScratchBytes ||
                                 groups * ceil_div(result_rows, plan.block_rows) < torch::stable::get_num_threads()))
    plan.block_rows = ceil_div(plan.block_rows, 2);
  plan.row_blocks = ceil_div(result_rows, plan.block_rows);

  const int64_t tasks = groups * plan.row_blocks;
  const int64_t work = std::max(source.numel(), result.numel());
  const int64_t grain = std::max<int64_t>(1, kGrain / ceil_div(work, tasks));
  const int64_t lines = ceil_div(scratch_bytes(plan, direction, element_bytes), sizeof(CacheLine));
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    const auto scratch = std::make_unique_for_overwrite<CacheLine[]>(lines);
    for (int64_t i = begin; i < end; ++i) task(plan, i, scratch.get()->bytes);
  });
}

}  // namespace

void max_pool(const PoolShape& shape, bool channels_last, const Tensor& input, Tensor& output, Tensor& winners) {
  const PoolTasks& tasks = tasks_for(input.scalar_type());
  run(winners.scalar_type() == ScalarType::Byte ? tasks.max : tasks.max_wide, shape, kNoAverage, Direction::forward,
      channels_last, input, output, winners.mutable_data_ptr());
}

void max_pool_gradient(const PoolShape& shape, bool channels_last, const Tensor& grad_output, const Tensor& winners,
                       Tensor& grad_input) {
  const PoolTasks& tasks = tasks_for(grad_output.scalar_type());
  run(winners.scalar_type() == ScalarType::Byte ? tasks.max_gradient : tasks.max_gradient_wide, shape, kNoAverage,
      Direction::gradient, channels_last, grad_output, grad_input, const_cast<void*>(winners.const_data_ptr()));
}

void average_pool(const PoolShape& shape, bool channels_last, const AverageRule& rule, const Tensor& input,
                  Tensor& output) {
  run(tasks_for(input.scalar_type()).average, shape, rule, Direction::forward, channels_last, input, output, nullptr);
}

void average_pool_gradient(const PoolShape& shape, bool channels_last, const AverageRule& rule,
                           const Tensor& grad_output, Tensor& grad_input) {
  run(tasks_for(grad_output.scalar_type()).average_gradient, shape, rule, Direction::gradient, channels_last,
      grad_output, grad_input, nullptr);
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
    const bool channels_last = is_channels_last(grad_output);
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
