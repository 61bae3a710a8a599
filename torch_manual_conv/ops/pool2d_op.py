"""The operators of pooling over sliding windows (docs/derivations.md, eq. 6-10).

Every gradient here is a linear map, and each map's own gradient is its transpose:
    max:      max_pool2d_grad_input  <->  max_pool2d_select     (the winners are constants)
    average:  avg_pool2d             <->  avg_pool2d_grad_input
"""

from functools import partial

import torch

from ._register import (
    check_fake,
    check_fake_floating,
    check_fake_output,
    check_fake_pair,
    check_fake_pooled,
    empty_nchw,
    is_channels_last,
    lies_channels_last,
    samplewise_vmap,
    two_doors,
)


class MaxPool2dFunction(torch.autograd.Function):
    """(output, winners). Saves: winners, one byte per output for windows of up to 256 taps; never the input."""

    @staticmethod
    def forward(input, window, ceil_mode):
        return torch.ops.tmc.max_pool2d(input, window, ceil_mode)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, *ctx.window = inputs
        ctx.input_size = input.shape[2:]
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # zeros for the winners: a fifth of a small call and its backward

    @staticmethod
    def backward(ctx, grad_output, _):
        if grad_output is None:
            return (None,) * (1 + len(ctx.window))
        (winners,) = ctx.saved_tensors
        return max_pool2d_grad_input(grad_output, winners, ctx.input_size, *ctx.window), *[None] * len(ctx.window)

    @staticmethod
    def jvp(ctx, input_tangent, *_):
        (winners,) = ctx.saved_tensors
        return max_pool2d_select(input_tangent, winners, *ctx.window), None

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(max_pool2d_op, info, in_dims, *args)


class MaxPool2dGradInputFunction(torch.autograd.Function):
    """Each grad_output goes to its window's winner (eq. 8)."""

    @staticmethod
    def forward(grad_output, winners, input_size, window, ceil_mode):
        return torch.ops.tmc.max_pool2d_grad_input(grad_output, winners, input_size, window, ceil_mode)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, winners, ctx.input_size, *ctx.window = inputs
        ctx.save_for_backward(winners)
        ctx.save_for_forward(winners)

    @staticmethod
    def backward(ctx, grad):
        (winners,) = ctx.saved_tensors
        return max_pool2d_select(grad, winners, *ctx.window), None, None, *[None] * len(ctx.window)

    @staticmethod
    def jvp(ctx, grad_output_tangent, *_):
        (winners,) = ctx.saved_tensors
        return max_pool2d_grad_input(grad_output_tangent, winners, ctx.input_size, *ctx.window)

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(max_pool2d_grad_input, info, in_dims, *args)


class MaxPool2dSelectFunction(torch.autograd.Function):
    """Each output takes the input at its window's winner (eq. 10), the transpose of eq. 8."""

    @staticmethod
    def forward(input, winners, window, ceil_mode):
        return torch.ops.tmc.max_pool2d_select(input, winners, window, ceil_mode)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, winners, *ctx.window = inputs
        ctx.input_size = input.shape[2:]
        ctx.save_for_backward(winners)
        ctx.save_for_forward(winners)

    @staticmethod
    def backward(ctx, grad_output):
        (winners,) = ctx.saved_tensors
        return max_pool2d_grad_input(grad_output, winners, ctx.input_size, *ctx.window), None, *[None] * len(ctx.window)

    @staticmethod
    def jvp(ctx, input_tangent, *_):
        (winners,) = ctx.saved_tensors
        return max_pool2d_select(input_tangent, winners, *ctx.window)

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(max_pool2d_select, info, in_dims, *args)


class AvgPool2dFunction(torch.autograd.Function):
    """Window sums over their divisors (eq. 7). Saves: nothing but sizes."""

    @staticmethod
    def forward(input, window, ceil_mode, count_include_pad, divisor_override):
        return torch.ops.tmc.avg_pool2d(input, window, ceil_mode, count_include_pad, divisor_override)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, *ctx.window = inputs
        ctx.input_size, ctx.channels_last = input.shape[2:], lies_channels_last(input)

    @staticmethod
    def backward(ctx, grad_output):
        grad_input = avg_pool2d_grad_input(grad_output, ctx.input_size, *ctx.window, ctx.channels_last)
        return grad_input, *[None] * len(ctx.window)

    @staticmethod
    def jvp(ctx, input_tangent, *_):
        return avg_pool2d_op(input_tangent, *ctx.window)

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(avg_pool2d_op, info, in_dims, *args)


class AvgPool2dGradInputFunction(torch.autograd.Function):
    """Each grad_output, over its divisor, goes to every position of its window (eq. 9)."""

    @staticmethod
    def forward(grad_output, input_size, window, ceil_mode, count_include_pad, divisor_override, channels_last=None):
        return torch.ops.tmc.avg_pool2d_grad_input(
            grad_output, input_size, window, ceil_mode, count_include_pad, divisor_override, channels_last
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.input_size, *ctx.window, ctx.channels_last = inputs

    @staticmethod
    def backward(ctx, grad):
        return avg_pool2d_op(grad, *ctx.window), None, *[None] * (len(ctx.window) + 1)

    @staticmethod
    def jvp(ctx, grad_output_tangent, *_):
        return avg_pool2d_grad_input(grad_output_tangent, ctx.input_size, *ctx.window, ctx.channels_last)

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(avg_pool2d_grad_input, info, in_dims, *args)


# ---- Shapes for tracing.

MAX_BYTE_TAPS = 256  # csrc/pool2d.h: kMaxByteTaps


def winners_dtype(taps):
    return torch.uint8 if taps <= MAX_BYTE_TAPS else torch.int32


def pool2d_output_size(op, input_size, window, ceil_mode, length=8):
    """(P, Q), with torch's ceil_mode: the last window must start inside the input or its leading padding."""
    check_fake_pair(op, "input_size", input_size, 1)
    if len(window) != length:
        names = "kernel_size, stride, padding, dilation" if length == 8 else "kernel_size, stride, padding"
        raise RuntimeError(f"{op}: window must have {length} values ({names}), got {list(window)}")
    kernel_size, stride, padding, dilation = window[:2], window[2:4], window[4:6], window[6:] or (1, 1)
    for name, values, low in (("kernel_size", kernel_size, 1), ("stride", stride, 1), ("padding", padding, 0)):
        check_fake_pair(op, name, values, low)
    check_fake_pair(op, "dilation", dilation, 1)
    out = []
    for size, k, s, pad, d in zip(input_size, kernel_size, stride, padding, dilation, strict=True):
        if pad > k // 2:
            raise RuntimeError(
                f"{op}: padding must be at most half of kernel_size, "
                f"got padding={list(padding)}, kernel_size={list(kernel_size)}"
            )
        extent = (size + 2 * pad - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (extent - 1) * s >= size + pad:
            extent = extent - 1
        if extent < 1:
            raise RuntimeError(
                f"{op}: kernel_size must not exceed the padded input, got kernel_size={list(kernel_size)} "
                f"and input size {list(input_size)}"
            )
        out.append(extent)
    return out


def _max_pool2d_fake(input, window, ceil_mode):
    check_fake_pooled("max_pool2d", input)
    size = pool2d_output_size("max_pool2d", input.shape[2:], window, ceil_mode)
    shape = (*input.shape[:2], *size)
    channels_last = is_channels_last(input)
    dtype = winners_dtype(window[0] * window[1])
    return empty_nchw(input, shape, channels_last), empty_nchw(input, shape, channels_last, dtype)


def check_fake_winners(op, winners, taps):
    if winners.dtype != winners_dtype(taps):
        raise RuntimeError(
            f"{op}: winners must be {winners_dtype(taps)} for windows of {taps} positions, got {winners.dtype}"
        )


def _check_divisor(op, divisor_override):
    if divisor_override is not None and divisor_override == 0:
        raise RuntimeError(f"{op}: divisor_override must not be 0")


def _check_output(op, name, tensor, input_size, window, ceil_mode, length=8):
    size = pool2d_output_size(op, input_size, window, ceil_mode, length)
    check_fake_output(op, name, tensor, (*tensor.shape[:2], *size))


def _max_pool2d_grad_input_fake(grad_output, winners, input_size, window, ceil_mode):
    op = "max_pool2d_grad_input"
    check_fake(op, ("grad_output", grad_output, 4), ("winners", winners, 4))
    check_fake_floating(op, "grad_output", grad_output)
    _check_output(op, "grad_output", grad_output, input_size, window, ceil_mode)
    check_fake_output(op, "winners", winners, grad_output.shape)
    check_fake_winners(op, winners, window[0] * window[1])
    return empty_nchw(grad_output, (*grad_output.shape[:2], *input_size), is_channels_last(winners))


def _max_pool2d_select_fake(input, winners, window, ceil_mode):
    op = "max_pool2d_select"
    check_fake(op, ("input", input, 4), ("winners", winners, 4))
    check_fake_pooled(op, input)
    check_fake_output(op, "winners", winners, (*input.shape[:2], *winners.shape[2:]))
    _check_output(op, "winners", winners, input.shape[2:], window, ceil_mode)
    check_fake_winners(op, winners, window[0] * window[1])
    return empty_nchw(input, winners.shape, is_channels_last(input))


def _max_pool2d_indices_fake(winners, input_size, window, ceil_mode):
    check_fake("max_pool2d_indices", ("winners", winners, 4))
    _check_output("max_pool2d_indices", "winners", winners, input_size, window, ceil_mode)
    check_fake_winners("max_pool2d_indices", winners, window[0] * window[1])
    return empty_nchw(winners, winners.shape, is_channels_last(winners), torch.int64)


def _avg_pool2d_fake(input, window, ceil_mode, count_include_pad, divisor_override):
    op = "sum_pool2d = avg_pool2d(divisor_override=1)" if divisor_override == 1 else "avg_pool2d"
    check_fake_pooled(op, input)
    size = pool2d_output_size(op, input.shape[2:], window, ceil_mode, length=6)
    _check_divisor(op, divisor_override)
    return empty_nchw(input, (*input.shape[:2], *size), is_channels_last(input))


def _avg_pool2d_grad_input_fake(
    grad_output, input_size, window, ceil_mode, count_include_pad, divisor_override, channels_last=None
):
    op = "avg_pool2d_grad_input"
    check_fake(op, ("grad_output", grad_output, 4))
    check_fake_floating(op, "grad_output", grad_output)
    _check_output(op, "grad_output", grad_output, input_size, window, ceil_mode, length=6)
    _check_divisor(op, divisor_override)
    channels_last = is_channels_last(grad_output) if channels_last is None else channels_last
    return empty_nchw(grad_output, (*grad_output.shape[:2], *input_size), channels_last)


max_pool2d_op = two_doors("max_pool2d", MaxPool2dFunction, _max_pool2d_fake, samplewise_vmap)
max_pool2d_grad_input = two_doors(
    "max_pool2d_grad_input", MaxPool2dGradInputFunction, _max_pool2d_grad_input_fake, samplewise_vmap
)
max_pool2d_select = two_doors("max_pool2d_select", MaxPool2dSelectFunction, _max_pool2d_select_fake, samplewise_vmap)
avg_pool2d_op = two_doors("avg_pool2d", AvgPool2dFunction, _avg_pool2d_fake, samplewise_vmap)
avg_pool2d_grad_input = two_doors(
    "avg_pool2d_grad_input", AvgPool2dGradInputFunction, _avg_pool2d_grad_input_fake, samplewise_vmap
)
# Integers to integers: nothing to differentiate.
max_pool2d_indices = torch.ops.tmc.max_pool2d_indices
torch.library.register_fake("tmc::max_pool2d_indices", _max_pool2d_indices_fake)
torch.library.register_vmap("tmc::max_pool2d_indices", partial(samplewise_vmap, max_pool2d_indices))
