"""A whole stage of a convolutional network, pool(activation(conv2d(input))), as one operator and its gradients
(docs/derivations.md, eq. 21-23).

    z = conv2d(x, w) + b     o = g(z)     y = pool(o)           max: y = g(max z), o is not made

The map that is activated, and whose values the slope is written with, is y without a pool or with max, else o.
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
from ._stage import ACTIVATIONS, POOLS, Stage, total
from .conv2d_op import (
    check_precision,
    conv2d_grad_input,
    conv2d_grad_weight,
    gradients_channels_last,
    output_shape,
)
from .pool2d_op import pool2d_output_size, winners_dtype


class ConvActPool2dFunction(torch.autograd.Function):
    """(output, kept). Saves: input and weight as conv2d; max: one byte per pooled value, and with sigmoid and tanh the
    output, with relu a mask; avg and sum after an activation: the activated map if keep_activated, else input, weight
    and bias; no pool: the output."""

    @staticmethod
    def forward(input, weight, bias, geometry, groups, activation, pool, window, precision, keep_activated):
        return torch.ops.tmc.conv_act_pool2d(
            input, weight, bias, geometry, groups, activation, pool, window, precision, keep_activated
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, weight, bias, *stage, keep_activated = inputs
        output, kept = output
        ctx.stage = stage = Stage(*stage)
        ctx.sizes = input.shape, weight.shape
        ctx.channels_last, ctx.weight_strides = gradients_channels_last(input, weight), weight.stride()
        ctx.set_materialize_grads(False)
        keeps_map = keep_activated and stage.activates_map
        if not keeps_map:
            ctx.mark_non_differentiable(kept)
        for_input, for_weight, _ = ctx.needs_input_grad[:3]
        again = stage.activates_map and not keep_activated
        activated = output if stage.activates_output else kept if keeps_map else None
        winners = kept if stage.pool == "max" else None
        # After a pool torch lets the output be changed in place. So relu's slope is kept as a mask.
        masks = stage.pool == "max" and stage.activation == "relu"
        dead = output <= 0 if masks and any(ctx.needs_input_grad[:3]) else None
        ctx.save_for_backward(
            input if for_weight or again else None,
            weight if for_input or again else None,
            bias if again else None,
            None if masks else activated,
            winners,
            dead,
        )
        ctx.save_for_forward(input, weight, bias, activated, winners)

    @staticmethod
    def backward(ctx, grad_output, grad_kept):
        input, weight, bias, activated, winners, dead = ctx.saved_tensors
        stage, wanted = ctx.stage, gradients_needed(ctx)
        nothing = [None] * (len(stage) + 1)
        if dead is not None and grad_output is not None:
            grad_output = torch.where(dead, 0, grad_output)  # lies as the mask does
            stage = stage._replace(activation="none")
        if grad_kept is None and grad_output is not None:
            grads = conv_act_pool2d_gradients(
                grad_output, input, weight, bias, activated, winners, *ctx.sizes, *stage, *wanted
            )
            grads = [grad if want else None for grad, want in zip(grads, wanted, strict=True)]
            if wanted[0]:
                grads[0] = laid(grads[0], ctx.channels_last)
            if wanted[1]:
                grads[1] = laid(grads[1], ctx.channels_last, ctx.weight_strides)
            return *grads, *nothing
        if grad_kept is None:
            return None, None, None, *nothing
        # The kept map has a gradient of its own where a gradient is differentiated.
        spread = None if grad_output is None else stage.spread(grad_output, None, ctx.sizes)
        grad_z = stage.slope(total(spread, grad_kept), activated)
        return *stage.conv_gradients(grad_z, input, weight, ctx.sizes, wanted), *nothing

    @staticmethod
    def jvp(ctx, input_tangent, weight_tangent, bias_tangent, *_):
        input, weight, bias, activated, winners = ctx.saved_tensors
        stage = ctx.stage
        z = stage.conv_tangent(input, weight, input_tangent, weight_tangent, bias_tangent, ctx.sizes)
        if stage.pool == "max":
            return stage.slope(stage.gather(z, winners), activated), None
        if stage.activates_map and activated is None:
            return stage.gather(stage.slope(z, stage.activated(input, weight, bias)), None), None
        o = stage.slope(z, activated)
        return stage.gather(o, None), o if stage.activates_map else None

    @staticmethod
    def vmap(info, in_dims, *args):
        return stage_vmap(conv_act_pool2d_op, info, in_dims, *args)


class ConvActPool2dGradientsFunction(torch.autograd.Function):
    """(grad_input, grad_weight, grad_bias), those that are not wanted without elements; linear in grad_output.
    Saves: what it is given. Its derivatives are composed of the convolution's and the pool's linear maps (eq. 14)."""

    @staticmethod
    def forward(grad_output, input, weight, bias, activated, winners, input_size, weight_size, *stage_and_wanted):
        return torch.ops.tmc.conv_act_pool2d_gradients(
            grad_output, input, weight, bias, activated, winners, input_size, weight_size, *stage_and_wanted
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, input_size, weight_size = inputs[:8]
        *stage, want_input, want_weight, want_bias = inputs[8:]
        ctx.sizes, ctx.stage = (input_size, weight_size), Stage(*stage)
        ctx.wanted = want_input, want_weight, want_bias
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(grad for grad, want in zip(output, ctx.wanted, strict=True) if not want))
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, for_input, for_weight, for_bias):
        """What arrives are directions in x, w and b; along them z changes by u = conv_tangent."""
        grad_output, input, weight, bias, activated, winners = ctx.saved_tensors
        stage, sizes, needs = ctx.stage, ctx.sizes, ctx.needs_input_grad
        nothing = [None] * (len(needs) - 6)
        u = stage.conv_tangent(input, weight, for_input, for_weight, for_bias, sizes)
        if u is None:
            return *[None] * 6, *nothing
        again = stage.activates_map and activated is None
        if again:
            activated = stage.activated(input, weight, bias)
        grad_z = stage.map_gradient(grad_output, activated, winners, sizes)
        to_input = conv2d_grad_input(grad_z, for_weight, sizes[0][2:], *stage.conv) if for_weight is not None else None
        to_weight = conv2d_grad_weight(grad_z, for_input, sizes[1][2:], *stage.conv) if for_input is not None else None
        to_bias = None
        if stage.pool == "max":
            at_winners = stage.gather(u, winners)
            to_output = stage.slope(at_winners, activated)
            to_activated = stage.curvature(at_winners, grad_output, activated)
        else:
            to_output = stage.gather(stage.slope(u, activated), None)
            to_activated = stage.curvature(u, stage.spread(grad_output, None, sizes), activated)
        if again and to_activated is not None:  # the map was a function of x, w and b
            wanted = needs[1], needs[2], needs[3]
            through = stage.conv_gradients(stage.slope(to_activated, activated), input, weight, sizes, wanted)
            to_input, to_weight, to_bias = total(to_input, through[0]), total(to_weight, through[1]), through[2]
            to_activated = None
        grads = to_output, to_input, to_weight, to_bias, to_activated, None
        return *(grad if need else None for grad, need in zip(grads, needs[:6], strict=True)), *nothing

    @staticmethod
    def jvp(ctx, grad_output_tangent, input_tangent, weight_tangent, bias_tangent, activated_tangent, *_):
        grad_output, input, weight, bias, activated, winners = ctx.saved_tensors
        stage, sizes = ctx.stage, ctx.sizes
        if stage.activates_map and activated is None:
            activated = stage.activated(input, weight, bias)
            z = stage.conv_tangent(input, weight, input_tangent, weight_tangent, bias_tangent, sizes)
            activated_tangent = None if z is None else stage.slope(z, activated)
        grad_z = stage.map_gradient(grad_output, activated, winners, sizes)
        spread = grad_output if stage.pool == "max" else stage.spread(grad_output, None, sizes)
        bent = None if activated_tangent is None else stage.curvature(activated_tangent, spread, activated)
        if bent is not None and stage.pool == "max":
            bent = stage.spread(bent, winners, sizes)
        linear = None
        if grad_output_tangent is not None:
            linear = stage.map_gradient(grad_output_tangent, activated, winners, sizes)
        z = total(linear, bent)
        if z is None:
            z = torch.zeros_like(grad_z)
        tangents = stage.conv_gradients(z, input, weight, sizes, ctx.wanted)
        if ctx.wanted[0] and weight_tangent is not None:
            tangents[0] = tangents[0] + conv2d_grad_input(grad_z, weight_tangent, sizes[0][2:], *stage.conv)
        if ctx.wanted[1] and input_tangent is not None:
            tangents[1] = tangents[1] + conv2d_grad_weight(grad_z, input_tangent, sizes[1][2:], *stage.conv)
        return tuple(tangents)

    @staticmethod
    def vmap(info, in_dims, *args):
        return gradients_vmap(conv_act_pool2d_gradients, info, in_dims, *args)


# ---- Shapes for tracing.


def check_arguments(op, input_size, weight_size, stage):
    """The shapes of the map before the pool and of the output, after the checks that tracing can make."""
    check_precision(op, stage.precision)
    for name, value, known in (("activation", stage.activation, ACTIVATIONS), ("pool", stage.pool, POOLS)):
        if value not in known:
            raise RuntimeError(f"{op}: {name} must be one of {', '.join(known)}, got {value}")
    n, k, *size = output_shape(op, input_size, weight_size, stage.geometry, stage.groups)
    pooled = size
    if stage.pool != "none":
        pooled = pool2d_output_size(op, size, stage.window, False, length=6)
    return (n, k, *size), (n, k, *pooled)


def _conv_act_pool2d_fake(input, weight, bias, *arguments):
    op = "conv_act_pool2d"
    *stage, keep_activated = arguments
    stage = Stage(*stage)
    check_fake(op, ("input", input, 4), ("weight", weight, 4), *([("bias", bias, 1)] if bias is not None else []))
    check_fake_floating(op, "input", input)
    check_fake_like(op, "weight", weight, "input", input)
    map_shape, shape = check_arguments(op, input.shape, weight.shape, stage)
    if bias is not None:
        check_fake_like(op, "bias", bias, "input", input)
        check_fake_output(op, "bias", bias, (weight.size(0),))
    kept = input.new_empty((0,))
    if stage.pool == "max":
        kept = empty_nchw(input, shape, True, winners_dtype(stage.window[0] * stage.window[1]))
    elif stage.activates_map and keep_activated:
        kept = empty_nchw(input, map_shape, True)
    return empty_nchw(input, shape, is_channels_last(input) or is_channels_last(weight)), kept


def _conv_act_pool2d_gradients_fake(
    grad_output, input, weight, bias, activated, winners, input_size, weight_size, *arguments
):
    op = "conv_act_pool2d_gradients"
    *stage, want_input, want_weight, want_bias = arguments
    check_fake(op, ("grad_output", grad_output, 4))
    check_fake_floating(op, "grad_output", grad_output)
    _, shape = check_arguments(op, input_size, weight_size, Stage(*stage))
    check_fake_output(op, "grad_output", grad_output, shape)
    input_last, weight_last = (
        is_channels_last(grad_output) or (partner is not None and is_channels_last(partner))
        for partner in (weight, input)
    )
    return (
        empty_nchw(grad_output, input_size, input_last) if want_input else grad_output.new_empty((0,)),
        empty_nchw(grad_output, weight_size, weight_last) if want_weight else grad_output.new_empty((0,)),
        grad_output.new_empty((weight_size[0],) if want_bias else (0,)),
    )


# ---- Batching rules, as conv2d's (eq. 16): a batch of weights becomes groups, a batch of inputs alone samples.


def stage_vmap(call, info, in_dims, input, weight, bias, geometry, groups, *arguments):
    if in_dims[1] is None and (bias is None or in_dims[2] is None):
        input = fold_into_batch(info, input, in_dims[0])
        results = call(input, weight, bias, geometry, groups, *arguments)
        return tuple(unfold_batch(info, result) for result in results), (0, 0)
    input = fold_into_channels(info, input, in_dims[0], 1)
    weight = fold_into_channels(info, weight, in_dims[1], 0)
    bias = None if bias is None else fold_into_channels(info, bias, in_dims[2], 0)
    output, kept = call(input, weight, bias, geometry, groups * info.batch_size, *arguments)
    axis = 1 if kept.dim() == 4 else 0
    return (_split(info, output, 1), _split(info, kept, axis)), (1, axis)


def gradients_vmap(call, info, in_dims, *args):
    """The gradients of weight and bias are wanted for each problem: always groups."""
    tensors = [
        None if tensor is None else fold_into_channels(info, tensor, dim, axis)
        for tensor, dim, axis in zip(args[:6], in_dims[:6], (1, 1, 0, 0, 1, 1), strict=True)
    ]
    (n, c, *size), (k, *filter_size), geometry, groups, *arguments = args[6:]
    sizes = (n, c * info.batch_size, *size), (k * info.batch_size, *filter_size)
    results = call(*tensors, *sizes, geometry, groups * info.batch_size, *arguments)
    axes = [1 if result.dim() == 4 and i == 0 else 0 for i, result in enumerate(results)]
    return tuple(_split(info, result, axis) for result, axis in zip(results, axes, strict=True)), tuple(axes)


def _split(info, tensor, axis):
    return tensor.unflatten(axis, (info.batch_size, tensor.size(axis) // info.batch_size))


conv_act_pool2d_op = two_doors("conv_act_pool2d", ConvActPool2dFunction, _conv_act_pool2d_fake, stage_vmap)
conv_act_pool2d_gradients = two_doors(
    "conv_act_pool2d_gradients", ConvActPool2dGradientsFunction, _conv_act_pool2d_gradients_fake, gradients_vmap
)
