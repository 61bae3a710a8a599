// Pooling on the CPU: checks, allocation, and one pass over the outputs (or, for a gradient, over the inputs).
#include <atomic>
#include <limits>
#include <optional>
#include <tuple>

#include "pool2d.h"
#include "tensor.h"

namespace tmc {
namespace {

// Element (n, c, h, w) of a dense [N, C, H, W] tensor stands at n * n_ + c * c_ + (h * w_extent + w) * hw_.
struct Strides {
  int64_t n, c, hw;
};
Strides strides(const PoolShape& shape, bool channels_last, int64_t plane) {
  if (channels_last) return {shape.c * plane, 1, shape.c};
  return {shape.c * plane, plane, 1};
}

struct Problem {
  PoolShape shape;
  bool channels_last;
  int64_t in_plane() const { return shape.h.in * shape.w.in; }
  int64_t out_plane() const { return shape.h.out * shape.w.out; }
  Strides in() const { return strides(shape, channels_last, in_plane()); }
  Strides out() const { return strides(shape, channels_last, out_plane()); }
  int64_t planes() const { return shape.n * shape.c; }
};

template <class F>
void for_planes(const Problem& problem, F body) {
  const int64_t c = problem.shape.c;
  torch::stable::parallel_for(0, problem.planes(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) body(plane / c, plane % c);
  });
}

ScalarType winners_dtype(const PoolShape& shape) {
  return window_taps(shape) <= kMaxByteTaps ? ScalarType::Byte : ScalarType::Int;
}

template <class F>
void with_winner_type(const PoolShape& shape, F body) {
  if (window_taps(shape) <= kMaxByteTaps) {
    body(uint8_t{});
  } else {
    body(int32_t{});
  }
}

std::tuple<Tensor, Tensor> max_forward(const char* op, const Tensor& input, const PoolShape& shape) {
  check_floating(op, "input", input);
  const bool channels_last = is_channels_last(input);
  const Problem problem{shape, channels_last};
  const Tensor source = dense(input, channels_last);
  Tensor output = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, channels_last);
  Tensor winners = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, channels_last, winners_dtype(shape));
  with_winner_type(shape, [&](auto winner_tag) {
    using winner_t = decltype(winner_tag);
    winner_t* winners_data = static_cast<winner_t*>(winners.mutable_data_ptr());
    TMC_DISPATCH_FLOATING(input, "pool2d", [&] {
      const scalar_t* x = source.const_data_ptr<scalar_t>();
      scalar_t* y = output.mutable_data_ptr<scalar_t>();
      const Strides in = problem.in();
      const Strides out = problem.out();
      for_planes(problem, [&](int64_t n, int64_t c) {
        for (int64_t p = 0; p < shape.h.out; ++p)
          for (int64_t q = 0; q < shape.w.out; ++q) {
            const Window rows = window(shape.h, p);
            const Window columns = window(shape.w, q);
            using acc_t = accumulate_t<scalar_t>;
            acc_t best = -std::numeric_limits<acc_t>::infinity();
            int64_t winner = winner_of(shape, rows.begin, columns.begin);
            for (int64_t r = rows.begin; r < rows.end; ++r)
              for (int64_t s = columns.begin; s < columns.end; ++s) {
                const int64_t h = rows.start + r * shape.h.dilation;
                const int64_t w = columns.start + s * shape.w.dilation;
                const acc_t value = x[n * in.n + c * in.c + (h * shape.w.in + w) * in.hw];
                if (beats(value, best)) {
                  best = value;
                  winner = winner_of(shape, r, s);
                }
              }
            const int64_t at = n * out.n + c * out.c + (p * shape.w.out + q) * out.hw;
            y[at] = best;
            winners_data[at] = static_cast<winner_t>(winner);
          }
      });
    });
  });
  return {output, winners};
}

// Dense winners of the wanted layout, every one of them valid.
template <class winner_t>
void check_winner_values(const char* op, const winner_t* winners, const Problem& problem) {
  const PoolShape& shape = problem.shape;
  const Strides out = problem.out();
  std::atomic<int64_t> bad{-1};
  for_planes(problem, [&](int64_t n, int64_t c) {
    for (int64_t p = 0; p < shape.h.out; ++p)
      for (int64_t q = 0; q < shape.w.out; ++q) {
        const int64_t at = n * out.n + c * out.c + (p * shape.w.out + q) * out.hw;
        if (!is_valid_winner(shape, winners[at], p, q)) bad = at;
      }
  });
  if (bad >= 0) {
    const int64_t in_sample = bad % out.n, pq = problem.channels_last ? in_sample / out.hw : in_sample % out.c;
    fail_winner(op, shape, winners[bad], pq / shape.w.out, pq % shape.w.out);
  }
}

void check_winners(const char* op, const Tensor& winners, const PoolShape& shape) {
  check_winners_shape(op, sizes(winners), shape);
  if (winners.scalar_type() != winners_dtype(shape))
    fail("%s: winners must be %s for windows of %lld positions", op,
         window_taps(shape) <= kMaxByteTaps ? "uint8" : "int32", static_cast<long long>(window_taps(shape)));
}

Tensor max_gradient(const char* op, const Tensor& grad_output, const Tensor& winners, const PoolShape& shape) {
  check_floating(op, "grad_output", grad_output);
  check_winners(op, winners, shape);
  check_device(op, "winners", winners, "grad_output", grad_output);
  const Problem problem{shape, is_channels_last(grad_output)};
  const Tensor source = dense(grad_output, problem.channels_last), won = dense(winners, problem.channels_last);
  Tensor grad_input = empty_nchw(grad_output, shape.n, shape.c, shape.h.in, shape.w.in, problem.channels_last);
  with_winner_type(shape, [&](auto winner_tag) {
    using winner_t = decltype(winner_tag);
    const winner_t* winners_data = static_cast<const winner_t*>(won.const_data_ptr());
    check_winner_values(op, winners_data, problem);
    TMC_DISPATCH_FLOATING(grad_output, "pool2d", [&] {
      const scalar_t* dy = source.const_data_ptr<scalar_t>();
      scalar_t* dx = grad_input.mutable_data_ptr<scalar_t>();
      const Strides in = problem.in();
      const Strides out = problem.out();
      for_planes(problem, [&](int64_t n, int64_t c) {
        for (int64_t h = 0; h < shape.h.in; ++h)
          for (int64_t w = 0; w < shape.w.in; ++w) {
            const Covering rows = covering(shape.h, h);
            const Covering columns = covering(shape.w, w);
            accumulate_t<scalar_t> sum = 0;
            for (int64_t p = rows.first; p <= rows.last; ++p)
              for (int64_t q = columns.first; q <= columns.last; ++q) {
                const int64_t r = tap_at(shape.h, p, h);
                const int64_t s = tap_at(shape.w, q, w);
                const int64_t at = n * out.n + c * out.c + (p * shape.w.out + q) * out.hw;
                if (r >= 0 && s >= 0 && winners_data[at] == winner_of(shape, r, s)) sum += dy[at];
              }
            dx[n * in.n + c * in.c + (h * shape.w.in + w) * in.hw] = sum;
          }
      });
    });
  });
  return grad_input;
}

Tensor select(const char* op, const Tensor& input, const Tensor& winners, const PoolShape& shape) {
  check_floating(op, "input", input);
  check_winners(op, winners, shape);
  check_device(op, "winners", winners, "input", input);
  const Problem problem{shape, is_channels_last(input)};
  const Tensor source = dense(input, problem.channels_last), won = dense(winners, problem.channels_last);
  Tensor output = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, problem.channels_last);
  with_winner_type(shape, [&](auto winner_tag) {
    using winner_t = decltype(winner_tag);
    const winner_t* winners_data = static_cast<const winner_t*>(won.const_data_ptr());
    check_winner_values(op, winners_data, problem);
    TMC_DISPATCH_FLOATING(input, "pool2d", [&] {
      const scalar_t* x = source.const_data_ptr<scalar_t>();
      scalar_t* y = output.mutable_data_ptr<scalar_t>();
      const Strides in = problem.in();
      const Strides out = problem.out();
      for_planes(problem, [&](int64_t n, int64_t c) {
        for (int64_t p = 0; p < shape.h.out; ++p)
          for (int64_t q = 0; q < shape.w.out; ++q) {
            const int64_t at = n * out.n + c * out.c + (p * shape.w.out + q) * out.hw;
            y[at] = x[n * in.n + c * in.c + winner_position(shape, winners_data[at], p, q) * in.hw];
          }
      });
    });
  });
  return output;
}

Tensor indices(const char* op, const Tensor& winners, const PoolShape& shape) {
  check_winners(op, winners, shape);
  const Problem problem{shape, is_channels_last(winners)};
  const Tensor won = dense(winners, problem.channels_last);
  Tensor output =
      empty_nchw(winners, shape.n, shape.c, shape.h.out, shape.w.out, problem.channels_last, ScalarType::Long);
  with_winner_type(shape, [&](auto winner_tag) {
    using winner_t = decltype(winner_tag);
    const winner_t* winners_data = static_cast<const winner_t*>(won.const_data_ptr());
    check_winner_values(op, winners_data, problem);
    int64_t* y = output.mutable_data_ptr<int64_t>();
    const Strides out = problem.out();
    for_planes(problem, [&](int64_t n, int64_t c) {
      for (int64_t p = 0; p < shape.h.out; ++p)
        for (int64_t q = 0; q < shape.w.out; ++q) {
          const int64_t at = n * out.n + c * out.c + (p * shape.w.out + q) * out.hw;
          y[at] = winner_position(shape, winners_data[at], p, q);
        }
    });
  });
  return output;
}

Tensor average_forward(const char* op, const Tensor& input, const PoolShape& shape, const AverageRule& rule) {
  check_floating(op, "input", input);
  const Problem problem{shape, is_channels_last(input)};
  const Tensor source = dense(input, problem.channels_last);
  Tensor output = empty_nchw(input, shape.n, shape.c, shape.h.out, shape.w.out, problem.channels_last);
  TMC_DISPATCH_FLOATING(input, "pool2d", [&] {
    const scalar_t* x = source.const_data_ptr<scalar_t>();
    scalar_t* y = output.mutable_data_ptr<scalar_t>();
    const Strides in = problem.in();
      const Strides out = problem.out();
    for_planes(problem, [&](int64_t n, int64_t c) {
      for (int64_t p = 0; p < shape.h.out; ++p)
        for (int64_t q = 0; q < shape.w.out; ++q) {
          const Window rows = window(shape.h, p);
            const Window columns = window(shape.w, q);
          accumulate_t<scalar_t> sum = 0;
          for (int64_t r = rows.begin; r < rows.end; ++r)
            for (int64_t s = columns.begin; s < columns.end; ++s)
              sum += x[n * in.n + c * in.c + ((rows.start + r) * shape.w.in + columns.start + s) * in.hw];
          y[n * out.n + c * out.c + (p * shape.w.out + q) * out.hw] = sum / average_divisor(shape, rule, p, q);
        }
    });
  });
  return output;
}

Tensor average_gradient(const char* op, const Tensor& grad_output, const PoolShape& shape, const AverageRule& rule) {
  check_floating(op, "grad_output", grad_output);
  const Problem problem{shape, is_channels_last(grad_output)};
  const Tensor source = dense(grad_output, problem.channels_last);
  Tensor grad_input = empty_nchw(grad_output, shape.n, shape.c, shape.h.in, shape.w.in, problem.channels_last);
  TMC_DISPATCH_FLOATING(grad_output, "pool2d", [&] {
    const scalar_t* dy = source.const_data_ptr<scalar_t>();
    scalar_t* dx = grad_input.mutable_data_ptr<scalar_t>();
    const Strides in = problem.in();
      const Strides out = problem.out();
    for_planes(problem, [&](int64_t n, int64_t c) {
      for (int64_t h = 0; h < shape.h.in; ++h)
        for (int64_t w = 0; w < shape.w.in; ++w) {
          const Covering rows = covering(shape.h, h);
            const Covering columns = covering(shape.w, w);
          accumulate_t<scalar_t> sum = 0;
          for (int64_t p = rows.first; p <= rows.last; ++p)
            for (int64_t q = columns.first; q <= columns.last; ++q) {
              const accumulate_t<scalar_t> gradient = dy[n * out.n + c * out.c + (p * shape.w.out + q) * out.hw];
              sum += gradient / average_divisor(shape, rule, p, q);
            }
          dx[n * in.n + c * in.c + (h * shape.w.in + w) * in.hw] = sum;
        }
    });
  });
  return grad_input;
}

// ---- The operators.
constexpr int64_t kNoDilation[] = {1, 1};

std::tuple<Tensor, Tensor> max_pool2d_cpu(Tensor input, IntList kernel_size, IntList stride, IntList padding,
                                          IntList dilation, bool ceil_mode) {
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
  return max_forward("max_pool2d", input, pool2d_shape("max_pool2d", sizes(input), arguments));
}

Tensor max_pool2d_grad_input_cpu(Tensor grad_output, Tensor winners, IntList input_size, IntList kernel_size,
                                 IntList stride, IntList padding, IntList dilation, bool ceil_mode) {
  const char* op = "max_pool2d_grad_input";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
  const PoolShape shape = pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size), arguments);
  return max_gradient(op, grad_output, winners, shape);
}

Tensor max_pool2d_select_cpu(Tensor input, Tensor winners, IntList kernel_size, IntList stride, IntList padding,
                             IntList dilation, bool ceil_mode) {
  const char* op = "max_pool2d_select";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
  return select(op, input, winners, pool2d_shape(op, sizes(input), arguments));
}

Tensor max_pool2d_indices_cpu(Tensor winners, IntList input_size, IntList kernel_size, IntList stride, IntList padding,
                              IntList dilation, bool ceil_mode) {
  const char* op = "max_pool2d_indices";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), dims(dilation), ceil_mode};
  return indices(op, winners, pool2d_gradient_shape(op, "winners", sizes(winners), dims(input_size), arguments));
}

Tensor avg_pool2d_cpu(Tensor input, IntList kernel_size, IntList stride, IntList padding, bool ceil_mode,
                      bool count_include_pad, std::optional<int64_t> divisor_override) {
  const char* op = "avg_pool2d";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), {kNoDilation, 2}, ceil_mode};
  const PoolShape shape = pool2d_shape(op, sizes(input), arguments);
  return average_forward(op, input, shape,
                         check_average_rule(op, count_include_pad, divisor_override ? &*divisor_override : nullptr));
}

Tensor avg_pool2d_grad_input_cpu(Tensor grad_output, IntList input_size, IntList kernel_size, IntList stride,
                                 IntList padding, bool ceil_mode, bool count_include_pad,
                                 std::optional<int64_t> divisor_override) {
  const char* op = "avg_pool2d_grad_input";
  const PoolArguments arguments{dims(kernel_size), dims(stride), dims(padding), {kNoDilation, 2}, ceil_mode};
  const PoolShape shape = pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size), arguments);
  return average_gradient(op, grad_output, shape,
                          check_average_rule(op, count_include_pad, divisor_override ? &*divisor_override : nullptr));
}

std::tuple<Tensor, Tensor> adaptive_max_pool2d_cpu(Tensor input, IntList output_size) {
  const char* op = "adaptive_max_pool2d";
  return max_forward(op, input, adaptive_pool2d_shape(op, sizes(input), dims(output_size)));
}

Tensor adaptive_max_pool2d_grad_input_cpu(Tensor grad_output, Tensor winners, IntList input_size) {
  const char* op = "adaptive_max_pool2d_grad_input";
  return max_gradient(op, grad_output, winners,
                      adaptive_pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size)));
}

Tensor adaptive_max_pool2d_select_cpu(Tensor input, Tensor winners) {
  const char* op = "adaptive_max_pool2d_select";
  check_rank4(op, "winners", sizes(winners));
  const int64_t output_size[] = {winners.size(2), winners.size(3)};
  return select(op, input, winners, adaptive_pool2d_shape(op, sizes(input), {output_size, 2}));
}

Tensor adaptive_max_pool2d_indices_cpu(Tensor winners, IntList input_size) {
  const char* op = "adaptive_max_pool2d_indices";
  return indices(op, winners, adaptive_pool2d_gradient_shape(op, "winners", sizes(winners), dims(input_size)));
}

Tensor adaptive_avg_pool2d_cpu(Tensor input, IntList output_size) {
  const char* op = "adaptive_avg_pool2d";
  return average_forward(op, input, adaptive_pool2d_shape(op, sizes(input), dims(output_size)), {false, 0});
}

Tensor adaptive_avg_pool2d_grad_input_cpu(Tensor grad_output, IntList input_size) {
  const char* op = "adaptive_avg_pool2d_grad_input";
  return average_gradient(op, grad_output,
                          adaptive_pool2d_gradient_shape(op, "grad_output", sizes(grad_output), dims(input_size)),
                          {false, 0});
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  m.impl("max_pool2d", TORCH_BOX(&tmc::max_pool2d_cpu));
  m.impl("max_pool2d_grad_input", TORCH_BOX(&tmc::max_pool2d_grad_input_cpu));
  m.impl("max_pool2d_select", TORCH_BOX(&tmc::max_pool2d_select_cpu));
  m.impl("max_pool2d_indices", TORCH_BOX(&tmc::max_pool2d_indices_cpu));
  m.impl("avg_pool2d", TORCH_BOX(&tmc::avg_pool2d_cpu));
  m.impl("avg_pool2d_grad_input", TORCH_BOX(&tmc::avg_pool2d_grad_input_cpu));
  m.impl("adaptive_max_pool2d", TORCH_BOX(&tmc::adaptive_max_pool2d_cpu));
  m.impl("adaptive_max_pool2d_grad_input", TORCH_BOX(&tmc::adaptive_max_pool2d_grad_input_cpu));
  m.impl("adaptive_max_pool2d_select", TORCH_BOX(&tmc::adaptive_max_pool2d_select_cpu));
  m.impl("adaptive_max_pool2d_indices", TORCH_BOX(&tmc::adaptive_max_pool2d_indices_cpu));
  m.impl("adaptive_avg_pool2d", TORCH_BOX(&tmc::adaptive_avg_pool2d_cpu));
  m.impl("adaptive_avg_pool2d_grad_input", TORCH_BOX(&tmc::adaptive_avg_pool2d_grad_input_cpu));
}
