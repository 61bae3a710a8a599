"""The AlexNet family and the lecture's network, built from our layers or, for comparison, from torch.nn's.

    alexnet         torchvision's AlexNet ("one weird trick", arXiv 1404.5997): its state_dict loads unchanged
    alexnet_2012    the paper's (Krizhevsky, Sutskever, Hinton, NIPS 2012): two towers, local response norm
    lecture_net     conv -> sigmoid -> pool, small enough for 28 x 28 images

`layers="torch"` puts torch.nn's layers in the same places. Both kinds draw their initial weights alike, so the same
seed gives the same network, and a difference in what it learns is a difference between the layers.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from . import nn as manual_nn

LAYERS = {"manual": manual_nn, "torch": nn}
ACTIVATIONS = ("relu", "sigmoid", "tanh")
INITS = ("auto", "torch", "kaiming", "sigmoid-aware", "paper")


class LocalResponseNorm(nn.LocalResponseNorm):
    """torch.nn.LocalResponseNorm, without the average pooling that torch builds it on.

    output = input / (k + alpha / size * sum of input^2 over `size` neighbouring channels) ^ beta
    """

    def forward(self, input):  # [N, C, ...]
        before, after = self.size // 2, (self.size - 1) // 2
        squares = F.pad(input.square(), (0, 0) * (input.dim() - 2) + (before, after))
        window = sum(squares.narrow(1, offset, input.size(1)) for offset in range(self.size))
        return input / (self.k + self.alpha / self.size * window) ** self.beta


class ConvNet(nn.Module):
    """features -> pool to a fixed size -> classifier: the layout, and the state_dict keys, of torchvision's AlexNet."""

    def __init__(self, features, avgpool, classifier):
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = avgpool  # changes nothing at the image size the network was drawn for; lets it take others
        self.classifier = nn.Sequential(*classifier)

    def forward(self, input):  # [N, C, H, W] -> [N, num_classes]
        return self.classifier(self.avgpool(self.features(input)).flatten(1))


class Parts(NamedTuple):
    """Makes the repeating pieces of a network from one choice of layers, activation and normalisation."""

    layers: object  # torch_manual_conv.nn or torch.nn
    activation: str
    batch_norm: bool

    @classmethod
    def of(cls, layers, activation, batch_norm):
        _check_choice("layers", layers, LAYERS)
        _check_choice("activation", activation, ACTIVATIONS)
        return cls(LAYERS[layers], activation, batch_norm)

    def act(self):
        if self.activation == "sigmoid":
            return self.layers.Sigmoid()
        return nn.ReLU(inplace=True) if self.activation == "relu" else nn.Tanh()

    def conv(self, in_channels, out_channels, kernel_size, **options):
        """Convolution, batch norm when asked for (it replaces the bias), activation."""
        conv = self.layers.Conv2d(in_channels, out_channels, kernel_size, bias=not self.batch_norm, **options)
        norm = [nn.BatchNorm2d(out_channels)] if self.batch_norm else []
        return [conv, *norm, self.act()]

    def linear(self, in_features, out_features):
        """A hidden linear layer, batch norm when asked for, activation."""
        linear = nn.Linear(in_features, out_features, bias=not self.batch_norm)
        norm = [nn.BatchNorm1d(out_features)] if self.batch_norm else []
        return [linear, *norm, self.act()]

    def pool(self, kind="max"):
        """Windows of 3 x 3, 2 apart: the overlapping pools of the AlexNet paper."""
        _check_choice("pool", kind, ("max", "avg", "sum"))
        if kind == "max":
            return self.layers.MaxPool2d(kernel_size=3, stride=2)
        return self.layers.AvgPool2d(kernel_size=3, stride=2, divisor_override=1 if kind == "sum" else None)

    def lrn(self):
        """The paper's k=2, n=5, alpha=1e-4, beta=0.75; it sums the squares where torch averages them, hence 5 alpha."""
        norm = LocalResponseNorm if self.layers is manual_nn else nn.LocalResponseNorm
        return norm(size=5, alpha=5e-4, beta=0.75, k=2.0)


def alexnet(
    num_classes=1000,
    dropout=0.5,
    *,
    activation="relu",
    layers="manual",
    batch_norm=False,
    init="auto",
    width=1.0,
    hidden=None,
    in_channels=3,
):
    """torchvision's AlexNet: `alexnet().load_state_dict(torchvision_alexnet.state_dict())` gives the same logits.

    Args:
        activation: "relu", "sigmoid" or "tanh", after every layer but the last.
        layers: "manual" (ours) or "torch".
        batch_norm: normalise after every layer but the last; the state_dict's keys then differ from torchvision's.
        init: "torch" (the layers' own), "kaiming", "sigmoid-aware", "paper"; "auto" is "sigmoid-aware" for sigmoids
            without batch norm, which learn nothing from torch's initial weights, and "torch" otherwise.
        width: multiplies every number of channels; `hidden`, where given, is the width of the two hidden linear layers.
    """
    parts = Parts.of(layers, activation, batch_norm)
    c1, c2, c3, c4, c5 = (_scale(channels, width) for channels in (64, 192, 384, 256, 256))
    hidden = hidden or _scale(4096, width)
    features = [
        *parts.conv(in_channels, c1, 11, stride=4, padding=2),
        parts.pool(),
        *parts.conv(c1, c2, 5, padding=2),
        parts.pool(),
        *parts.conv(c2, c3, 3, padding=1),
        *parts.conv(c3, c4, 3, padding=1),
        *parts.conv(c4, c5, 3, padding=1),
        parts.pool(),
    ]
    classifier = [
        nn.Dropout(dropout),
        *parts.linear(c5 * 6 * 6, hidden),
        nn.Dropout(dropout),
        *parts.linear(hidden, hidden),
        nn.Linear(hidden, num_classes),
    ]
    return _initialise(ConvNet(features, parts.layers.AdaptiveAvgPool2d((6, 6)), classifier), init, parts)


def alexnet_2012(
    num_classes=1000,
    dropout=0.5,
    *,
    activation="relu",
    layers="manual",
    batch_norm=False,
    init="auto",
    width=1.0,
    hidden=None,
    in_channels=3,
):
    """The paper's AlexNet: groups=2 where its two GPUs did not talk, local response norm after conv1 and conv2.

    Arguments as in `alexnet`; `init="auto"` means the paper's initial weights ("paper") unless sigmoids need their own.
    """
    parts = Parts.of(layers, activation, batch_norm)
    c1, c2, c3, c4, c5 = (_scale(channels, width) for channels in (96, 256, 384, 384, 256))
    hidden = hidden or _scale(4096, width)
    features = [
        *parts.conv(in_channels, c1, 11, stride=4, padding=2),
        parts.lrn(),
        parts.pool(),
        *parts.conv(c1, c2, 5, padding=2, groups=2),
        parts.lrn(),
        parts.pool(),
        *parts.conv(c2, c3, 3, padding=1),
        *parts.conv(c3, c4, 3, padding=1, groups=2),
        *parts.conv(c4, c5, 3, padding=1, groups=2),
        parts.pool(),
    ]
    classifier = [
        *parts.linear(c5 * 6 * 6, hidden),
        nn.Dropout(dropout),
        *parts.linear(hidden, hidden),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_classes),
    ]
    if init == "auto" and activation != "sigmoid":
        init = "paper"
    return _initialise(ConvNet(features, parts.layers.AdaptiveAvgPool2d((6, 6)), classifier), init, parts)


def lecture_net(
    num_classes=10,
    dropout=0.0,
    *,
    activation="sigmoid",
    layers="manual",
    batch_norm=False,
    init="auto",
    width=1.0,
    hidden=None,
    in_channels=1,
    pool="max",
):
    """The lecture's chain, conv -> sigmoid -> pool, as a small AlexNet for 28 x 28 images (or larger ones).

    Arguments as in `alexnet`; `pool` is "max", "avg" or "sum", the three poolings of the lecture.
    """
    parts = Parts.of(layers, activation, batch_norm)
    c1, c2, c3, c4, c5 = (_scale(channels, width) for channels in (16, 32, 48, 48, 32))
    hidden = hidden or _scale(128, width)
    features = [
        *parts.conv(in_channels, c1, 5, padding=2),
        parts.pool(pool),
        *parts.conv(c1, c2, 5, padding=2),
        parts.pool(pool),
        *parts.conv(c2, c3, 3, padding=1),
        *parts.conv(c3, c4, 3, padding=1),
        *parts.conv(c4, c5, 3, padding=1),
        parts.pool(pool),
    ]
    classifier = [
        *parts.linear(c5 * 2 * 2, hidden),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_classes),
    ]
    return _initialise(ConvNet(features, parts.layers.AdaptiveAvgPool2d((2, 2)), classifier), init, parts)


@torch.no_grad()
def _initialise(model, init, parts):
    _check_choice("init", init, INITS)
    if init == "auto":
        init = "sigmoid-aware" if parts.activation == "sigmoid" and not parts.batch_norm else "torch"
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if init == "kaiming":
        _kaiming(weighted)
    elif init == "sigmoid-aware":
        _sigmoid_aware(weighted)
    elif init == "paper":
        _paper(weighted)
    return model


def _kaiming(weighted):
    """He et al., arXiv 1502.01852: keeps the variance of activations through ReLUs."""
    for layer in weighted:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _sigmoid_aware(weighted):
    """Xavier with gain 4, since the sigmoid's slope is at most 1/4, and biases that cancel the mean 0.5 of its outputs.

    Without the gain gradients shrink fourfold a layer; without the centring the next layer's sigmoids saturate.
    """
    for depth, layer in enumerate(weighted):
        is_last = depth == len(weighted) - 1
        nn.init.xavier_uniform_(layer.weight, gain=1.0 if is_last else 4.0)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
            if depth > 0:
                layer.bias.sub_(0.5 * layer.weight.flatten(1).sum(1))


def _paper(weighted):
    """Section 5 of the paper: N(0, 0.01); bias 1 in conv2, conv4, conv5 and the hidden linear layers, 0 elsewhere."""
    bias_one = {1, 3, 4, 5, 6}
    for depth, layer in enumerate(weighted):
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, 1.0 if depth in bias_one else 0.0)


def _scale(channels, width):
    """Even, so that it divides into the paper's two groups at any width."""
    return 2 * max(1, round(channels * width / 2))


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
