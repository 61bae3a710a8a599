"""What convolutions cost, for torch.utils.flop_counter, which counts nothing for an operator it has no formula of.

    import torch_manual_conv.flops      # registers the formulas: FlopCounterMode counts our layers from then on

Counted as torch counts: a multiplication and an addition for each tap of each output, those on padding included, and
nothing for bias, activation and pool. (Of a grouped convolution's grad_weight torch counts `groups` times as much.)
That is what the formulas ask for; Winograd does fewer. The package does not import this module by itself, because
torch's counter brings triton with it.
"""

from math import prod

import torch
from torch.utils.flop_counter import register_flop_formula

from .ops._stage import Stage
from .ops.conv2d_op import conv2d_output_size


def _taps(samples, positions, weight_size):
    """2 * N * P * Q * K * C / groups * R * S."""
    return 2 * samples * prod(positions) * prod(weight_size)


@register_flop_formula(torch.ops.tmc.conv2d)
def _conv2d(input, weight, *_, out_shape, **__):
    return _taps(input[0], out_shape[2:], weight)


@register_flop_formula(torch.ops.tmc.conv2d_grad_input)
def _conv2d_grad_input(grad_output, weight, *_, **__):
    return _taps(grad_output[0], grad_output[2:], weight)


@register_flop_formula(torch.ops.tmc.conv2d_grad_weight)
def _conv2d_grad_weight(grad_output, *_, out_shape, **__):
    return _taps(grad_output[0], grad_output[2:], out_shape)


@register_flop_formula(torch.ops.tmc.conv_act_pool2d)
def _conv_act_pool2d(input, weight, bias, geometry, *_, **__):
    return _taps(input[0], conv2d_output_size(input[2:], weight[2:], geometry), weight)


@register_flop_formula(torch.ops.tmc.conv_act_pool2d_gradients)
def _conv_act_pool2d_gradients(
    grad_output, input, weight, bias, activated, winners, input_size, weight_size, *stage_and_wanted, **_
):
    *stage, want_input, want_weight, _ = stage_and_wanted
    again = Stage(*stage).activates_map and activated is None  # the map is computed once more
    positions = conv2d_output_size(input_size[2:], weight_size[2:], stage[0])
    return (want_input + want_weight + again) * _taps(grad_output[0], positions, weight_size)
