"""What conv1d, conv3d and conv_transpose2d ask of their arguments, in their callers' terms: conv2d's kernels, which
compute them, would report about their own view of it."""

from ._register import check_fake_floating, check_rank, check_tensor


def check_convolution(op, input, weight, bias, stride, padding, dilation, groups):
    axes = weight.dim() - 2
    check_rank(op, "input", input, axes + 1, axes + 2)
    _check_range(op, stride=(stride, 1), padding=(padding, 0), dilation=(dilation, 1), groups=([groups], 1))
    if weight.numel() == 0:
        raise RuntimeError(f"{op}: weight must not be empty, got shape {list(weight.shape)}")
    if input.size(-axes - 1) != groups * weight.size(1):
        raise RuntimeError(
            f"{op}: input must have groups * weight.size(1) = {groups} * {weight.size(1)} channels, "
            f"got input shape {list(input.shape)} and weight shape {list(weight.shape)}"
        )
    empty_batch = input.dim() == axes + 2 and input.size(0) == 0
    if not empty_batch and any(extent == 0 for extent in input.shape[-axes:]):
        raise RuntimeError(f"{op}: only the batch of input may be empty, got shape {list(input.shape)}")
    split = len(padding) > axes  # into (before, after)
    pads = [padding[2 * axis] + padding[2 * axis + 1] if split else 2 * padding[axis] for axis in range(axes)]
    for size, pad, kernel, step in zip(input.shape[-axes:], pads, weight.shape[2:], dilation, strict=True):
        if size + pad < step * (kernel - 1) + 1:
            raise RuntimeError(
                f"{op}: kernel_size must not exceed the padded input: dilation * (kernel_size - 1) + 1 = "
                f"{step * (kernel - 1) + 1}, padded input size is {size + pad}"
            )
    _check_bias(op, bias, weight.size(0))


def check_transpose(op, input, weight, bias, stride, padding, dilation, output_padding, groups):
    _check_range(op, stride=(stride, 1), padding=(padding, 0), dilation=(dilation, 1), groups=([groups], 1))
    _check_range(op, output_padding=(output_padding, 0))
    empty_batch = input.dim() == 4 and input.size(0) == 0  # of which torch does not ask it
    if not empty_batch and any(e >= max(s, d) for e, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise RuntimeError(
            f"{op}: output_padding must be smaller than stride or dilation, "
            f"got output_padding={output_padding}, stride={stride}, dilation={dilation}"
        )
    if input.size(-3) != weight.size(0) or weight.size(0) % groups != 0:
        raise RuntimeError(
            f"{op}: input must have weight.size(0) channels, a multiple of groups, "
            f"got input shape {list(input.shape)}, weight shape {list(weight.shape)} and groups={groups}"
        )
    _check_bias(op, bias, weight.size(1) * groups)


def _check_range(op, **arguments):
    """The upper bound keeps every product with an extent within the 64 bits that the ops take."""
    for name, (values, low) in arguments.items():
        if any(value < low or value > 2**40 for value in values):
            raise RuntimeError(f"{op}: {name} must be >= {low} and at most 2**40, got {values}")


def check_operands(op, input, weight, bias):
    """Dtypes and devices, once autocast has had its say."""
    check_fake_floating(op, "input", input)
    for name, operand in ("weight", weight), ("bias", bias):
        if operand is not None and (operand.dtype, operand.device) != (input.dtype, input.device):
            raise RuntimeError(
                f"{op}: {name} must have the dtype and device of input ({input.dtype}, {input.device}), "
                f"got {operand.dtype}, {operand.device}"
            )


def _check_bias(op, bias, channels):
    if bias is None:
        return
    check_tensor(op, "bias", bias)
    if list(bias.shape) != [channels]:
        raise RuntimeError(f"{op}: bias must have shape [{channels}], got {list(bias.shape)}")
