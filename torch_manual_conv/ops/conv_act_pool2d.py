"""The public conv_act_pool2d, and what stands in for it in compiled forward-mode AD.

The operator and its derivatives are in conv_act_pool2d_op.py, the maps that they are composed of in _stage.py.
"""

import torch

from ._register import (
    autocast,
    batched,
    check_rank,
    check_tensor,
    integers,
)
from ._stage import ACTIVATIONS, POOLS
from .conv2d import conv2d, conv_geometry, float32_precision, packed, torch_convolves
from .conv_act_pool2d_op import conv_act_pool2d_op


def check_stage(activation, pool, save="store"):
    """What a stage is named by; both functions and layers take it from their callers."""
    if save not in ("store", "recompute"):
        raise ValueError(f"conv_act_pool2d: save must be 'store' or 'recompute', got {save!r}")
    for name, value, known in (("activation", activation, ACTIVATIONS), ("pool", pool, POOLS)):
        if value is not None and (not isinstance(value, str) or value == "none" or value not in known):
            wanted = ", ".join(repr(None if each == "none" else each) for each in known)
            raise ValueError(f"conv_act_pool2d: {name} must be one of {wanted}, got {value!r}")


def conv_act_pool2d(
    input,
    weight,
    bias=None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    activation=None,
    pool=None,
    pool_size=2,
    pool_stride=None,
    pool_padding=0,
    save="store",
):
    """Convolution, then an activation, then pooling, as one operation.

    Args:
        input, weight, bias, stride, padding, dilation, groups: as in conv2d.
        activation: None, 'sigmoid', 'relu' or 'tanh'.
        pool: None, 'max', 'avg' or 'sum'.
        pool_size, pool_stride, pool_padding: the pooling windows, as kernel_size, stride and padding in max_pool2d
            and avg_pool2d; pool_stride=None means pool_size.
        save: what backward has of the activated map that avg and sum pool: 'store' keeps it, 'recompute' convolves
            once more. Nothing else depends on it.
    Returns:
        [N, K, P, Q], the pooled activations.
    Raises:
        RuntimeError, TypeError, ValueError: naming the argument, its value and the rule it breaks.

    Equivalent to: pool2d(act(torch.nn.functional.conv2d(input, weight, bias, ...)), pool_size, ...). With pool='max'
        the winner is the largest value before the activation, or its last NaN, as torch's max_pool2d finds it there.
        Values are the same; where the activation maps several positions of a window to one value (saturated sigmoids,
        relu of negatives) the gradient goes to the largest of them instead of the first.
    Saves for backward: input and weight as conv2d; with pool='max' one byte per pooled value, and after relu another
        one, after sigmoid or tanh the output; with an activation and no pool the output; with avg or sum pooling after
        an activation the activated map, or with save='recompute' input, weight and bias.
    """
    op = "conv_act_pool2d"
    check_stage(activation, pool, save)
    size = integers(op, "pool_size", pool_size, 2)
    step = size if pool_stride in (None, (), []) else integers(op, "pool_stride", pool_stride, 2)
    pad = integers(op, "pool_padding", pool_padding, 2)
    if activation is None and pool is None:
        return conv2d(input, weight, bias, stride, padding, dilation, groups)
    check_rank(op, "weight", weight, 4)
    check_tensor(op, "input", input)
    if bias is not None:
        check_tensor(op, "bias", bias)
    geometry = conv_geometry(op, weight, stride, padding, dilation, groups)
    if torch_convolves(input, weight, bias):
        return torch_stage(input, weight, bias, geometry, activation, pool, (size, step, pad))
    input, weight, bias = autocast(input, weight, bias)
    window = [*size, *step, *pad]
    stage = *packed(*geometry), activation or "none", pool or "none", window, float32_precision(input.is_cuda)
    keep = save == "store" and (torch.is_grad_enabled() or torch.jit.is_tracing())
    output = batched(op, input, _output_of_stage, weight, bias, *stage, keep)
    if input.dim() == 3 and pool is not None:
        output = output.contiguous()  # as torch's pools return an image without a batch
    # Backward's copy of the output, if it has one, is not the caller's where torch lets him change the output in place:
    # behind a pool. (An image without a batch is another tensor in the same memory: autograd would not notice.)
    keeps_output = activation in ("sigmoid", "tanh") if pool == "max" else pool is None and input.dim() == 3
    return output.clone() if keeps_output and (output.requires_grad or torch.jit.is_tracing()) else output


def _output_of_stage(*arguments):
    return conv_act_pool2d_op(*arguments)[0]


def torch_stage(input, weight, bias, geometry, activation, pool, window):
    """The same in plain torch operators, in whose words forward-mode AD can be compiled."""
    stride, padding, dilation, groups = geometry
    if len(padding) == 4:
        input, padding = torch.nn.functional.pad(input, (*padding[2:], *padding[:2])), 0
    z = torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
    activate = {None: lambda z: z, "sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}[activation]
    if pool is None:
        return activate(z)
    if pool == "max":
        return activate(torch.nn.functional.max_pool2d(z, *window))
    return torch.nn.functional.avg_pool2d(activate(z), *window, divisor_override=1 if pool == "sum" else None)
