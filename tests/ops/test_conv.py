"""conv1d, conv3d and conv_transpose2d: other views of conv2d's three maps."""

import pytest
import torch
import torch.nn.functional as torch_F
from checks import check_op, saved_tensors
from comparisons import close

import torch_manual_conv.functional as F

# name: function, input shape, weight shape, output channels, arguments
CASES = {
    "conv1d-odd": ("conv1d", (2, 3, 7), (4, 3, 3), 4, dict(padding=1)),
    "conv1d-stride-over-kernel": ("conv1d", (2, 2, 11), (3, 2, 2), 3, dict(stride=3)),
    "conv1d-same-asymmetric": ("conv1d", (2, 2, 6), (3, 2, 4), 3, dict(padding="same", dilation=1)),
    "conv1d-depthwise-dilation": ("conv1d", (2, 4, 9), (8, 1, 3), 8, dict(groups=4, dilation=(2,), padding=(2,))),
    "conv1d-one-point": ("conv1d", (2, 3, 1), (2, 3, 1), 2, dict()),
    "conv3d-odd": ("conv3d", (2, 2, 3, 5, 4), (3, 2, 2, 3, 3), 3, dict(padding=1)),
    "conv3d-not-cubic": ("conv3d", (1, 2, 5, 4, 6), (2, 2, 2, 1, 3), 2, dict(stride=(2, 1, 3), padding=(1, 0, 2))),
    "conv3d-dilation-groups": ("conv3d", (1, 4, 5, 5, 5), (2, 2, 2, 2, 2), 2, dict(groups=2, dilation=(2, 1, 2))),
    "conv3d-same-asymmetric": ("conv3d", (1, 2, 4, 3, 3), (2, 2, 2, 3, 2), 2, dict(padding="same")),
    "conv3d-one-voxel": ("conv3d", (2, 3, 1, 1, 1), (2, 3, 1, 1, 1), 2, dict()),
    "transpose-upsampling": ("conv_transpose2d", (2, 3, 4, 5), (3, 2, 2, 2), 2, dict(stride=2)),
    "transpose-overlapping": ("conv_transpose2d", (2, 3, 4, 3), (3, 2, 3, 3), 2, dict(stride=2, padding=1)),
    "transpose-output-padding": (
        "conv_transpose2d",
        (1, 2, 4, 3),
        (2, 3, 3, 3),
        3,
        dict(stride=2, padding=1, output_padding=1),
    ),
    "transpose-output-padding-by-dilation": (
        "conv_transpose2d",
        (1, 2, 4, 3),
        (2, 3, 3, 2),
        3,
        dict(stride=(1, 2), dilation=(3, 2), output_padding=(2, 1)),
    ),
    "transpose-groups": ("conv_transpose2d", (2, 4, 3, 5), (4, 3, 3, 2), 6, dict(groups=2, stride=(3, 1))),
    "transpose-stride-over-kernel": ("conv_transpose2d", (1, 2, 3, 4), (2, 3, 2, 2), 3, dict(stride=3)),
    "transpose-one-pixel": ("conv_transpose2d", (2, 3, 1, 1), (3, 2, 1, 1), 2, dict()),
}


@pytest.mark.parametrize("function, input, weight, filters, arguments", CASES.values(), ids=CASES)
def test_matches_torch(function, input, weight, filters, arguments, dtype, device):
    ours, theirs = getattr(F, function), getattr(torch_F, function)
    n, *_ = input
    # torch lets a permuted weight permute conv1d's output, and the dtype decide for conv3d; ours are contiguous.
    check_op(
        lambda x, w, b: ours(x, w, b, **arguments),
        lambda x, w, b: theirs(x, w, b, **arguments),
        *(torch.randn(shape, dtype=torch.float64) for shape in (input, weight, (filters,))),
        terms=max(n * torch.Size(input[2:]).numel(), max(weight[:2]) * torch.Size(weight[2:]).numel()),
        dtype=dtype, device=device, contiguous=function in ("conv1d", "conv3d"),
    )  # fmt: skip


def test_transpose_is_the_transpose(device):
    """<conv2d(x), y> = <x, conv_transpose2d(y)>: what the name says."""
    x, w = torch.randn(2, 3, 7, 9).double().to(device), torch.randn(4, 3, 3, 3).double().to(device)
    y = torch.randn(2, 4, 4, 5).double().to(device)
    arguments = dict(stride=2, padding=1)
    left = (F.conv2d(x, w, **arguments) * y).sum()
    right = (x * F.conv_transpose2d(y, w, **arguments)).sum()
    close(left, right, "<conv2d(x), y>")


@pytest.mark.parametrize("function", ["conv1d", "conv_transpose2d"])
def test_frozen_weight_saves_no_input(function, device):
    axes = 1 if function == "conv1d" else 2
    x = torch.randn(2, 3, *[8] * axes, device=device, requires_grad=True)
    w = torch.randn(3, 3, *[3] * axes, device=device)
    assert {t.data_ptr() for t in saved_tensors(lambda: getattr(F, function)(x, w))} == {w.data_ptr()}
