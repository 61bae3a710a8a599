"""The operators of adaptive pooling: the maps of pool2d_op.py over windows that tile the input (eq. 6-10).

Output i of an axis sees the input from floor(i * in / out) up to ceil((i + 1) * in / out).
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
from .pool2d_op import check_fake_winners, winners_dtype


class AdaptiveMaxPool2dFunction(torch.autograd.Function):
    """(output, winners). Saves: winners."""

    @staticmethod
    def forward(input, output_size):
        return torch.ops.tmc.adaptive_max_pool2d(input, output_size)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.input_size = inputs[0].shape[2:]
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # no zeros for the winners

    @staticmethod
    def backward(ctx, grad_output, _):
        if grad_output is None:
            return None, None
        (winners,) = ctx.saved_tensors
        return adaptive_max_pool2d_grad_input(grad_output, winners, ctx.input_size), None

    @staticmethod
    def jvp(ctx, input_tangent, _):
        (winners,) = ctx.saved_tensors
        return adaptive_max_pool2d_select(input_tangent, winners), None

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(adaptive_max_pool2d_op, info, in_dims, *args)


class AdaptiveMaxPool2dGradInputFunction(torch.autograd.Function):
    """Each grad_output goes to its window's winner (eq. 8)."""

    @staticmethod
    def forward(grad_output, winners, input_size):
        return torch.ops.tmc.adaptive_max_pool2d_grad_input(grad_output, winners, input_size)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, winners, ctx.input_size = inputs
        ctx.save_for_backward(winners)
        ctx.save_for_forward(winners)

    @staticmethod
    def backward(ctx, grad):
        (winners,) = ctx.saved_tensors
        return adaptive_max_pool2d_select(grad, winners), None, None

    @staticmethod
    def jvp(ctx, grad_output_tangent, *_):
        (winners,) = ctx.saved_tensors
        return adaptive_max_pool2d_grad_input(grad_output_tangent, winners, ctx.input_size)

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(adaptive_max_pool2d_grad_input, info, in_dims, *args)


class AdaptiveMaxPool2dSelectFunction(torch.autograd.Function):
    """Each output takes the input at its window's winner (eq. 10)."""

    @staticmethod
    def forward(input, winners):
        return torch.ops.tmc.adaptive_max_pool2d_select(input, winners)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, winners = inputs
        ctx.input_size = input.shape[2:]
        ctx.save_for_backward(winners)
        ctx.save_for_forward(winners)

    @staticmethod
    def backward(ctx, grad_output):
        (winners,) = ctx.saved_tensors
        return adaptive_max_pool2d_grad_input(grad_output, winners, ctx.input_size), None

    @staticmethod
    def jvp(ctx, input_tangent, _):
        (winners,) = ctx.saved_tensors
        return adaptive_max_pool2d_select(input_tangent, winners)

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(adaptive_max_pool2d_select, info, in_dims, *args)


class AdaptiveAvgPool2dFunction(torch.autograd.Function):
    """Window means (eq. 7). Saves: nothing but sizes."""

    @staticmethod
    def forward(input, output_size):
        return torch.ops.tmc.adaptive_avg_pool2d(input, output_size)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, ctx.output_size = inputs
        ctx.input_size, ctx.channels_last = input.shape[2:], lies_channels_last(input)

    @staticmethod
    def backward(ctx, grad_output):
        return adaptive_avg_pool2d_grad_input(grad_output, ctx.input_size, ctx.channels_last), None

    @staticmethod
    def jvp(ctx, input_tangent, _):
        return adaptive_avg_pool2d_op(input_tangent, ctx.output_size)

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(adaptive_avg_pool2d_op, info, in_dims, *args)


class AdaptiveAvgPool2dGradInputFunction(torch.autograd.Function):
    """Each grad_output, over its window's size, goes to every position of its window (eq. 9)."""

    @staticmethod
    def forward(grad_output, input_size, channels_last=None):
        return torch.ops.tmc.adaptive_avg_pool2d_grad_input(grad_output, input_size, channels_last)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad_output, ctx.input_size, ctx.channels_last = inputs
        ctx.output_size = grad_output.shape[2:]

    @staticmethod
    def backward(ctx, grad):
        return adaptive_avg_pool2d_op(grad, ctx.output_size), None, None

    @staticmethod
    def jvp(ctx, grad_output_tangent, *_):
        return adaptive_avg_pool2d_grad_input(grad_output_tangent, ctx.input_size, ctx.channels_last)

    @staticmethod
    def vmap(info, in_dims, *args):
        return samplewise_vmap(adaptive_avg_pool2d_grad_input, info, in_dims, *args)


# ---- Shapes for tracing.


def _largest_window(size, out):
    """csrc/pool2d.cpp: adaptive_axis."""
    if out == 0:
        return 1
    return min(size, -(-size // out) + (1 if size % out != 0 and out % (size % out) != 0 else 0))


def _check_adaptive(op, input, output_size, any_channels=False):
    check_fake_pooled(op, input, any_channels)
    check_fake_pair(op, "output_size", output_size, 0)


def _check_winners(op, winners, input_size):
    check_fake_pair(op, "input_size", input_size, 1)
    taps = [_largest_window(size, out) for size, out in zip(input_size, winners.shape[2:], strict=True)]
    check_fake_winners(op, winners, taps[0] * taps[1])


def _adaptive_max_pool2d_fake(input, output_size):
    _check_adaptive("adaptive_max_pool2d", input, output_size)
    shape, channels_last = (*input.shape[:2], *output_size), is_channels_last(input)
    taps = _largest_window(input.size(2), output_size[0]) * _largest_window(input.size(3), output_size[1])
    return empty_nchw(input, shape, channels_last), empty_nchw(input, shape, channels_last, winners_dtype(taps))


def _adaptive_max_pool2d_grad_input_fake(grad_output, winners, input_size):
    op = "adaptive_max_pool2d_grad_input"
    check_fake(op, ("grad_output", grad_output, 4), ("winners", winners, 4))
    check_fake_floating(op, "grad_output", grad_output)
    check_fake_output(op, "winners", winners, grad_output.shape)
    _check_winners(op, winners, input_size)
    return empty_nchw(grad_output, (*grad_output.shape[:2], *input_size), is_channels_last(winners))


def _adaptive_max_pool2d_select_fake(input, winners):
    op = "adaptive_max_pool2d_select"
    check_fake(op, ("input", input, 4), ("winners", winners, 4))
    check_fake_floating(op, "input", input)
    check_fake_output(op, "winners", winners, (*input.shape[:2], *winners.shape[2:]))
    _check_winners(op, winners, input.shape[2:])
    return empty_nchw(input, winners.shape, is_channels_last(input))


def _adaptive_max_pool2d_indices_fake(winners, input_size):
    check_fake("adaptive_max_pool2d_indices", ("winners", winners, 4))
    _check_winners("adaptive_max_pool2d_indices", winners, input_size)
    return empty_nchw(winners, winners.shape, is_channels_last(winners), torch.int64)


def _adaptive_avg_pool2d_fake(input, output_size):
    _check_adaptive("adaptive_avg_pool2d", input, output_size, any_channels=True)
    return empty_nchw(input, (*input.shape[:2], *output_size), is_channels_last(input))


def _adaptive_avg_pool2d_grad_input_fake(grad_output, input_size, channels_last=None):
    check_fake("adaptive_avg_pool2d_grad_input", ("grad_output", grad_output, 4))
    check_fake_floating("adaptive_avg_pool2d_grad_input", "grad_output", grad_output)
    check_fake_pair("adaptive_avg_pool2d_grad_input", "input_size", input_size, 1)
    channels_last = is_channels_last(grad_output) if channels_last is None else channels_last
    return empty_nchw(grad_output, (*grad_output.shape[:2], *input_size), channels_last)


adaptive_max_pool2d_op = two_doors(
    "adaptive_max_pool2d", AdaptiveMaxPool2dFunction, _adaptive_max_pool2d_fake, samplewise_vmap
)
adaptive_max_pool2d_grad_input = two_doors(
    "adaptive_max_pool2d_grad_input",
    AdaptiveMaxPool2dGradInputFunction,
    _adaptive_max_pool2d_grad_input_fake,
    samplewise_vmap,
)
adaptive_max_pool2d_select = two_doors(
    "adaptive_max_pool2d_select", AdaptiveMaxPool2dSelectFunction, _adaptive_max_pool2d_select_fake, samplewise_vmap
)
adaptive_avg_pool2d_op = two_doors(
    "adaptive_avg_pool2d", AdaptiveAvgPool2dFunction, _adaptive_avg_pool2d_fake, samplewise_vmap
)
adaptive_avg_pool2d_grad_input = two_doors(
    "adaptive_avg_pool2d_grad_input",
    AdaptiveAvgPool2dGradInputFunction,
    _adaptive_avg_pool2d_grad_input_fake,
    samplewise_vmap,
)
# Integers to integers: nothing to differentiate.
adaptive_max_pool2d_indices = torch.ops.tmc.adaptive_max_pool2d_indices
torch.library.register_fake("tmc::adaptive_max_pool2d_indices", _adaptive_max_pool2d_indices_fake)
torch.library.register_vmap("tmc::adaptive_max_pool2d_indices", partial(samplewise_vmap, adaptive_max_pool2d_indices))
