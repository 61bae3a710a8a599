#include "conv2d.h"

#include <cinttypes>

namespace tmc {
namespace {

// Extent of the output along one axis: floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1.
int64_t output_extent(const char* op, const char* axis, int64_t size, int64_t pad_before, int64_t pad_after,
                      int64_t kernel, int64_t stride, int64_t dilation) {
  const int64_t padded = checked_add(op, "padded input size", checked_add(op, "padding", pad_before, pad_after), size);
  const int64_t reach =
      checked_add(op, "dilated kernel_size", checked_mul(op, "dilated kernel_size", dilation, kernel - 1), 1);
  if (reach > padded)
    fail("%s: kernel_size must not exceed the padded input along %s: dilation * (kernel_size - 1) + 1 = %" PRId64
         ", padded input size is %" PRId64,
         op, axis, reach, padded);
  return (padded - reach) / stride + 1;
}

// Everything that does not depend on which of the three maps is asked for.
Conv2dShape finish(const char* op, int64_t n, int64_t c, Pair input_size, int64_t k, Pair kernel_size,
                   const Conv2dArguments& arguments) {
  const Pair stride = check_pair(op, "stride", arguments.stride, 1);
  const Pair dilation = check_pair(op, "dilation", arguments.dilation, 1);
  const Dims pads = arguments.padding;
  for (int64_t i = 0; i < pads.count; ++i)
    if (pads[i] < 0) fail("%s: padding must be >= 0, got %s", op, text(pads).chars);
  const int64_t groups = arguments.groups;
  if (groups < 1) fail("%s: groups must be >= 1, got %" PRId64, op, groups);
  if (c % groups != 0)
    fail("%s: groups must divide the input channels, got %" PRId64 " channels and groups=%" PRId64, op, c, groups);
  if (k % groups != 0)
    fail("%s: groups must divide the output channels, got %" PRId64 " channels and groups=%" PRId64, op, k, groups);

  const int64_t input[] = {n, c, input_size.h, input_size.w};
  if (n != 0 && (input_size.h == 0 || input_size.w == 0))  // torch's rule
    fail("%s: only the batch of input may be empty, got shape %s", op, text({input, 4}).chars);

  Conv2dShape shape;
  shape.n = n, shape.c = c, shape.h = input_size.h, shape.w = input_size.w;
  shape.k = k, shape.r = kernel_size.h, shape.s = kernel_size.w;
  shape.stride_h = stride.h, shape.stride_w = stride.w;
  shape.dilation_h = dilation.h, shape.dilation_w = dilation.w;
  const bool four = pads.count == 4;
  shape.pad_top = pads[0], shape.pad_bottom = four ? pads[1] : pads[0];
  shape.pad_left = four ? pads[2] : pads[1], shape.pad_right = four ? pads[3] : pads[1];
  shape.groups = groups;
  shape.p =
      output_extent(op, "height", shape.h, shape.pad_top, shape.pad_bottom, shape.r, shape.stride_h, shape.dilation_h);
  shape.q =
      output_extent(op, "width", shape.w, shape.pad_left, shape.pad_right, shape.s, shape.stride_w, shape.dilation_w);
  const int64_t output[] = {n, k, shape.p, shape.q};
  const int64_t weight[] = {k, c / groups, shape.r, shape.s};
  check_numel(op, "output", {output, 4});
  check_numel(op, "input", {input, 4});
  check_numel(op, "weight", {weight, 4});
  return shape;
}

void check_weight(const char* op, Dims weight) {
  check_rank4(op, "weight", weight);
  for (int64_t i = 0; i < 4; ++i)
    if (weight[i] < 1) fail("%s: weight must not be empty, got shape %s", op, text(weight).chars);
}

// grad_output must be what conv2d returns for the other operands.
void check_grad_output(const char* op, Dims grad_output, const Conv2dShape& shape) {
  const int64_t wanted[] = {shape.n, shape.k, shape.p, shape.q};
  for (int64_t i = 0; i < 4; ++i)
    if (grad_output[i] != wanted[i])
      fail("%s: grad_output must have the output's shape %s, got %s", op, text({wanted, 4}).chars,
           text(grad_output).chars);
}

}  // namespace

Conv2dShape conv2d_shape(Dims input, Dims weight, const Dims* bias, const Conv2dArguments& arguments) {
  const char* op = "conv2d";
  check_rank4(op, "input", input);
  check_weight(op, weight);
  const Conv2dShape shape =
      finish(op, input[0], input[1], {input[2], input[3]}, weight[0], {weight[2], weight[3]}, arguments);
  if (input[1] / shape.groups != weight[1])
    fail("%s: input must have groups * weight.size(1) = %" PRId64 " * %" PRId64
         " channels, got input shape %s and weight shape %s",
         op, shape.groups, weight[1], text(input).chars, text(weight).chars);
  if (input[1] == 0) fail("%s: input must have at least one channel, got shape %s", op, text(input).chars);
  if (bias != nullptr && (bias->count != 1 || (*bias)[0] != weight[0]))
    fail("%s: bias must have shape [%" PRId64 "], one value for each output channel, got %s", op, weight[0],
         text(*bias).chars);
  return shape;
}

Conv2dShape conv2d_grad_input_shape(Dims grad_output, Dims weight, Dims input_size, const Conv2dArguments& arguments) {
  const char* op = "conv2d_grad_input";
  check_rank4(op, "grad_output", grad_output);
  check_weight(op, weight);
  const Pair size = check_pair(op, "input_size", input_size, 0);
  if (arguments.groups < 1) fail("%s: groups must be >= 1, got %" PRId64, op, arguments.groups);
  const int64_t channels = checked_mul(op, "groups * weight.size(1)", weight[1], arguments.groups);
  const Conv2dShape shape = finish(op, grad_output[0], channels, size, weight[0], {weight[2], weight[3]}, arguments);
  check_grad_output(op, grad_output, shape);
  return shape;
}

Conv2dShape conv2d_grad_weight_shape(Dims grad_output, Dims input, Dims kernel_size, const Conv2dArguments& arguments) {
  const char* op = "conv2d_grad_weight";
  check_rank4(op, "grad_output", grad_output);
  check_rank4(op, "input", input);
  const Pair kernel = check_pair(op, "kernel_size", kernel_size, 1);
  if (input[1] < 1) fail("%s: input must have at least one channel, got shape %s", op, text(input).chars);
  if (grad_output[1] < 1)
    fail("%s: grad_output must have at least one channel, got shape %s", op, text(grad_output).chars);
  const Conv2dShape shape = finish(op, input[0], input[1], {input[2], input[3]}, grad_output[1], kernel, arguments);
  check_grad_output(op, grad_output, shape);
  return shape;
}

}  // namespace tmc
