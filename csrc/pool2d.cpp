#include "pool2d.h"

#include <cinttypes>

namespace tmc {
namespace {

// The batch may be empty; rows and columns must be there, and channels where torch asks for them.
void check_input(const char* op, Dims input, bool any_channels) {
  check_rank4(op, "input", input);
  if (input[2] < 1 || input[3] < 1 || (input[1] < 1 && !any_channels))
    fail("%s: input must have at least one %srow and column, got shape %s", op, any_channels ? "" : "channel, ",
         text(input).chars);
}

// Extent of the output along one axis (torch's pooling_output_shape).
int64_t output_extent(const char* op, const char* name, const PoolAxis& axis, bool ceil_mode) {
  const int64_t reach =
      checked_add(op, "dilated kernel_size", checked_mul(op, "dilated kernel_size", axis.dilation, axis.kernel - 1), 1);
  const int64_t padded = checked_add(op, "padded input size", axis.in, checked_mul(op, "padding", axis.pad, 2));
  const int64_t rounding = ceil_mode ? axis.stride - 1 : 0;
  int64_t out = floor_div(checked_add(op, "padded input size", padded - reach, rounding), axis.stride) + 1;
  // With ceil_mode the last window must still start inside the input or its leading padding.
  if (ceil_mode && checked_mul(op, "stride", out - 1, axis.stride) >= axis.in + axis.pad) --out;
  if (out < 1)
    fail("%s: kernel_size must not exceed the padded input along %s: dilation * (kernel_size - 1) + 1 = %" PRId64
         ", padded input size is %" PRId64,
         op, name, reach, padded);
  checked_add(op, "window position", checked_mul(op, "window position", out, axis.stride), reach);
  return out;
}

PoolAxis sliding_axis(const char* op, const char* name, int64_t in, int64_t kernel, int64_t stride, int64_t pad,
                      int64_t dilation, bool ceil_mode) {
  if (pad > kernel / 2)
    fail("%s: padding must be at most half of kernel_size, got padding %" PRId64 " and kernel_size %" PRId64
         " along %s",
         op, pad, kernel, name);
  PoolAxis axis{in, 0, kernel, stride, pad, dilation};
  axis.out = output_extent(op, name, axis, ceil_mode);
  return axis;
}

PoolAxis adaptive_axis(const char* op, int64_t in, int64_t out) {
  checked_mul(op, "input size * output_size", in + 1, checked_add(op, "output_size", out, 1));
  // A window begins at a multiple of gcd(in % out, out) / out beyond a position: unless this is in % out / out, some
  // window straddles one position more.
  const int64_t rest = out == 0 ? 0 : in % out;
  const int64_t widest = out == 0 ? 1 : ceil_div(in, out) + (rest != 0 && out % rest != 0);
  return {in, out, widest < in ? widest : in, 0, 0, 1};
}

void check_sizes(const char* op, const PoolShape& shape) {
  const int64_t output[] = {shape.n, shape.c, shape.h.out, shape.w.out};
  const int64_t input[] = {shape.n, shape.c, shape.h.in, shape.w.in};
  check_numel(op, "output", {output, 4});
  check_numel(op, "input", {input, 4});
  const int64_t taps = checked_mul(op, "window", shape.h.kernel, shape.w.kernel);
  if (taps > INT32_MAX) fail("%s: kernel_size must cover at most 2^31 - 1 positions, got %" PRId64, op, taps);
}

// One way or the other: the shape for an input whose last two sizes are `size`.
PoolShape sliding(const char* op, int64_t n, int64_t c, Pair size, const PoolArguments& arguments) {
  const Pair kernel = check_pair(op, "kernel_size", arguments.kernel_size, 1);
  const Pair stride = check_pair(op, "stride", arguments.stride, 1);
  const Pair pad = check_pair(op, "padding", arguments.padding, 0);
  const Pair dilation = check_pair(op, "dilation", arguments.dilation, 1);
  PoolShape shape{n, c, {}, {}};
  shape.h = sliding_axis(op, "height", size.h, kernel.h, stride.h, pad.h, dilation.h, arguments.ceil_mode);
  shape.w = sliding_axis(op, "width", size.w, kernel.w, stride.w, pad.w, dilation.w, arguments.ceil_mode);
  check_sizes(op, shape);
  return shape;
}

void check_output(const char* op, const char* name, Dims output, const PoolShape& shape) {
  const int64_t wanted[] = {shape.n, shape.c, shape.h.out, shape.w.out};
  for (int64_t i = 0; i < 4; ++i)
    if (output[i] != wanted[i])
      fail("%s: %s must have the output's shape %s, got %s", op, name, text({wanted, 4}).chars, text(output).chars);
}

}  // namespace

PoolShape pool2d_shape(const char* op, Dims input, const PoolArguments& arguments) {
  check_input(op, input, false);
  return sliding(op, input[0], input[1], {input[2], input[3]}, arguments);
}

PoolShape adaptive_pool2d_shape(const char* op, Dims input, Dims output_size, bool any_channels) {
  check_input(op, input, any_channels);
  const Pair out = check_pair(op, "output_size", output_size, 0);
  PoolShape shape{input[0], input[1], adaptive_axis(op, input[2], out.h), adaptive_axis(op, input[3], out.w)};
  check_sizes(op, shape);
  return shape;
}

PoolShape pool2d_gradient_shape(const char* op, const char* name, Dims output, Dims input_size,
                                const PoolArguments& arguments) {
  check_rank4(op, name, output);
  const Pair size = check_pair(op, "input_size", input_size, 1);
  const PoolShape shape = sliding(op, output[0], output[1], size, arguments);
  check_output(op, name, output, shape);
  return shape;
}

PoolShape adaptive_pool2d_gradient_shape(const char* op, const char* name, Dims output, Dims input_size) {
  check_rank4(op, name, output);
  const Pair size = check_pair(op, "input_size", input_size, 1);
  PoolShape shape{output[0], output[1], adaptive_axis(op, size.h, output[2]), adaptive_axis(op, size.w, output[3])};
  check_sizes(op, shape);
  return shape;
}

void check_winners_shape(const char* op, Dims winners, const PoolShape& shape) {
  check_rank4(op, "winners", winners);
  check_output(op, "winners", winners, shape);
}

void fail_winner(const char* op, const PoolShape& shape, int64_t winner, int64_t p, int64_t q) {
  fail("%s: winners must name a position of their window inside the input, got %" PRId64 " at output (%" PRId64
       ", %" PRId64 ") of windows of %" PRId64 " x %" PRId64,
       op, winner, p, q, shape.h.kernel, shape.w.kernel);
}

AverageRule check_average_rule(const char* op, bool count_include_pad, const int64_t* divisor_override) {
  if (divisor_override == nullptr) return {count_include_pad, 0};
  if (*divisor_override == 0) fail("%s: divisor_override must not be 0", op);
  return {count_include_pad, *divisor_override};
}

}  // namespace tmc
