"""Drop-in layers: each subclasses its torch.nn twin and overrides forward only.

So constructor, initialisation (same seed, same weights), repr and state_dict are torch's. Where torch.nn has a
padding_mode, the padded copy is made by torch.nn.functional.pad, as torch does.
"""

import torch

from . import functional as F
from .ops.conv_act_pool2d import check_stage


def _padded(layer, input, conv):
    """conv(input, padding) after the padding that padding_mode asks for."""
    if layer.padding_mode == "zeros":
        return conv(input, layer.padding)
    pads = layer._reversed_padding_repeated_twice
    return conv(torch.nn.functional.pad(input, pads, mode=layer.padding_mode), 0)


def stage_of(conv, input, weight, bias, stage):
    """A layer's convolution and the rest of its stage, the keyword arguments of conv_act_pool2d, in one call."""
    return _padded(
        conv,
        input,
        lambda x, pad: F.conv_act_pool2d(x, weight, bias, conv.stride, pad, conv.dilation, conv.groups, **stage),
    )


class Conv1d(torch.nn.Conv1d):
    """torch.nn.Conv1d through our kernels. Input [N, C, L] or [C, L]."""

    def _conv_forward(self, input, weight, bias):
        return _padded(
            self, input, lambda x, pad: F.conv1d(x, weight, bias, self.stride, pad, self.dilation, self.groups)
        )


class Conv2d(torch.nn.Conv2d):
    """torch.nn.Conv2d through our kernels. Input [N, C, H, W] or [C, H, W]."""

    def _conv_forward(self, input, weight, bias):
        if self.padding_mode == "zeros":
            return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return _padded(
            self, input, lambda x, pad: F.conv2d(x, weight, bias, self.stride, pad, self.dilation, self.groups)
        )


class Conv3d(torch.nn.Conv3d):
    """torch.nn.Conv3d through our kernels. Input [N, C, D, H, W] or [C, D, H, W]."""

    def _conv_forward(self, input, weight, bias):
        return _padded(
            self, input, lambda x, pad: F.conv3d(x, weight, bias, self.stride, pad, self.dilation, self.groups)
        )


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d through our kernels. Input [N, C, H, W] or [C, H, W]."""

    def forward(self, input, output_size=None):
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
        )
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )


class Sigmoid(torch.nn.Sigmoid):
    """torch.nn.Sigmoid through our kernels. Input of any shape."""

    def forward(self, input):
        return F.sigmoid(input)


class MaxPool2d(torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d through our kernels. Input [N, C, H, W] or [C, H, W]."""

    def forward(self, input):
        return F.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class AvgPool2d(torch.nn.AvgPool2d):
    """torch.nn.AvgPool2d through our kernels. Input [N, C, H, W] or [C, H, W]."""

    def forward(self, input):
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class SumPool2d(torch.nn.Module):
    """Sums over windows: the lecture's third pooling, which torch.nn lacks. Input [N, C, H, W] or [C, H, W].

    Args:
        kernel_size, stride, padding, ceil_mode: as in torch.nn.AvgPool2d; stride=None means kernel_size.
    """

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode

    def forward(self, input):
        return F.sum_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode)

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """torch.nn.AdaptiveAvgPool2d through our kernels. Input [N, C, H, W] or [C, H, W]."""

    def forward(self, input):
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveMaxPool2d(torch.nn.AdaptiveMaxPool2d):
    """torch.nn.AdaptiveMaxPool2d through our kernels. Input [N, C, H, W] or [C, H, W]."""

    def forward(self, input):
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class ConvActPool2d(Conv2d):
    """pool(activation(conv(input))) as one layer; parameters and state_dict keys of Conv2d.

    Args:
        in_channels ... dtype: as in torch.nn.Conv2d.
        activation: None, 'sigmoid', 'relu' or 'tanh'.
        pool: None, 'max', 'avg' or 'sum'; pool_size, pool_stride, pool_padding: its windows.
        save: 'store' or 'recompute', as in conv_act_pool2d.
    """

    save = "store"

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        padding_mode="zeros",
        device=None,
        dtype=None,
        *,
        activation=None,
        pool=None,
        pool_size=2,
        pool_stride=None,
        pool_padding=0,
        save="store",
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        check_stage(activation, pool, save)
        self.save = save
        self.activation, self.pool = activation, pool
        self.pool_size, self.pool_stride, self.pool_padding = pool_size, pool_stride, pool_padding

    def _conv_forward(self, input, weight, bias):
        stage = {
            "activation": self.activation,
            "pool": self.pool,
            "pool_size": self.pool_size,
            "pool_stride": self.pool_stride,
            "pool_padding": self.pool_padding,
            "save": self.save,
        }
        return stage_of(self, input, weight, bias, stage)

    def extra_repr(self):
        stage = f", activation={self.activation}, pool={self.pool}"
        if self.pool is not None:
            stage += f", pool_size={self.pool_size}, pool_stride={self.pool_stride}, pool_padding={self.pool_padding}"
        return super().extra_repr() + stage
