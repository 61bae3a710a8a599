"""The public max, average and sum pooling; their operators are in pool2d_op.py."""

import torch

from ._register import batched, boolean, integer, integers, torch_computes
from .pool2d_op import avg_pool2d_op, max_pool2d_indices, max_pool2d_op


def _window(op, kernel_size, stride, padding):
    kernel_size = integers(op, "kernel_size", kernel_size, 2)
    omitted = stride is None or (isinstance(stride, (tuple, list)) and len(stride) == 0)
    stride = kernel_size if omitted else integers(op, "stride", stride, 2)
    return [*kernel_size, *stride, *integers(op, "padding", padding, 2)]


def max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The largest value of each window, each channel alone.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size: the window; int or (height, width).
        stride: step between windows; None: kernel_size.
        padding: positions of -inf added on each side, at most half of kernel_size.
        dilation: distance between the positions of a window.
        ceil_mode: round the number of windows up instead of down.
        return_indices: also return where each maximum was found.
    Returns:
        [N, C, P, Q]; with return_indices a pair of it and the int64 positions h * W + w, of the same shape.
        A NaN in a window wins; among equal values the first does. A dilated window that steps over the whole input
        gives -inf and has no gradient.
    Raises:
        RuntimeError, TypeError: naming the argument, its value and the rule it breaks.

    Equivalent to: torch.nn.functional.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode,
        return_indices).
    Saves for backward: the winner of each window as one byte (int32 for windows of more than 256 positions).
    """
    op = "max_pool2d"
    if torch_computes(input):
        return torch.nn.functional.max_pool2d(
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=return_indices
        )
    window = _window(op, kernel_size, stride, padding) + integers(op, "dilation", dilation, 2)
    ceil_mode = boolean(op, "ceil_mode", ceil_mode)
    if return_indices:
        return batched(op, input, _max_pool2d_and_indices, window, ceil_mode)
    return batched(op, input, _max_pool2d, window, ceil_mode)


def _max_pool2d(input, *window):
    return max_pool2d_op(input, *window)[0]


def _max_pool2d_and_indices(input, *window):
    output, winners = max_pool2d_op(input, *window)
    return output, max_pool2d_indices(winners, input.shape[2:], *window)


def avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """The mean of each window, each channel alone.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size: the window; int or (height, width).
        stride: step between windows; None: kernel_size.
        padding: zeros added on each side, at most half of kernel_size.
        ceil_mode: round the number of windows up instead of down.
        count_include_pad: whether the padding counts in the divisor.
        divisor_override: divide by this instead.
    Returns:
        [N, C, P, Q].
    Raises:
        RuntimeError, TypeError: naming the argument, its value and the rule it breaks.

    Equivalent to: torch.nn.functional.avg_pool2d with the same arguments.
    Saves for backward: sizes only, no tensor.
    """
    op = "avg_pool2d"
    divisor = None if divisor_override is None else integer(op, "divisor_override", divisor_override)
    return _average(op, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor)


def _average(op, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor):
    if torch_computes(input):
        return torch.nn.functional.avg_pool2d(
            input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor
        )
    window = _window(op, kernel_size, stride, padding)
    flags = boolean(op, "ceil_mode", ceil_mode), boolean(op, "count_include_pad", count_include_pad)
    return batched(op, input, avg_pool2d_op, window, *flags, divisor)


def sum_pool2d(input, kernel_size, stride=None, padding=0, ceil_mode=False):
    """The sum of each window, each channel alone.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size, stride, padding, ceil_mode: as in avg_pool2d.
    Returns:
        [N, C, P, Q].
    Raises:
        RuntimeError, TypeError: naming the argument, its value and the rule it breaks.

    Equivalent to: torch.nn.functional.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, divisor_override=1).
    Saves for backward: sizes only, no tensor.
    """
    return _average("sum_pool2d", input, kernel_size, stride, padding, ceil_mode, True, 1)
