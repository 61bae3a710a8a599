"""The public convolutions: conv2d, and conv1d, conv3d and conv_transpose2d as views of its three maps (eq. 18-20)."""

import torch

from ._conv_checks import check_convolution, check_operands, check_transpose
from ._register import autocast, batched, check_rank, check_tensor, integer, integers, owned, torch_computes
from .conv2d_op import conv2d_grad_input, conv2d_op


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Two-dimensional convolution (cross-correlation) of an image batch with a bank of filters.

    Args:
        input: [N, C, H, W], or [C, H, W] without a batch.
        weight: [K, C / groups, R, S], same dtype and device.
        bias: [K] or None.
        stride: step between output positions; int or (height, width).
        padding: zeros added around the input: int, (height, width), 'valid' (none) or 'same' (the output has the
            input's size; stride must be 1).
        dilation: distance between the taps of a filter; int or (height, width).
        groups: number of blocks of channels that do not see each other.
    Returns:
        [N, K, P, Q] with P = floor((H + 2 * padding - dilation * (R - 1) - 1) / stride) + 1, Q likewise;
        channels_last if input or weight is.
    Raises:
        RuntimeError, TypeError: naming the argument, its value and the rule it breaks.

    Equivalent to: torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups).
    Saves for backward: input if weight needs a gradient, weight if input does.
    """
    if torch_convolves(input, weight, bias):
        return torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
    check_rank("conv2d", "weight", weight, 4)
    geometry = conv_geometry("conv2d", weight, stride, padding, dilation, groups)
    return _convolve("conv2d", input, weight, bias, geometry)


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """One-dimensional convolution: conv2d of images that are one row high.

    Args:
        input: [N, C, L] or [C, L]. weight: [K, C / groups, S]. bias: [K] or None.
        stride, padding, dilation: int or (int,); padding may be 'valid' or 'same'. groups: as in conv2d.
    Returns:
        [N, K, Q].
    Raises:
        RuntimeError, TypeError: naming the argument, its value and the rule it breaks.

    Equivalent to: torch.nn.functional.conv1d(input, weight, bias, stride, padding, dilation, groups).
    Saves for backward: as conv2d.
    """
    op = "conv1d"
    if torch_convolves(input, weight, bias):
        return torch.nn.functional.conv1d(input, weight, bias, stride, padding, dilation, groups)
    check_rank(op, "weight", weight, 3)
    stride, padding, dilation, groups = conv_geometry(op, weight, stride, padding, dilation, groups)
    check_convolution(op, input, weight, bias, stride, padding, dilation, groups)
    geometry = [1, *stride], [0] * len(padding) + padding, [1, *dilation], groups
    rows = _convolve(op, input.unsqueeze(-2), weight.unsqueeze(-2), bias, geometry)
    return owned(rows.squeeze(-2).contiguous())  # as torch: a permuted input does not make a permuted output


def conv3d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Three-dimensional convolution, as one conv2d whose channels are (channel, depth tap).

    Each output depth sees T input depths; they are laid side by side as channels, which takes T times the input's
    memory. Correct with every gradient; a kernel of its own may replace it.

    Args:
        input: [N, C, D, H, W] or [C, D, H, W]. weight: [K, C / groups, T, R, S]. bias: [K] or None.
        stride, padding, dilation: int or (depth, height, width); padding may be 'valid' or 'same'.
    Returns:
        [N, K, O, P, Q], contiguous.
    Raises:
        RuntimeError, TypeError: naming the argument, its value and the rule it breaks.

    Equivalent to: torch.nn.functional.conv3d(input, weight, bias, stride, padding, dilation, groups).
    Saves for backward: the laid-out input and the weight, as conv2d.
    """
    op = "conv3d"
    if torch_convolves(input, weight, bias):
        return torch.nn.functional.conv3d(input, weight, bias, stride, padding, dilation, groups)
    check_rank(op, "weight", weight, 5)
    stride, padding, dilation, groups = conv_geometry(op, weight, stride, padding, dilation, groups)
    check_convolution(op, input, weight, bias, stride, padding, dilation, groups)
    before, after = (padding[0], padding[1]) if len(padding) == 6 else (padding[0], padding[0])
    plane_padding = padding[2:] if len(padding) == 6 else padding[1:]
    taps = weight.size(2)

    def volume(input):
        padded = torch.nn.functional.pad(input, (0, 0, 0, 0, before, after))
        n, c, depth, h, w = padded.shape
        reach = dilation[0] * (taps - 1) + 1
        out = (depth - reach) // stride[0] + 1
        span = (out - 1) * stride[0] + 1
        # [N, C, T, O, H, W]: the T depths that each output depth sees.
        seen = torch.stack([padded.narrow(2, t * dilation[0], span)[:, :, :: stride[0]] for t in range(taps)], 2)
        planes = seen.permute(0, 3, 1, 2, 4, 5).reshape(n * out, c * taps, h, w)
        geometry = stride[1:], plane_padding, dilation[1:], groups
        result = _convolve(op, planes, weight.flatten(1, 2), bias, geometry)
        return owned(result.unflatten(0, (n, out)).transpose(1, 2).contiguous())

    return batched(op, input, volume, spatial=3)


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution: exactly conv2d's gradient with respect to its input.

    Args:
        input: [N, C, H, W] or [C, H, W]; what conv2d would call grad_output.
        weight: [C, K / groups, R, S]. bias: [K] or None.
        stride, padding, dilation: of the convolution that this transposes; int or (height, width).
        output_padding: rows and columns added at the end, smaller than stride or dilation.
        groups: number of blocks of channels that do not see each other.
    Returns:
        [N, K, P, Q] with P = (H - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1, Q likewise.
    Raises:
        RuntimeError, TypeError: naming the argument, its value and the rule it breaks.

    Equivalent to: torch.nn.functional.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups,
        dilation).
    Saves for backward: input if weight needs a gradient, weight if input does.
    """
    op = "conv_transpose2d"
    if torch_computes(input, weight, bias):
        return torch.nn.functional.conv_transpose2d(
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    check_rank(op, "weight", weight, 4)
    stride, padding = integers(op, "stride", stride, 2), integers(op, "padding", padding, 2)
    dilation, extra = integers(op, "dilation", dilation, 2), integers(op, "output_padding", output_padding, 2)
    groups = integer(op, "groups", groups)
    check_rank(op, "input", input, 3, 4)
    check_transpose(op, input, weight, bias, stride, padding, dilation, extra, groups)
    input, weight, bias = autocast(input, weight, bias)
    check_operands(op, input, weight, bias)

    def transpose(input):
        # Output padding first takes what the strided convolution rounds away (at most stride - 1 rows), then what the
        # trailing padding cut off, and last rows that no tap reaches: zeros.
        rounded = [min(e, s - 1) for e, s in zip(extra, stride, strict=True)]
        after = [max(p - (e - r), 0) for p, e, r in zip(padding, extra, rounded, strict=True)]
        zeros = [max(e - r - p, 0) for p, e, r in zip(padding, extra, rounded, strict=True)]
        size = [
            (i - 1) * s - p - a + d * (k - 1) + r + 1
            for i, s, p, a, d, k, r in zip(
                input.shape[2:], stride, padding, after, dilation, weight.shape[2:], rounded, strict=True
            )
        ]
        if any(extent + z < 1 for extent, z in zip(size, zeros, strict=True)):
            raise RuntimeError(
                f"{op}: padding must leave at least one output position, got {padding}: output size {size}"
            )
        if torch.jit.is_tracing():  # then sizes are tensors, of which the tracer can pass no list to an operator
            size = [int(extent) for extent in size]
        pads = [padding[0], after[0], padding[1], after[1]]
        output = conv2d_grad_input(
            input, weight, size, *packed(stride, pads, dilation, groups), float32_precision(input.is_cuda)
        )
        if any(zeros):
            output = torch.nn.functional.pad(output, (0, zeros[1], 0, zeros[0]))
        return output if bias is None else output + bias.view(-1, 1, 1)

    return batched(op, input, transpose)


def torch_convolves(input, weight, bias):
    """torch_computes, or there is nothing to compute: without input channels torch's result has no channels either."""
    if torch_computes(input, weight, bias):
        return True
    return isinstance(weight, torch.Tensor) and weight.dim() > 1 and weight.size(1) == 0


def conv_geometry(op, weight, stride, padding, dilation, groups):
    """(stride, padding, dilation, groups) as lists of one int for each spatial axis.

    padding 'same' that cannot be split evenly becomes a list of (before, after) pairs, torch's: the odd one after.
    """
    axes = weight.dim() - 2
    stride, dilation = integers(op, "stride", stride, axes), integers(op, "dilation", dilation, axes)
    groups = integer(op, "groups", groups)
    if not isinstance(padding, str):
        return stride, integers(op, "padding", padding, axes), dilation, groups
    if padding == "valid":
        return stride, [0] * axes, dilation, groups
    if padding != "same":
        raise RuntimeError(f"{op}: padding must be an int, ints, 'valid' or 'same', got {padding!r}")
    if any(s != 1 for s in stride):
        raise RuntimeError(f"{op}: padding='same' needs stride 1, got stride {stride}")
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if all(total % 2 == 0 for total in totals):
        return stride, [total // 2 for total in totals], dilation, groups
    return stride, [pad for total in totals for pad in (total // 2, total - total // 2)], dilation, groups


def _convolve(op, input, weight, bias, geometry):
    check_tensor(op, "input", input)
    if bias is not None:
        check_tensor(op, "bias", bias)
    input, weight, bias = autocast(input, weight, bias)
    if op != "conv2d":
        check_operands(op, input, weight, bias)
    precision = float32_precision(input.is_cuda)
    if input.dim() == 4:
        return conv2d_op(input, weight, bias, *packed(*geometry), precision)
    return batched(op, input, conv2d_op, weight, bias, *packed(*geometry), precision)


def packed(stride, padding, dilation, groups):
    """The same as the ops take it: one list, which is read in half the time of three."""
    return [*stride, *dilation, *padding], groups


# The ops' words for what torch's switch says: how many products of bfloat16 parts, or one of TF32, may stand for one of
# float32.
PRECISION = {"none": "highest", "ieee": "highest", "tf32": "high", "bf16": "medium"}


def float32_precision(on_cuda):
    """What torch's switch for convolutions, torch.backends.{cudnn,mkldnn}.conv.fp32_precision, allows in float32."""
    backend = torch.backends.cudnn if on_cuda else torch.backends.mkldnn
    return PRECISION[backend.conv.fp32_precision]


# A constant of what torch.compile traces, as torch.compiler.assume_constant_result would say: that costs the import of
# the compiler. Dynamo has no guard on this switch.
float32_precision._dynamo_marked_constant = True


def conv2d_algorithms(input, weight, stride=1, padding=0, dilation=1, groups=1):
    """Which algorithm conv2d and its two gradients use for these operands, and why.

    Args:
        As conv2d; only shapes, dtype and device of input and weight matter (torch.empty will do).
    Returns:
        {"forward": (name, reason), "grad_input": ..., "grad_weight": ...}. The choice depends on the shape of one
        sample, never on the batch size or the number of threads. On CUDA the reason ends with the bytes of scratch
        memory that this batch takes.
    Raises:
        RuntimeError, TypeError: as conv2d.
    """
    op = "conv2d_algorithms"
    check_rank(op, "input", input, 3, 4)
    check_rank(op, "weight", weight, 4)
    input, weight = autocast(input, weight)
    images = input if input.dim() == 4 else input.unsqueeze(0)
    geometry = conv_geometry(op, weight, stride, padding, dilation, groups)
    lines = torch.ops.tmc.conv2d_algorithms(images, weight, *packed(*geometry), float32_precision(input.is_cuda))
    return {gradient: (name, reason) for gradient, name, reason in (line.split(": ", 2) for line in lines.splitlines())}
