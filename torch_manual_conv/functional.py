"""torch.nn.functional's door to our operators: same names, same signatures.

`conv_act_pool2d` and `sum_pool2d` have no twin in torch. What each function computes, saves and raises stands in its
docstring; how, in torch_manual_conv/ops/.
"""

import torch

from .ops.adaptive_pool2d import adaptive_avg_pool2d, adaptive_max_pool2d
from .ops.conv2d import conv1d, conv2d, conv3d, conv_transpose2d
from .ops.conv_act_pool2d import conv_act_pool2d
from .ops.pool2d import avg_pool2d, max_pool2d, sum_pool2d
from .ops.sigmoid import sigmoid

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_act_pool2d",
    "conv_transpose2d",
    "max_pool2d",
    "sigmoid",
    "sum_pool2d",
]

for _name in __all__:
    torch.fx.wrap(_name)  # one node of a graph that torch.fx traces, as torch.nn.functional's are
