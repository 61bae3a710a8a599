"""A whole stage of a convolutional network: pool(activation(conv2d(input))) (docs/derivations.md, eq. 21).

Composed of the other operators. For max pooling the pool comes first: sigmoid, relu and tanh never decrease, so the
largest activation is the activation of the largest value (eq. 23). That evaluates the activation on the small pooled
map and keeps no pre-pool map for backward: only input, weight, pooled output and one byte per pooled value.
"""

import torch

from ._register import integers
from .conv import conv2d
from .pool2d import avg_pool2d, max_pool2d, sum_pool2d
from .sigmoid import sigmoid

ACTIVATIONS = {None: lambda input: input, "sigmoid": sigmoid, "relu": torch.relu, "tanh": torch.tanh}
POOLS = {"max": max_pool2d, "avg": avg_pool2d, "sum": sum_pool2d}


def check_stage(activation, pool):
    for name, value, known in (("activation", activation, ACTIVATIONS), ("pool", pool, (None, *POOLS))):
        if value not in known:
            wanted = ", ".join(map(repr, known))
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
):
    """Convolution, then an activation, then pooling, as one operation.

    Args:
        input, weight, bias, stride, padding, dilation, groups: as in conv2d.
        activation: None, 'sigmoid', 'relu' or 'tanh'.
        pool: None, 'max', 'avg' or 'sum'.
        pool_size, pool_stride, pool_padding: the pooling windows, as kernel_size, stride and padding in max_pool2d
            and avg_pool2d; pool_stride=None means pool_size.
    Returns:
        [N, K, P, Q], the pooled activations.
    Raises:
        RuntimeError, TypeError, ValueError: naming the argument, its value and the rule it breaks.

    Equivalent to: pool2d(act(torch.nn.functional.conv2d(input, weight, bias, ...)), pool_size, ...). With pool='max'
        the winner is the largest value before the activation. Values are the same; where the activation maps several
        positions of a window to one value (saturated sigmoids, relu of negatives) the gradient goes to the largest
        of them instead of the first.
    Saves for backward: input and weight as conv2d; with max pooling the pooled output and one byte per pooled value;
        with avg or sum pooling after an activation the activated map.
    """
    op = "conv_act_pool2d"
    check_stage(activation, pool)
    window = integers(op, "pool_size", pool_size, 2), pool_stride, pool_padding
    activate = ACTIVATIONS[activation]
    features = conv2d(input, weight, bias, stride, padding, dilation, groups)
    if pool is None:
        return activate(features)
    if pool == "max":
        return activate(max_pool2d(features, *window))
    return POOLS[pool](activate(features), *window)
