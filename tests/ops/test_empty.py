"""Tensors without elements: where torch computes, ours gives the same shapes, zeros and gradients; where torch refuses,
so do we."""

import pytest
import torch
import torch.nn.functional as torch_F
from checks import traced

import torch_manual_conv as tmc
import torch_manual_conv.functional as F

# function, shapes of its operands, keyword arguments
COMPUTED = {
    # A convolution without input channels has no output channels either.
    "no-channels": ("conv2d", [(2, 0, 7, 7), (12, 0, 3, 3)], dict()),
    "no-channels-bias": ("conv2d", [(2, 0, 7, 7), (12, 0, 3, 3), (12,)], dict(padding=1, stride=2)),
    "no-channels-groups": ("conv2d", [(2, 0, 7, 7), (12, 0, 3, 3), (12,)], dict(groups=3)),
    "no-channels-same": ("conv2d", [(2, 0, 7, 7), (12, 0, 2, 3), (12,)], dict(padding="same")),
    "no-channels-no-batch-dimension": ("conv2d", [(0, 7, 7), (12, 0, 3, 3)], dict()),
    "no-channels-no-images": ("conv2d", [(0, 0, 7, 7), (12, 0, 3, 3)], dict()),
    "no-channels-no-rows": ("conv2d", [(2, 0, 0, 7), (12, 0, 3, 3)], dict(padding=2)),
    "no-channels-conv1d": ("conv1d", [(2, 0, 7), (12, 0, 3), (12,)], dict(groups=2)),
    "no-channels-conv1d-no-batch-dimension": ("conv1d", [(0, 7), (12, 0, 3)], dict()),
    "no-channels-conv3d": ("conv3d", [(2, 0, 5, 5, 5), (4, 0, 3, 3, 3), (4,)], dict(groups=2)),
    "no-images": ("conv2d", [(0, 3, 7, 7), (4, 3, 3, 3), (4,)], dict(padding="same")),
    "no-images-no-rows": ("conv2d", [(0, 3, 0, 7), (4, 3, 3, 3)], dict(padding=2)),
    "no-images-conv1d": ("conv1d", [(0, 3, 7), (4, 3, 3)], dict()),
    "no-images-conv3d": ("conv3d", [(0, 2, 5, 5, 5), (4, 2, 3, 3, 3)], dict()),
    "no-images-transpose": ("conv_transpose2d", [(0, 9, 7, 3), (9, 3, 4, 4), (3,)], dict(dilation=2, padding=(1, 2))),
    # torch asks output_padding to be smaller than stride or dilation, but not of an empty batch
    "no-images-output-padding": (
        "conv_transpose2d",
        [(0, 9, 7, 3), (9, 3, 4, 4)],
        dict(stride=2, padding=(1, 2), output_padding=(2, 5)),
    ),
    "no-images-max": ("max_pool2d", [(0, 3, 7, 7)], dict(kernel_size=2)),
    "no-images-avg": ("avg_pool2d", [(0, 3, 7, 7)], dict(kernel_size=2, ceil_mode=True)),
    "no-images-adaptive-max": ("adaptive_max_pool2d", [(0, 3, 7, 7)], dict(output_size=(2, None))),
    "no-images-adaptive-avg": ("adaptive_avg_pool2d", [(0, 3, 7, 7)], dict(output_size=2)),
    "no-channels-adaptive-max": ("adaptive_max_pool2d", [(0, 7, 7)], dict(output_size=2)),
    "no-channels-adaptive-avg": ("adaptive_avg_pool2d", [(0, 7, 7)], dict(output_size=2)),
    "no-elements-sigmoid": ("sigmoid", [(3, 0, 2)], dict()),
}
REFUSED = {
    "channels-disagree": ("conv2d", [(2, 3, 7, 7), (12, 0, 3, 3)], dict()),
    "groups-do-not-divide": ("conv2d", [(2, 0, 7, 7), (12, 0, 3, 3)], dict(groups=5)),
    "no-channels-kernel-too-large": ("conv2d", [(2, 0, 7, 7), (12, 0, 8, 3)], dict()),
    "no-channels-bias-of-others": ("conv2d", [(2, 0, 7, 7), (12, 0, 3, 3), (3,)], dict()),
    "no-filters": ("conv2d", [(2, 3, 7, 7), (0, 3, 3, 3)], dict()),
    "no-taps": ("conv2d", [(0, 3, 7, 7), (4, 3, 0, 3)], dict()),
    "no-rows": ("conv2d", [(2, 3, 0, 7), (4, 3, 3, 3)], dict(padding=2)),
    "no-positions-conv1d": ("conv1d", [(2, 3, 0), (4, 3, 3)], dict(padding=2)),
    "no-depth-conv3d": ("conv3d", [(2, 2, 0, 5, 5), (4, 2, 3, 3, 3)], dict(padding=2)),
    "no-channels-transpose": ("conv_transpose2d", [(2, 0, 7, 7), (0, 4, 3, 3)], dict()),
    "no-filters-transpose": ("conv_transpose2d", [(2, 3, 7, 7), (3, 0, 3, 3)], dict()),
    "output-padding": ("conv_transpose2d", [(1, 9, 7, 3), (9, 3, 4, 4)], dict(padding=1, output_padding=1)),
    "no-channels-max": ("max_pool2d", [(2, 0, 7, 7)], dict(kernel_size=2)),
    "no-channels-avg": ("avg_pool2d", [(2, 0, 7, 7)], dict(kernel_size=2)),
    "no-channels-adaptive-max": ("adaptive_max_pool2d", [(2, 0, 7, 7)], dict(output_size=2)),
    "no-rows-adaptive-avg": ("adaptive_avg_pool2d", [(0, 3, 0, 7)], dict(output_size=2)),
}


def call(functions, name, shapes, arguments, dtype, layout, device):
    """The result and the gradients of its sum."""
    leaves = [layout(torch.ones(shape, dtype=dtype, device=device)).requires_grad_() for shape in shapes]
    output = getattr(functions, name)(*leaves, **arguments)
    return [output, *torch.autograd.grad(output.sum(), leaves)]


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", COMPUTED.values(), ids=COMPUTED)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_what_torch_computes(case, layout, dtype, device):
    theirs = call(torch_F, *case, dtype, layout, device)
    mine = call(F, *case, dtype, layout, device)
    with traced():
        compiled = call(F, *case, dtype, layout, device)
    for a, b, c in zip(mine, compiled, theirs, strict=True):
        assert (a.shape, a.dtype) == (c.shape, c.dtype)
        assert torch.equal(a, c) and torch.equal(b, c)


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_torch_refuses(case, device):
    for functions in (torch_F, F):
        with pytest.raises((RuntimeError, IndexError)):
            call(functions, *case, torch.float32, torch.Tensor.contiguous, device)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_input_channels(device):
    x = torch.ones(2, 0, 7, 7, device=device)
    layer = tmc.nn.Conv2d(0, 12, 3, groups=3, padding_mode="circular", padding=1).to(device)
    assert layer(x).shape == torch.nn.Conv2d(0, 12, 3, padding=1)(x.cpu()).shape
    stage = tmc.nn.ConvActPool2d(0, 12, 3, activation="sigmoid").to(device)
    assert stage(x).shape == (2, 0, 5, 5)
    for pool in ("max", "avg", "sum"):  # torch's pools refuse a map without channels
        with pytest.raises(RuntimeError):
            tmc.nn.ConvActPool2d(0, 12, 3, pool=pool).to(device)(x)


def test_without_input_channels_compiled():
    convolve = torch.compile(lambda x, w: F.conv2d(x, w, padding=1), backend="aot_eager", fullgraph=True, dynamic=True)
    assert convolve(torch.ones(2, 0, 7, 7), torch.ones(3, 0, 3, 3)).shape == (2, 0, 7, 7)
    assert convolve(torch.ones(2, 4, 7, 7), torch.ones(3, 4, 3, 3)).shape == (2, 3, 7, 7)
    mapped = torch.func.vmap(F.conv2d)(torch.ones(5, 2, 0, 7, 7), torch.ones(5, 3, 0, 3, 3))
    assert mapped.shape == (5, 2, 0, 5, 5)
