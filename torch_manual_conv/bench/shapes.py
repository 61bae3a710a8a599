"""The convolution layers by name: those of networks at 224 x 224 images, and what nobody tunes for."""

from typing import NamedTuple


class Layer(NamedTuple):
    """One convolution of [N, c, h, w] with [k, c / groups, r, s]."""

    name: str
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: tuple = (1, 1)
    padding: tuple = (0, 0)
    dilation: tuple = (1, 1)
    groups: int = 1

    def output_size(self):
        """(P, Q), eq. 2."""
        return tuple(
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                (self.h, self.w), self.padding, self.dilation, (self.r, self.s), self.stride, strict=True
            )
        )

    def taps(self):
        """Window positions times kernel positions, without those that fall on padding: no algorithm needs these."""
        inside = [
            sum(0 <= at * stride - pad + tap * dilation < size for at in range(extent) for tap in range(kernel))
            for size, pad, dilation, kernel, stride, extent in zip(
                (self.h, self.w),
                self.padding,
                self.dilation,
                (self.r, self.s),
                self.stride,
                self.output_size(),
                strict=True,
            )
        ]
        return inside[0] * inside[1]

    def __str__(self):
        """As a paper would say it: 64 -> 192, 5 x 5."""
        text = f"{self.c} -> {self.k}, {self.r} x {self.s}"
        if self.stride != (1, 1):
            text += f", stride {same(self.stride)}"
        if self.dilation != (1, 1):
            text += f", dilation {same(self.dilation)}"
        if self.groups != 1:
            text += ", depthwise" if self.groups == self.c == self.k else f", {self.groups} groups"
        return text


def same(pair):
    """2 for (2, 2), '1 x 2' for (1, 2)."""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} x {pair[1]}"


def square(name, c, size, k, kernel, stride=1, padding=0, dilation=1, groups=1):
    return Layer(name, c, size, size, k, kernel, kernel, (stride,) * 2, (padding,) * 2, (dilation,) * 2, groups)


class Network(NamedTuple):
    """Layers measured together; batch: the usual one, chosen so that a pass takes no minutes on one core."""

    batch: int
    layers: tuple
    note: str


NETWORKS = {
    "alexnet": Network(
        32,
        (
            square("conv1", 3, 224, 64, 11, stride=4, padding=2),
            square("conv2", 64, 27, 192, 5, padding=2),
            square("conv3", 192, 13, 384, 3, padding=1),
            square("conv4", 384, 13, 256, 3, padding=1),
            square("conv5", 256, 13, 256, 3, padding=1),
        ),
        "torchvision's AlexNet",
    ),
    "resnet18": Network(
        32,
        (
            square("stem", 3, 224, 64, 7, stride=2, padding=3),
            square("layer1", 64, 56, 64, 3, padding=1),
            square("layer2 down", 64, 56, 128, 3, stride=2, padding=1),
            square("layer2 skip", 64, 56, 128, 1, stride=2),
            square("layer2", 128, 28, 128, 3, padding=1),
            square("layer3 down", 128, 28, 256, 3, stride=2, padding=1),
            square("layer3", 256, 14, 256, 3, padding=1),
            square("layer4 down", 256, 14, 512, 3, stride=2, padding=1),
            square("layer4", 512, 7, 512, 3, padding=1),
        ),
        "ResNet-18: 3 x 3 with stride 1 and 2, 1 x 1, 7 x 7",
    ),
    "vgg11": Network(
        8,
        (
            square("conv1", 3, 224, 64, 3, padding=1),
            square("conv2", 64, 112, 128, 3, padding=1),
            square("conv3", 128, 56, 256, 3, padding=1),
            square("conv4", 256, 56, 256, 3, padding=1),
            square("conv5", 256, 28, 512, 3, padding=1),
            square("conv6", 512, 28, 512, 3, padding=1),
            square("conv7", 512, 14, 512, 3, padding=1),
        ),
        "VGG-11: 3 x 3 on large maps",
    ),
    "mobilenet": Network(
        32,
        (
            square("stem", 3, 224, 32, 3, stride=2, padding=1),
            square("depthwise 112", 32, 112, 32, 3, padding=1, groups=32),
            square("project 112", 32, 112, 16, 1),
            square("expand 56", 24, 56, 144, 1),
            square("depthwise 56", 144, 56, 144, 3, padding=1, groups=144),
            square("depthwise 28 down", 192, 28, 192, 3, stride=2, padding=1, groups=192),
            square("depthwise 14", 384, 14, 384, 3, padding=1, groups=384),
            square("project 14", 384, 14, 64, 1),
            square("head", 320, 7, 1280, 1),
        ),
        "MobileNetV2: depthwise and 1 x 1",
    ),
    "others": Network(
        16,
        (
            square("dilated", 128, 28, 128, 3, padding=2, dilation=2),
            square("grouped", 96, 27, 256, 5, padding=2, groups=2),
            square("32 groups", 128, 56, 128, 3, padding=1, groups=32),
            square("odd", 37, 29, 53, 3, padding=1),
            square("prime size", 64, 31, 64, 3),
            Layer("1 x 7", 128, 17, 17, 128, 1, 7, padding=(0, 3)),
            Layer("uneven", 20, 45, 61, 30, 4, 3, stride=(2, 1), padding=(1, 2)),
            square("patches", 3, 224, 192, 16, stride=16),
        ),
        "dilated, grouped, odd channels and sizes, a vision transformer's patches",
    ),
}
