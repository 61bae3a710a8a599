"""Convolution: one bilinear form in three maps, each of which is the derivative of the other two.

    conv2d              output      = input * weight + bias           docs/derivations.md, eq. 1
    conv2d_grad_weight  grad_weight = grad_output x input             eq. 3   (the lecture's A)
    conv2d_grad_input   grad_input  = grad_output x weight            eq. 5   (the lecture's B and C)

Each is an autograd.Function whose forward is the C++ operator of the same name. The public conv1d, conv2d, conv3d and
conv_transpose2d are in conv2d.py.
"""

import torch

from ._register import (
    check_fake,
    check_fake_floating,
    check_fake_like,
    check_fake_output,
    empty_nchw,
    fold_into_batch,
    fold_into_channels,
    gradients_needed,
    is_channels_last,
    laid,
    two_doors,
    unfold_batch,
)


class Conv2dFunction(torch.autograd.Function):
    """output = input * weight + bias. Saves: input if weight needs a gradient, weight if input does."""

    @staticmethod
    def forward(input, weight, bias, geometry, groups, precision="highest"):
        return torch.ops.tmc.conv2d(input, weight, bias, geometry, groups, precision)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, weight, _, *ctx.geometry = inputs
        ctx.input_size, ctx.kernel_size = input.shape[2:], weight.shape[2:]
        ctx.channels_last, ctx.weight_strides = gradients_channels_last(input, weight), weight.stride()
        save_operands(ctx, input, weight)

    @staticmethod
    def backward(ctx, grad_output):
        input, weight = ctx.saved_tensors
        for_input, for_weight, for_bias = gradients_needed(ctx)
        grad_input = grad_weight = None
        if for_input:
            grad_input = conv2d_grad_input(grad_output, weight, ctx.input_size, *ctx.geometry)
            grad_input = laid(grad_input, ctx.channels_last)
        if for_weight:
            grad_weight = conv2d_grad_weight(grad_output, input, ctx.kernel_size, *ctx.geometry)
            grad_weight = laid(grad_weight, ctx.channels_last, ctx.weight_strides)
        grad_bias = conv2d_grad_bias(grad_output) if for_bias else None
        return grad_input, grad_weight, grad_bias, None, None, None

    @staticmethod
    def jvp(ctx, input_tangent, weight_tangent, bias_tangent, *_):
        input, weight = ctx.saved_tensors
        tangents = []
        if input_tangent is not None:
            tangents.append(conv2d_op(input_tangent, weight, None, *ctx.geometry))
        if weight_tangent is not None:
            tangents.append(conv2d_op(input, weight_tangent, None, *ctx.geometry))
        if bias_tangent is not None:
            shape = conv2d_output_size(ctx.input_size, ctx.kernel_size, ctx.geometry[0])
            tangents.append(bias_tangent.view(-1, 1, 1).expand(input.size(0), -1, *shape))
        return sum(tangents[1:], tangents[0])

    @staticmethod
    def vmap(info, in_dims, *args):
        return operand_vmap(conv2d_op, info, in_dims, *args)


class Conv2dGradInputFunction(torch.autograd.Function):
    """grad_input from grad_output and weight; linear in both (eq. 14)."""

    @staticmethod
    def forward(grad_output, weight, input_size, geometry, groups, precision="highest"):
        return torch.ops.tmc.conv2d_grad_input(grad_output, weight, input_size, geometry, groups, precision)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad_output, weight, ctx.input_size, *ctx.geometry = inputs
        ctx.kernel_size = weight.shape[2:]
        ctx.channels_last, ctx.weight_strides = gradients_channels_last(grad_output, weight), weight.stride()
        save_operands(ctx, grad_output, weight)

    @staticmethod
    def backward(ctx, grad):
        grad_output, weight = ctx.saved_tensors
        for_output, for_weight = ctx.needs_input_grad[:2]
        grad_grad_output = grad_weight = None
        if for_output:
            grad_grad_output = laid(conv2d_op(grad, weight, None, *ctx.geometry), ctx.channels_last)
        if for_weight:
            grad_weight = conv2d_grad_weight(grad_output, grad, ctx.kernel_size, *ctx.geometry)
            grad_weight = laid(grad_weight, ctx.channels_last, ctx.weight_strides)
        return grad_grad_output, grad_weight, None, None, None, None

    @staticmethod
    def jvp(ctx, grad_output_tangent, weight_tangent, *_):
        grad_output, weight = ctx.saved_tensors
        return product_rule(
            lambda g, w: conv2d_grad_input(g, w, ctx.input_size, *ctx.geometry),
            (grad_output, grad_output_tangent),
            (weight, weight_tangent),
        )

    @staticmethod
    def vmap(info, in_dims, *args):
        return operand_vmap(conv2d_grad_input, info, in_dims, *args)


class Conv2dGradWeightFunction(torch.autograd.Function):
    """grad_weight from grad_output and input; linear in both (eq. 14)."""

    @staticmethod
    def forward(grad_output, input, kernel_size, geometry, groups, precision="highest"):
        return torch.ops.tmc.conv2d_grad_weight(grad_output, input, kernel_size, geometry, groups, precision)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad_output, input, ctx.kernel_size, *ctx.geometry = inputs
        ctx.input_size = input.shape[2:]
        save_operands(ctx, grad_output, input)

    @staticmethod
    def backward(ctx, grad):
        grad_output, input = ctx.saved_tensors
        for_output, for_input = ctx.needs_input_grad[:2]
        grad_grad_output = conv2d_op(input, grad, None, *ctx.geometry) if for_output else None
        grad_input = conv2d_grad_input(grad_output, grad, ctx.input_size, *ctx.geometry) if for_input else None
        return grad_grad_output, grad_input, None, None, None, None

    @staticmethod
    def jvp(ctx, grad_output_tangent, input_tangent, *_):
        grad_output, input = ctx.saved_tensors
        return product_rule(
            lambda g, x: conv2d_grad_weight(g, x, ctx.kernel_size, *ctx.geometry),
            (grad_output, grad_output_tangent),
            (input, input_tangent),
        )

    @staticmethod
    def vmap(info, in_dims, *args):
        return grad_weight_vmap(conv2d_grad_weight, info, in_dims, *args)


class Conv2dGradBiasFunction(torch.autograd.Function):
    """grad_bias[k] = sum of grad_output over samples and positions (eq. 4). Saves: nothing."""

    @staticmethod
    def forward(grad_output):
        return torch.ops.tmc.conv2d_grad_bias(grad_output)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.output_shape = inputs[0].shape

    @staticmethod
    def backward(ctx, grad):
        return grad.view(-1, 1, 1).expand(ctx.output_shape)

    @staticmethod
    def jvp(ctx, grad_output_tangent):
        return conv2d_grad_bias(grad_output_tangent)

    @staticmethod
    def vmap(info, in_dims, *args):
        return grad_bias_vmap(conv2d_grad_bias, info, in_dims, *args)


def save_operands(ctx, left, right):
    """For backward, each operand of a bilinear map only if the other one needs a gradient; for jvp, which torch calls
    right after forward, both."""
    for_left, for_right = ctx.needs_input_grad[:2]
    ctx.save_for_backward(left if for_right else None, right if for_left else None)
    ctx.save_for_forward(left, right)


def gradients_channels_last(images, weight):
    """Whether the gradients of these operands are channels_last: if one of them is, as in torch. Of images of one row,
    conv1d's, it is the weight that tells."""
    return is_channels_last(weight) or (images.size(2) > 1 and is_channels_last(images))


def product_rule(bilinear, left, right):
    """The tangent of bilinear(x, y): bilinear(dx, y) + bilinear(x, dy), for (value, tangent or None) pairs."""
    (x, dx), (y, dy) = left, right
    if dx is None:
        return bilinear(x, dy)
    return bilinear(dx, y) if dy is None else bilinear(dx, y) + bilinear(x, dy)


# ---- Shapes for tracing.


def conv2d_output_size(input_size, kernel_size, geometry):
    """(P, Q): floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1 along each axis (eq. 2)."""
    stride, dilation, padding = geometry[:2], geometry[2:4], geometry[4:]
    pads = (padding[0] + padding[1], padding[2] + padding[3]) if len(padding) == 4 else (2 * padding[0], 2 * padding[1])
    return tuple(
        (size + pad - d * (k - 1) - 1) // s + 1
        for size, pad, k, s, d in zip(input_size, pads, kernel_size, stride, dilation, strict=True)
    )


def check_precision(op, precision):
    if precision not in ("highest", "high", "medium"):
        raise RuntimeError(f"{op}: precision must be highest, high or medium, got {precision}")


def output_shape(op, input_shape, weight_shape, geometry, groups):
    """[N, K, P, Q] of a convolution with these operands, after the checks that tracing can make."""
    if len(geometry) not in (6, 8):
        raise RuntimeError(f"{op}: geometry must have 6 or 8 values (stride, dilation, padding), got {list(geometry)}")
    stride, dilation, padding = geometry[:2], geometry[2:4], geometry[4:]
    for name, values, low in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if any(v < low for v in values):
            raise RuntimeError(f"{op}: {name} must be >= {low}, got {list(values)}")
    if groups < 1:
        raise RuntimeError(f"{op}: groups must be >= 1, got {groups}")
    n, c, *input_size = input_shape
    k, c_per_group, *kernel_size = weight_shape
    if len(input_size) != 2 or len(kernel_size) != 2 or any(extent < 1 for extent in weight_shape):
        raise RuntimeError(
            f"{op}: weight must not be empty and sizes must be (height, width), "
            f"got weight shape {list(weight_shape)} and input shape {list(input_shape)}"
        )
    if c != groups * c_per_group or k % groups != 0:
        raise RuntimeError(
            f"{op}: groups={groups} must divide {k} output channels, and {c} input channels into "
            f"groups of weight.size(1) = {c_per_group}"
        )
    if n != 0 and any(extent == 0 for extent in input_size):
        raise RuntimeError(f"{op}: only the batch of input may be empty, got shape {list(input_shape)}")
    size = conv2d_output_size(input_size, kernel_size, geometry)
    if any(extent < 1 for extent in size):
        raise RuntimeError(
            f"{op}: kernel_size must not exceed the padded input, got kernel_size={list(kernel_size)}, "
            f"input size {list(input_size)}, padding={list(padding)}, dilation={list(dilation)}"
        )
    return n, k, *size


def _conv2d_fake(input, weight, bias, geometry, groups, precision="highest"):
    op = "conv2d"
    check_precision(op, precision)
    check_fake(op, ("input", input, 4), ("weight", weight, 4), *([("bias", bias, 1)] if bias is not None else []))
    check_fake_floating(op, "input", input)
    check_fake_like(op, "weight", weight, "input", input)
    shape = output_shape(op, input.shape, weight.shape, geometry, groups)
    if bias is not None:
        check_fake_like(op, "bias", bias, "input", input)
        if bias.size(0) != weight.size(0):
            raise RuntimeError(f"{op}: bias must have shape [{weight.size(0)}], got {list(bias.shape)}")
    return empty_nchw(input, shape, is_channels_last(input) or is_channels_last(weight))


def _conv2d_grad_input_fake(grad_output, weight, input_size, geometry, groups, precision="highest"):
    op = "conv2d_grad_input"
    check_precision(op, precision)
    check_fake(op, ("grad_output", grad_output, 4), ("weight", weight, 4))
    check_fake_floating(op, "grad_output", grad_output)
    check_fake_like(op, "weight", weight, "grad_output", grad_output)
    shape = (grad_output.size(0), weight.size(1) * groups, *input_size)
    output = output_shape(op, shape, weight.shape, geometry, groups)
    check_fake_output(op, "grad_output", grad_output, output)
    return empty_nchw(grad_output, shape, is_channels_last(grad_output) or is_channels_last(weight))


def _conv2d_grad_weight_fake(grad_output, input, kernel_size, geometry, groups, precision="highest"):
    op = "conv2d_grad_weight"
    check_precision(op, precision)
    check_fake(op, ("grad_output", grad_output, 4), ("input", input, 4))
    check_fake_floating(op, "grad_output", grad_output)
    check_fake_like(op, "input", input, "grad_output", grad_output)
    if groups < 1 or input.size(1) % groups != 0:
        raise RuntimeError(f"{op}: groups must divide the input channels, got {input.size(1)} and groups={groups}")
    shape = (grad_output.size(1), input.size(1) // groups, *kernel_size)
    output = output_shape(op, input.shape, shape, geometry, groups)
    check_fake_output(op, "grad_output", grad_output, output)
    return empty_nchw(input, shape, is_channels_last(grad_output) or is_channels_last(input))


def _conv2d_grad_bias_fake(grad_output):
    check_fake("conv2d_grad_bias", ("grad_output", grad_output, 4))
    check_fake_floating("conv2d_grad_bias", "grad_output", grad_output)
    return grad_output.new_empty((grad_output.size(1),))


# ---- Batching rules: a batch of weights becomes groups, a batch of inputs alone becomes samples (eq. 16).


def operand_vmap(call, info, in_dims, images, weight, bias_or_size, geometry, groups, precision="highest"):
    """For conv2d and conv2d_grad_input, which take images [N, ...] and a weight [K, ...]."""
    is_bias = isinstance(bias_or_size, torch.Tensor)
    if in_dims[1] is None and not (is_bias and in_dims[2] is not None):
        images = fold_into_batch(info, images, in_dims[0])
        output = call(images, weight, bias_or_size, geometry, groups, precision)
        return unfold_batch(info, output), 0
    images = fold_into_channels(info, images, in_dims[0], 1)
    weight = fold_into_channels(info, weight, in_dims[1], 0)
    if is_bias:
        bias_or_size = fold_into_channels(info, bias_or_size, in_dims[2], 0)
    groups *= info.batch_size
    output = call(images, weight, bias_or_size, geometry, groups, precision)
    return output.unflatten(1, (info.batch_size, -1)), 1


def grad_weight_vmap(call, info, in_dims, grad_output, input, kernel_size, geometry, groups, precision="highest"):
    grad_output = fold_into_channels(info, grad_output, in_dims[0], 1)
    input = fold_into_channels(info, input, in_dims[1], 1)
    grad_weight = call(grad_output, input, kernel_size, geometry, groups * info.batch_size, precision)
    return grad_weight.unflatten(0, (info.batch_size, -1)), 0


def grad_bias_vmap(call, info, in_dims, grad_output):
    grad_bias = call(fold_into_channels(info, grad_output, in_dims[0], 1))
    return grad_bias.unflatten(0, (info.batch_size, -1)), 0


conv2d_op = two_doors("conv2d", Conv2dFunction, _conv2d_fake, operand_vmap)
conv2d_grad_input = two_doors("conv2d_grad_input", Conv2dGradInputFunction, _conv2d_grad_input_fake, operand_vmap)
conv2d_grad_weight = two_doors(
    "conv2d_grad_weight", Conv2dGradWeightFunction, _conv2d_grad_weight_fake, grad_weight_vmap
)
conv2d_grad_bias = two_doors("conv2d_grad_bias", Conv2dGradBiasFunction, _conv2d_grad_bias_fake, grad_bias_vmap)
