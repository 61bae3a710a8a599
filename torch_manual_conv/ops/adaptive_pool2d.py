"""The public adaptive max and average pooling; their operators are in adaptive_pool2d_op.py."""

import torch

from ._register import batched, check_tensor, integers, torch_computes
from .adaptive_pool2d_op import adaptive_avg_pool2d_op, adaptive_max_pool2d_indices, adaptive_max_pool2d_op


def _output_size(op, output_size, input):
    """(P, Q) from an int or a pair, of any kind that has a length, in which None keeps the input's extent."""
    if isinstance(output_size, (int, torch.SymInt)):
        return integers(op, "output_size", output_size, 2)
    try:
        sizes = list(output_size) if len(output_size) > 0 else []
    except TypeError:
        raise TypeError(f"{op}: output_size must be an int or (height, width), got {output_size!r}") from None
    if len(sizes) != 2:
        raise RuntimeError(f"{op}: output_size must be an int or (height, width), got {output_size!r}")
    kept = [extent if size is None else size for size, extent in zip(sizes, input.shape[-2:], strict=True)]
    return integers(op, "output_size", kept, 2)


def adaptive_max_pool2d(input, output_size, return_indices=False):
    """The largest value of each window, the windows chosen so that the output has the wanted size.

    Args:
        input: [N, C, H, W] or [C, H, W].
        output_size: int or (height, width); None keeps the input's extent.
        return_indices: also return where each maximum was found.
    Returns:
        [N, C, *output_size]; with return_indices a pair of it and the int64 positions h * W + w.
    Raises:
        RuntimeError, TypeError: naming the argument, its value and the rule it breaks.

    Equivalent to: torch.nn.functional.adaptive_max_pool2d(input, output_size, return_indices).
    Saves for backward: the winner of each window as one byte (int32 for windows of more than 256 positions).
    """
    op = "adaptive_max_pool2d"
    check_tensor(op, "input", input)
    no_channels = input.dim() == 3 and input.size(0) == 0  # torch takes none without a batch, and refuses it in one
    if no_channels or torch_computes(input):
        return torch.nn.functional.adaptive_max_pool2d(input, output_size, return_indices)

    def pool(input):
        output, winners = adaptive_max_pool2d_op(input, _output_size(op, output_size, input))
        if not return_indices:
            return output
        return output, adaptive_max_pool2d_indices(winners, input.shape[2:])

    return batched(op, input, pool)


def adaptive_avg_pool2d(input, output_size):
    """The mean of each window, the windows chosen so that the output has the wanted size.

    Args:
        input: [N, C, H, W] or [C, H, W].
        output_size: int or (height, width); None keeps the input's extent.
    Returns:
        [N, C, *output_size].
    Raises:
        RuntimeError, TypeError: naming the argument, its value and the rule it breaks.

    Equivalent to: torch.nn.functional.adaptive_avg_pool2d(input, output_size).
    Saves for backward: sizes only, no tensor.
    """
    op = "adaptive_avg_pool2d"
    if torch_computes(input):
        return torch.nn.functional.adaptive_avg_pool2d(input, output_size)
    return batched(op, input, lambda input: adaptive_avg_pool2d_op(input, _output_size(op, output_size, input)))
